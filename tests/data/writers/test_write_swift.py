from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groundling.data.export import export
from groundling.data.record import Record, Target


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def put_in(line: dict[str, Any]) -> str:
    """The answer with what stands in the place of its marks, boxes as in JSON, as ms-swift puts it in."""
    text = line["messages"][1]["content"]
    for label in line["objects"]["ref"]:
        text = text.replace("<ref-object>", label, 1)
    for box in line["objects"]["bbox"]:
        text = text.replace("<bbox>", str(box), 1)
    assert "<ref-object>" not in text and "<bbox>" not in text
    return text


def test_boxes_are_in_pixels_of_the_picture_behind_marks(records: list[Record], tmp_path: Path):
    exported = export(records, "swift", tmp_path / "swift.jsonl")
    assert (exported.written, exported.rejected) == (5, [])
    cats, dog, _, bird, _ = read(tmp_path / "swift.jsonl")
    assert cats == {
        "id": "1",
        "messages": [
            {"role": "user", "content": "<image>cat"},
            {"role": "assistant", "content": "<ref-object><bbox><ref-object><bbox>"},
        ],
        "images": ["photos/street.png"],
        "objects": {
            "ref": ["cat", "cat"],
            "bbox": [[10, 20, 40, 60], [100.5, 200, 164.25, 248]],
            "bbox_type": "real",
        },
    }
    assert dog["messages"][1]["content"] == "<bbox>" and dog["objects"]["ref"] == []
    assert bird["messages"][1]["content"] == "[]" and "objects" not in bird


@pytest.mark.parametrize("label", ["cat", 'the "best" cat', "back\\slash", "\u732b"])
def test_in_a_familys_json_the_text_is_right_once_the_marks_are_replaced(street: Path, tmp_path: Path, label: str):
    targets = (Target(box=(10, 20, 40, 60), label=label), Target(point=(480, 360)))
    export([Record("all", street, targets)], "swift", tmp_path / "swift.jsonl", family="qwen2_5_vl")
    text = put_in(read(tmp_path / "swift.jsonl")[0])
    assert json.loads(text.removeprefix("```json").removesuffix("```")) == [
        {"bbox_2d": [10, 20, 40, 60], "label": label},
        {"point_2d": [480, 360]},
    ]


def test_where_one_thing_has_a_label_all_get_one_for_it_holds_until_the_next(street: Path, tmp_path: Path):
    targets = (Target(box=(10, 20, 40, 60), label="cat"), Target(point=(480, 360)))
    export([Record("all", street, targets)], "swift", tmp_path / "swift.jsonl")
    (line,) = read(tmp_path / "swift.jsonl")
    assert put_in(line) == "cat[10, 20, 40, 60][480, 360]"
    assert line["objects"]["ref"] == ["cat", ""]


def test_texts_that_hold_marks_of_their_own_are_set_aside(records: list[Record], street: Path, tmp_path: Path):
    strange = [
        Record("where is <image>?", street),
        Record("cat", street, (Target(box=(1, 2, 3, 4), label="<bbox>"),)),
        Record("what?", street, answer="a <ref-object>"),
    ]
    exported = export([*records, *strange], "swift", tmp_path / "swift.jsonl")
    assert exported.written == 5
    assert [bad.reason.split()[5].rstrip(",") for bad in exported.rejected] == ["<image>", "<bbox>", "<ref-object>"]


def test_general_texts_stay_texts(records: list[Record], tmp_path: Path):
    general = replace(records[0], targets=(), answer="Two cats.")
    export([general, Record("Hello?", None, answer="Hello.")], "swift", tmp_path / "swift.jsonl")
    pictured, plain = read(tmp_path / "swift.jsonl")
    assert pictured["messages"][1]["content"] == "Two cats." and "objects" not in pictured
    assert plain["messages"][0]["content"] == "Hello?" and "images" not in plain
