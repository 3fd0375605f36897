from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cameras import STORING, as_stored, exif
from PIL import Image

from groundling.data.convert import convert
from groundling.data.export import FORMATS, export
from groundling.data.record import Record, Target, read_records
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, read_frame


@pytest.fixture
def horse(tmp_path: Path) -> Path:
    path = tmp_path / "pictures/horse.png"
    path.parent.mkdir()
    Image.new("RGB", (640, 428)).save(path)
    return path


def record(image: Path | None, *boxes: tuple[float, float, float, float], **changes: Any) -> Record:
    targets = tuple(Target(box=box) for box in boxes)
    return replace(Record("the horse", image, targets, id="7"), **changes)


BOX = (146.0, 137.0, 615.0, 415.0)


def test_a_line_of_the_tutorial_is_written_as_its_own_script_does(horse: Path, tmp_path: Path):
    exported = export([record(horse, BOX)], "tutorial", tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "image": ["pictures/horse.png"],
        "query": "the horse",
        "response": '{"bbox_2d": [147, 134, 619, 407]}',  # the vendor's own numbers for this box
    }
    assert (exported.written, exported.rejected) == (1, [])


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        ("qwen2_vl", "<|box_start|>(228,320),(961,970)<|box_end|>"),  # the vendor's own numbers, as in the notebook
        ("qwen2_5_vl", '```json\n[\n\t{"bbox_2d": [147, 134, 619, 407]}\n]\n```'),
        ("qwen3_vl", '```json\n[\n\t{"bbox_2d": [228, 320, 961, 970]}\n]\n```'),
    ],
)
def test_a_conversation_holds_boxes_as_its_family_writes_them(horse: Path, tmp_path: Path, family: str, answer: str):
    export([record(horse, BOX)], "qwen-chat", tmp_path / "out.jsonl", family=family, max_tokens=1280)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "id": "7",
        "image": "pictures/horse.png",
        "conversations": [{"from": "human", "value": "<image>\nthe horse"}, {"from": "gpt", "value": answer}],
    }


def test_negatives_points_labels_and_general_text_come_back(horse: Path, tmp_path: Path):
    records = [
        record(horse, id="1"),
        record(horse, id="2", targets=(Target(box=BOX, label='the "horse"'), Target(point=(320, 214)))),
        record(horse, id="3", answer="A brown horse."),
        record(None, id="4", answer="Hello."),
    ]
    out = tmp_path / "chat.json"
    export(records, "qwen-chat", out, family="qwen2_5_vl", max_tokens=1280)
    assert [entry["id"] for entry in json.loads(out.read_text())] == ["1", "2", "3", "4"]
    again = convert("qwen-chat", out, tmp_path / "again/r.jsonl", frame="resized:1003520").records
    assert [each.id for each in again] == ["1", "2", "3", "4"]
    assert again[0].is_negative and again[3].image is None
    assert [each.answer for each in again] == [None, None, "A brown horse.", "Hello."]
    box, point = again[1].targets
    assert box.box == pytest.approx(BOX, abs=0.6) and box.label == 'the "horse"'
    assert point.point == pytest.approx((320, 214), abs=0.6)


@pytest.mark.parametrize(
    ("format", "options", "frame"),
    [
        ("tutorial", {}, None),
        ("qwen-chat", {"family": "qwen2_5_vl", "max_tokens": 320}, f"resized:{320 * 28**2}"),
        ("qwen-chat", {"family": "qwen3_vl"}, "thousandths"),
        ("qwen-chat", {"family": "qwen2_vl"}, "thousandths"),
    ],
)
def test_reading_undoes_writing_on_real_pictures(
    tmp_path: Path, shared_data: Path, format: str, options: dict[str, Any], frame: str | None
):
    first = convert("textvqa", shared_data / "textvqa_like", tmp_path / "first/r.jsonl", limit=40).records
    exported = export(first, format, tmp_path / "there/t.jsonl", **options)
    assert (exported.written, exported.rejected) == (40, [])
    again = convert(format, exported.file, tmp_path / "again/r.jsonl", frame=frame)
    assert again.rejected == []
    for before, after in zip(first, again.records, strict=True):
        assert after.question == before.question
        assert before.image is not None and after.image is not None
        assert after.image.read_bytes() == before.image.read_bytes()
        assert before.width and before.height
        unit = max(before.width, before.height) / 400  # one unit of the coarsest text frame above
        assert after.targets[0].box == pytest.approx(before.targets[0].box, abs=unit)
    twice = export(again.records, format, tmp_path / "twice/t.jsonl", **options)
    texts = [[json.loads(line) for line in file.read_text().splitlines()] for file in (exported.file, twice.file)]
    answers = [[entry.get("response", entry.get("conversations")) for entry in entries] for entries in texts]
    assert answers[0] == answers[1]


