from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundling.data.export import export
from groundling.data.record import Record


def read(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_task_holds_percent_of_the_picture_and_how_sure_the_model_was(scored: list[Record], tmp_path: Path):
    export(scored, "label-studio", tmp_path / "tasks.json")
    (task,) = read(tmp_path / "tasks.json")
    assert task["data"] == {"image": "photos/street.png"}
    (prediction,) = task["predictions"]
    assert prediction["score"] == 0.5  # of 0.75 and 0.25
    dog = prediction["result"][1]
    assert dog == {
        "id": "2",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": {"x": 50, "y": 50, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]},
        "score": 0.25,
    }


def test_reading_undoes_writing(records: list[Record], tmp_path: Path):
    export(records, "label-studio", tmp_path / "tasks.json")
    street, field = read(tmp_path / "tasks.json")
    assert field["predictions"][0]["result"] == [] and "score" not in street["predictions"][0]
    boxes = []
    for region in street["predictions"][0]["result"]:
        x, y, width, height = (region["value"][key] / 100 for key in ("x", "y", "width", "height"))
        sides = np.array([region["original_width"], region["original_height"]] * 2)
        boxes.append(np.array([x, y, x + width, y + height]) * sides)
    np.testing.assert_allclose(boxes, [target.box for target in records[2].targets], atol=1e-9)


def test_points_are_key_points(pointed: list[Record], tmp_path: Path):
    exported = export(pointed, "label-studio", tmp_path / "tasks.json")
    assert exported.rejected == []
    dog = read(tmp_path / "tasks.json")[0]["predictions"][0]["result"][1]
    assert dog["type"] == "keypointlabels"
    assert dog["value"] == {"x": 75, "y": 75, "width": 0.5, "keypointlabels": ["dog"]}


@pytest.mark.parametrize("prefix", ["/data/local-files/?d=set/", "https://pictures.example/"])
def test_pictures_are_named_as_they_are_served(scored: list[Record], street: Path, tmp_path: Path, prefix: str):
    spaced = street.rename(street.with_name("a street.png"))
    moved = [Record(each.question, spaced, each.targets) for each in scored]
    export(moved, "label-studio", tmp_path / "tasks.json", url_prefix=prefix)
    assert read(tmp_path / "tasks.json")[0]["data"]["image"] == f"{prefix}photos/a%20street.png"
