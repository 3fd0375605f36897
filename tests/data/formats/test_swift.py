from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import boxes, garbage, make, read_all, reasons, save_lines, save_picture

from groundling.data.formats.found import Found
from groundling.data.record import Target
from groundling.errors import SettingsError


def line(*texts: str, objects: object = None, **more: object) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    found = {} if objects is None else {"objects": objects}
    return {"messages": messages, "images": ["photo.jpg"], **found, **more}


def objects(*boxes: object, ref: object = (), **more: object) -> dict[str, object]:
    return {"ref": list(ref) if isinstance(ref, tuple) else ref, "bbox": list(boxes), **more}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_picture(tmp_path / "in/photo.jpg", 640, 428)
    return tmp_path / "in/train.jsonl"


def test_objects_fill_the_text_in_order_and_need_no_frame(file: Path, tmp_path: Path):
    save_lines(
        file,
        line(
            "<image>Describe the image.",
            "<ref-object><bbox> and <ref-object><bbox><bbox> on the beach",
            "Find the <ref-object>.",
            "<bbox>",
            objects=objects([1, 2, 3.5, 4], [5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 640, 428], ref=("dog", "men", "sea")),
        ),
    )
    first, second = make("swift", file, tmp_path).records
    assert first.question == "Describe the image." and second.question == "Find the sea."
    assert first.targets == (
        Target(box=(1, 2, 3.5, 4), label="dog"),
        Target(box=(5, 6, 7, 8), label="men"),
        Target(box=(9, 10, 11, 12), label="men"),
    )
    assert second.targets == (Target(box=(0, 0, 640, 428)),)
    assert first.extra == {}


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (None, [146, 137, 615, 415]),
        ("real", [146, 137, 615, 415]),
        ("norm1000", [228.125, 320.0935, 960.9375, 969.6262]),
        ("norm1", [0.228125, 0.3200935, 0.9609375, 0.9696262]),
    ],
)
def test_the_kind_of_box_says_what_its_numbers_count(
    file: Path, tmp_path: Path, kind: str | None, numbers: list[float]
):
    given_kind = {} if kind is None else {"bbox_type": kind}
    save_lines(file, line("<image>the horse", "<bbox>", objects=objects(numbers, **given_kind)))
    (record,) = make("swift", file, tmp_path).records
    assert record.targets[0].box == pytest.approx((146, 137, 615, 415), abs=1e-3)


def test_two_numbers_are_a_point(file: Path, tmp_path: Path):
    save_lines(file, line("<image>Open it", "Action: click(start_box='<bbox>')", objects=objects([615, 226])))
    (record,) = make("swift", file, tmp_path).records
    assert record.targets == (Target(point=(615, 226)),)


def test_marks_in_json_take_their_labels_from_their_keys(file: Path, tmp_path: Path):
    rows = ",\n\t".join(f'{{"{key}": <bbox>, "label": "<ref-object>"}}' for key in ("bbox_2d", "point_2d"))
    answer = f"```json\n[\n\t{rows}\n]\n```"
    found = objects([1.25, 2, 30, 40], [5, 6], ref=('a \\"big\\" dog', "nose"))
    save_lines(file, line("<image>all", answer, objects=found))
    (record,) = make("swift", file, tmp_path).records
    assert record.targets == (
        Target(box=(1.25, 2, 30, 40), label='a "big" dog'),
        Target(point=(5, 6), label="nose"),
    )


def test_text_without_objects_is_read_in_the_frame_declared(file: Path, tmp_path: Path):
    tokens = "<|object_ref_start|>horse<|object_ref_end|><|box_start|>(228,320),(961,970)<|box_end|>"
    save_lines(file, line("<image>it", tokens), line("<image>exact", "<bbox>", objects=objects([1, 2, 3, 4])))
    done = make("swift", file, tmp_path, frame="thousandths")
    assert done.records[0].targets[0].box == pytest.approx((146, 137, 615, 415), abs=0.5)
    assert boxes(done)["exact"] == [(1, 2, 3, 4)]
    with pytest.raises(SettingsError, match="swift does not say what its numbers count, and its 1 boxes do not prove"):
        make("swift", file, tmp_path)