def test_records_that_the_tutorials_format_cannot_hold_are_set_aside(horse: Path, tmp_path: Path):
    (horse.parent / "cut.png").write_bytes(horse.read_bytes()[:20])
    records = [
        record(horse),
        record(horse, BOX, BOX),
        record(horse, targets=(Target(point=(1, 2)),)),
        record(None, answer="Hello."),
        record(horse.parent / "cut.png", BOX, file=tmp_path / "r.jsonl", line=5),
        record(horse.parent / "absent.png", BOX),
        record(horse, BOX),
    ]
    exported = export(records, "tutorial", tmp_path / "out.jsonl")
    assert exported.written == 1
    listed = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text().splitlines()]
    assert len(listed) == 6
    assert "one box on one picture a line" in listed[0]["reason"]
    assert (listed[4]["file"], listed[4]["line"]) == (str(tmp_path / "r.jsonl"), 5)
    assert "absent.png" in listed[5]["reason"]


def test_records_that_check_refuses_are_not_written(horse: Path, tmp_path: Path):
    outside, sized = record(horse, (5000, 5000, 6000, 6000)), replace(record(horse, BOX), width=100, height=100)

    exported = export([outside, sized, record(horse, BOX)], "tutorial", tmp_path / "out.jsonl")

    assert exported.written == 1
    reasons = [bad.reason for bad in exported.rejected]
    assert "5000" in reasons[0] and "100x100" in reasons[1]


def test_a_file_that_is_read_is_not_overwritten(horse: Path, tmp_path: Path):
    source = record(horse, BOX, file=tmp_path / "r.jsonl", line=1)
    with pytest.raises(SettingsError, match="would be overwritten while it is read"):
        export([source], "tutorial", tmp_path / "r.jsonl")


def test_pictures_elsewhere_are_copied_beside_the_file(horse: Path, tmp_path: Path):
    export([record(horse, BOX)], "tutorial", tmp_path / "out/t.jsonl")
    (name,) = json.loads((tmp_path / "out/t.jsonl").read_text())["image"]
    assert name == "images/horse.png"
    assert (tmp_path / "out" / name).read_bytes() == horse.read_bytes()


def test_options_that_do_not_fit_are_refused_with_the_cure(horse: Path, tmp_path: Path):
    for words, format, options in [
        ("unknown format 'kitti'; groundling writes tutorial, qwen-chat", "kitti", {}),
        ("tutorial takes no --family or --max-tokens", "tutorial", {"family": "qwen2_5_vl", "max_tokens": 9}),
        ("qwen-chat needs --family", "qwen-chat", {}),
        ("--max-tokens", "qwen-chat", {"family": "qwen2_5_vl"}),
        ("unknown model family", "qwen-chat", {"family": "qwen9"}),
        ("unknown model family", "swift", {"family": "qwen9"}),
        ("swift takes no --max-tokens", "swift", {"max_tokens": 1280}),
        ("coco takes no --family", "coco", {"family": "qwen2_5_vl"}),
        ("yolo takes no --one-based", "yolo", {"one_based": True}),
        ("coco takes no --url-prefix", "coco", {"url_prefix": "http://a/"}),
        ("nothing is labelled 'hors'; the closest labels are the horse", "coco", {"labels": ["hors"]}),
        ("qwen-chat takes no --labels", "qwen-chat", {"labels": ["horse"], "family": "qwen3_vl"}),
    ]:
        with pytest.raises(SettingsError, match=words):
            export([record(horse, BOX)], format, tmp_path / "out.jsonl", **options)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_exported_can_be_read_from_a_record_file(horse: Path, tmp_path: Path):
    source = tmp_path / "tutorial.jsonl"
    export([record(horse, BOX)], "tutorial", source)
    convert("tutorial", source, tmp_path / "r.jsonl")
    export(read_records(tmp_path / "r.jsonl"), "tutorial", tmp_path / "again.jsonl")
    first, again = (json.loads(file.read_text()) for file in (source, tmp_path / "again.jsonl"))
    assert first["response"] == again["response"]


# ---- labelled pictures, whatever the format --------------------------------------------------------------------------


