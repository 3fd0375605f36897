from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import boxes, garbage, make, read_all, reasons, save_lines, save_picture

from groundling.data.formats.detection import Annotated
from groundling.errors import RecordError

DOG = {"bbox": [262, 210, 323, 338], "label": 0, "category": "dog"}
CAT = {"bbox": [164, 263, 252, 371], "label": 1}


def line(name: str = "photo.jpg", width: int = 640, height: int = 480, **parts: object) -> dict[str, Any]:
    return {"filename": name, "height": height, "width": width, **parts}


def detection(*instances: object, **more: Any) -> dict[str, Any]:
    return line(detection={"instances": list(instances)}, **more)


def grounding(*regions: object, **more: Any) -> dict[str, Any]:
    return line(grounding={"caption": "a dog on a mat", "regions": list(regions)}, **more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_picture(tmp_path / "in/photo.jpg")
    return tmp_path / "in/train_odvg.jsonl"


def test_instances_are_asked_about_by_label(file: Path, tmp_path: Path):
    done = make("odvg", save_lines(file, detection(DOG, DOG | {"bbox": [0, 0, 9, 9]})), tmp_path)
    assert boxes(done) == {"dog": [(262, 210, 323, 338), (0, 0, 9, 9)]}


def test_the_label_map_names_numbers_and_says_what_was_looked_for(file: Path, tmp_path: Path):
    (file.parent / "coco_label_map.json").write_text('{"0": "dog", "1": "cat", "2": "apple"}')
    done = make("odvg", save_lines(file, detection(DOG, CAT)), tmp_path, negatives=1)
    assert boxes(done) == {"dog": [(262, 210, 323, 338)], "cat": [(164, 263, 252, 371)], "apple": []}


def test_without_one_label_map_a_number_is_no_label(file: Path, tmp_path: Path):
    for name in ("a_label_map.json", "b_label_map.json"):
        (file.parent / name).write_text('{"1": "cat"}')
    done = make("odvg", save_lines(file, detection(DOG, CAT)), tmp_path)
    assert list(boxes(done)) == ["dog"]
    assert "label 1 has no category, and there is not one *label_map*.json" in reasons(done)
    (file.parent / "b_label_map.json").unlink()
    (file.parent / "a_label_map.json").write_text("[1]")
    with pytest.raises(RecordError, match=r"a_label_map\.json is no label map"):
        make("odvg", file, tmp_path)


def test_a_phrase_is_a_question_with_all_its_boxes(file: Path, tmp_path: Path):
    regions = [
        {"phrase": "a dog", "bbox": [10, 20, 30, 40]},
        {"phrase": "a mat", "bbox": [[0, 0, 9, 9], [1, 1, 5, 5]]},
        {"phrase": "a dog", "bbox": [50, 60, 70, 80]},
    ]
    done = make("odvg", save_lines(file, grounding(*regions)), tmp_path)
    assert boxes(done) == {"a dog": [(10, 20, 30, 40), (50, 60, 70, 80)], "a mat": [(0, 0, 9, 9), (1, 1, 5, 5)]}
    assert done.records[0].extra == {"caption": "a dog on a mat"}
    assert done.records[0].targets[0].label is None


def test_a_line_may_hold_both(file: Path, tmp_path: Path):
    both = detection(DOG) | grounding({"phrase": "the mat", "bbox": [0, 0, 9, 9]})
    assert list(boxes(make("odvg", save_lines(file, both), tmp_path))) == ["dog", "the mat"]


def test_a_phrase_with_a_box_that_cannot_be_used_is_not_asked_about(file: Path, tmp_path: Path):
    regions = [
        {"phrase": "a dog", "bbox": [10, 20, 30, 40]},
        {"phrase": "a dog", "bbox": [10, 20, "x", 40]},
        {"phrase": "a mat", "bbox": [0, 0, 9, 9]},
        {"bbox": [0, 0, 9, 9]},
        7,
    ]
    done = make("odvg", save_lines(file, grounding(*regions)), tmp_path)
    assert list(boxes(done)) == ["a mat"]
    assert "phrase 'a dog': the box is [10, 20, 'x', 40]" in reasons(done) and len(done.rejected) == 3


@pytest.mark.parametrize(
    ("declared", "box"),
    [((480, 640), (10, 20, 30, 60)), ((640, 480), (480 - 60, 10, 480 - 20, 30))],
)
def test_phrases_and_instances_are_turned_with_their_picture(
    file: Path, tmp_path: Path, declared: tuple[int, int], box: tuple[float, ...]
):
    save_picture(file.parent / "photo.jpg", 480, 640, orientation=6)
    width, height = declared
    entry = detection(DOG | {"bbox": [10, 20, 30, 60]}, width=width, height=height)
    entry |= grounding({"phrase": "the dog", "bbox": [10, 20, 30, 60]}, width=width, height=height)
    done = make("odvg", save_lines(file, entry), tmp_path)
    assert boxes(done) == {"dog": [box], "the dog": [box]}
    assert all("doubt" not in record.extra for record in done.records)
    save_lines(file, {key: value for key, value in entry.items() if key not in ("width", "height")})
    doubtful = make("odvg", file, tmp_path / "doubtful").records
    assert all("orientation 6" in record.extra["doubt"] for record in doubtful)


def test_broken_lines_lose_nothing_else(file: Path, tmp_path: Path):
    save_lines(
        file,
        "{cut",
        detection(DOG, name="absent.jpg"),
        detection(DOG, width=10),
        line(),
        line(detection={"instances": 5}),
        grounding({"phrase": "x", "bbox": [1, 2, 3, 4]}, width=10),
        detection(7, DOG),
    )
    done = make("odvg", file, tmp_path)
    assert list(boxes(done)) == ["dog"]
    assert [bad.line for bad in done.rejected] == [1, 2, 3, 4, 5, 6, 7]


KEYS = ("filename", "width", "height", "detection", "grounding", "instances", "regions", "bbox", "label", "phrase")


@settings(max_examples=60)
@given(st.lists(garbage(KEYS, ["photo.jpg", "dog"]), max_size=3))
def test_garbage_is_rejected_and_its_neighbour_is_read(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg")
    items = read_all("odvg", save_lines(folder / "g.jsonl", *entries, detection(DOG)))
    last = items[-1]
    assert isinstance(last, Annotated) and last.things[0].numbers == (262, 210, 323, 338)


@settings(max_examples=60)
@given(garbage(KEYS, ["photo.jpg", "dog"]), st.sampled_from(["instances", "regions"]))
def test_garbage_inside_a_line_leaves_what_is_sound(tmp_path_factory: pytest.TempPathFactory, value: Any, key: str):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg")
    sound = DOG if key == "instances" else {"phrase": "sound dog", "bbox": [1, 2, 3, 4]}
    entry = detection(value, sound) if key == "instances" else grounding(value, sound)
    items = read_all("odvg", save_lines(folder / "g.jsonl", json.loads(json.dumps(entry))))
    assert items