def test_query_and_response_with_what_was_said_before(file: Path, tmp_path: Path):
    entry = {
        "query": "the <ref-object>",
        "response": "<bbox>",
        "history": [["<image>the dog", "<bbox>"]],
        "images": ["photo.jpg"],
        "objects": objects([1, 2, 3, 4], [5, 6, 7, 8], ref=("cat",)),
    }
    assert boxes(make("swift", save_lines(file, entry), tmp_path)) == {
        "the dog": [(1, 2, 3, 4)],
        "the cat": [(5, 6, 7, 8)],
    }


def test_objects_that_do_not_fit_the_text_are_set_aside(file: Path, tmp_path: Path):
    box = [1, 2, 3, 4]
    bad = {
        "more <bbox> in the text": line("<image>a", "<bbox><bbox>", objects=objects(box)),
        "more <ref-object> in the text": line("<image>the <ref-object>", "<bbox>", objects=objects(box)),
        "1 'bbox' in 'objects' that no <bbox>": line("<image>a", "<bbox>", objects=objects(box, box)),
        "a question with a <bbox>": line("<image>what is in <bbox>?", "a dog", objects=objects(box)),
        "expected real, norm1, norm1000": line("<image>a", "<bbox>", objects=objects(box, bbox_type="norm")),
        "the image_id is [1]; expected 0 for each": line("<image>a", "<bbox>", objects=objects(box, image_id=[1])),
        "the bbox_type is ['real']": line("<image>a", "<bbox>", objects=objects(box, bbox_type=["real"])),
        "the image_id is 3": line("<image>a", "<bbox>", objects=objects(box, image_id=3)),
        "expected 4 finite numbers": line("<image>a", "<bbox>", objects=objects([1, 2, 3])),
        "expected lists of texts and boxes": line("<image>a", "<bbox>", objects=objects(box, ref="dog")),
        "cannot be read once its objects are filled in": line(
            "<image>a", '{"bbox_2d": <bbox>, "label": "<ref-object>}', objects=objects(box, ref=("dog",))
        ),
        "names a place, and there is no picture": line("a", "<bbox>", objects=objects(box), images=[]),
        "expected messages, or query and response": {"query": "a", "images": ["photo.jpg"]},
    }
    done = make("swift", save_lines(file, *bad.values(), line("<image>b", "<bbox>", objects=objects(box))), tmp_path)
    assert [record.question for record in done.records] == ["b"]
    for number, words in enumerate(bad, start=1):
        assert words in next(each.reason for each in done.rejected if each.line == number)


def test_pixels_of_a_turned_picture_leave_a_doubt(file: Path, tmp_path: Path):
    save_picture(file.parent / "photo.jpg", 428, 640, orientation=6)
    done = make("swift", save_lines(file, line("<image>a", "<bbox>", objects=objects([1, 2, 3, 4]))), tmp_path)
    assert boxes(done) == {"a": [(1, 2, 3, 4)]} and "orientation 6" in done.records[0].extra["doubt"]


def test_absolute_paths_of_another_machine_are_found_by_name(file: Path, tmp_path: Path):
    entry = line("<image>a", "<bbox>", objects=objects([1, 2, 3, 4]), images=["/mnt/data/photo.jpg"])
    assert len(make("swift", save_lines(file, entry), tmp_path).records) == 1
    moved = save_lines(tmp_path / "lines/train.jsonl", entry)
    assert "no picture" in reasons(make("swift", moved, tmp_path / "b", frame="original"))
    assert len(make("swift", moved, tmp_path / "c", images=file.parent).records) == 1


KEYS = ("messages", "role", "content", "images", "objects", "ref", "bbox", "bbox_type", "query", "response", "history")
WORDS = ("photo.jpg", "user", "assistant", "<bbox>", "<ref-object>", "norm1")


@settings(max_examples=60)
@given(st.lists(garbage(KEYS, WORDS), max_size=3), garbage(KEYS, WORDS))
def test_garbage_is_rejected_and_its_neighbour_is_read(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], inner: Any
):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg")
    sound = line("<image>it", "<bbox>", objects=objects([10, 20, 30, 40]))
    file = save_lines(folder / "g.jsonl", *entries, line("<image>it", "<ref-object><bbox>", objects=inner), sound)
    last = read_all("swift", file)[-1]
    assert isinstance(last, Found) and last.targets[0].box == (10, 20, 30, 40)