def test_general_texts_and_points_are_set_aside_where_a_format_has_no_place_for_them(horse: Path, tmp_path: Path):
    other = horse.with_name("other.png")
    Image.new("RGB", (64, 64)).save(other)
    records = [
        record(horse, BOX, id="1"),
        record(horse, answer="A brown horse.", id="2"),
        record(None, answer="Hello.", id="3"),
        record(other, (1, 2, 30, 40), id="4"),
        record(other, targets=(Target(point=(9, 9)),), id="5"),
    ]
    exported = export(records, "coco", tmp_path / "coco.json")
    reasons = {bad.file: bad.reason for bad in exported.rejected}
    assert exported.written == 1 and list(reasons) == ["2", "3", "4", "5"]
    assert "general instruction" in reasons["2"] and "general instruction" in reasons["3"]
    assert "on which the things of record '5' would be missing" in reasons["4"]
    assert "a target is a point" in reasons["5"]


def test_a_picture_with_a_fault_of_one_record_is_left_out_whole_and_the_others_stay(horse: Path, tmp_path: Path):
    other = horse.with_name("other.png")
    Image.new("RGB", (64, 64)).save(other)
    outside = record(horse, (5000, 5000, 6000, 6000), file=tmp_path / "r.jsonl", line=2)
    exported = export([record(horse, BOX), outside, record(other)], "yolo", tmp_path / "set")
    assert [path.name for path in (tmp_path / "set/images").iterdir()] == ["other.png"]
    assert [path.name for path in (tmp_path / "set/labels").iterdir()] == ["other.txt"]
    listed = [json.loads(line)["reason"] for line in (tmp_path / "set.rejected.jsonl").read_text().splitlines()]
    assert f"things of {tmp_path / 'r.jsonl'}:2 would be missing" in listed[0] and "5000" in listed[1]
    assert exported.written == 1


def test_one_picture_in_two_files_is_one_picture(horse: Path, tmp_path: Path):
    twin = tmp_path / "copies/horse.png"
    twin.parent.mkdir()
    twin.write_bytes(horse.read_bytes())
    other = (1.0, 2.0, 30.0, 40.0)
    export([record(horse, BOX), record(twin, other)], "coco", tmp_path / "out/coco.json")
    written = json.loads((tmp_path / "out/coco.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["images/horse.png"]
    assert len(written["annotations"]) == 2


@pytest.mark.parametrize(
    ("format", "orientation"),
    [
        *((format, 6) for format in sorted(FORMATS) if format != "coco-results"),  # which writes no pictures
        *(("coco", orientation) for orientation in sorted(STORING.keys() - {1, 6})),
    ],
)
def test_a_turned_picture_is_written_upright_and_its_boxes_with_it(tmp_path: Path, format: str, orientation: int):
    """A red corner, marked by its box, is under the same numbers for a tool that does not know of orientations."""
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste("red", (0, 0, 16, 8))
    image = tmp_path / "photos/corner.jpg"
    image.parent.mkdir()
    stored = as_stored(upright, orientation)
    stored.save(image, exif=exif(orientation), quality=95, subsampling=0)
    options: dict[str, Any] = {"qwen-chat": {"family": "qwen3_vl"}}.get(format, {})
    export([record(image, (0, 0, 16, 8))], format, tmp_path / "out" / "set.json", **options)
    (written,) = [path for path in (tmp_path / "out").rglob("*.jpg")]
    with Image.open(written) as raw:  # as Pillow and most trainers open it
        assert raw.size == (64, 32) and not raw.getexif()
        red = [(x, y) for x in range(64) for y in range(32) if raw.convert("RGB").getpixel((x, y))[1] < 128]  # type: ignore[index]
    assert (min(red), max(red)) == ((0, 0), (15, 7))
    assert read_frame(image) == Frame(64, 32)  # the source is as it was


@pytest.mark.parametrize("format", ["coco", "yolo", "voc", "swift"])
def test_pictures_that_are_not_turned_are_copied_to_the_byte(horse: Path, tmp_path: Path, format: str):
    export([record(horse, BOX)], format, tmp_path / "out/set")
    (written,) = (tmp_path / "out").rglob("*.png")
    assert written.read_bytes() == horse.read_bytes()


def test_the_awkward_pictures_lie_upright_where_a_tool_without_orientations_sees_them(
    tmp_path: Path, shared_data: Path
):
    records = [record(path) for path in (shared_data / "awkward").iterdir()]
    exported = export(records, "coco", tmp_path / "coco.json")
    written = json.loads(exported.file.read_text())
    assert len(written["images"]) == exported.written > 40
    for image in written["images"]:
        path = tmp_path / image["file_name"]
        with Image.open(path) as raw:
            assert raw.size == (image["width"], image["height"]) == open_image(path).size


def test_nothing_that_is_read_is_written_over(horse: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match="would be overwritten while it is read"):
        export([record(horse, BOX)], "coco", horse)
    assert read_frame(horse) == Frame(640, 428)
