from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from groundling.data.export import export
from groundling.data.record import Record


def test_a_picture_has_a_file_beside_it(records: list[Record], street: Path, tmp_path: Path):
    exported = export(records, "labelme", tmp_path / "set")
    assert (exported.written, exported.rejected) == (5, [])
    names = ["field.jpg", "field.json", "street.json", "street.png"]
    assert sorted(path.name for path in exported.file.iterdir()) == names
    value = json.loads((tmp_path / "set/street.json").read_text())
    assert (value["imagePath"], value["imageWidth"], value["imageHeight"]) == ("street.png", 640, 480)
    assert [shape["label"] for shape in value["shapes"]] == ["cat", "cat", "dog"]
    assert {shape["shape_type"] for shape in value["shapes"]} == {"rectangle"}
    boxes = [(*start, *end) for start, end in (shape["points"] for shape in value["shapes"])]
    assert boxes == [target.box for target in records[2].targets]


def test_points_are_points(pointed: list[Record], tmp_path: Path):
    export(pointed, "labelme", tmp_path / "set")
    shape = json.loads((tmp_path / "set/street.json").read_text())["shapes"][1]
    assert (shape["label"], shape["points"], shape["shape_type"]) == ("dog", [[480, 360]], "point")


def test_supervision_reads_what_is_written(records: list[Record], tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    folder = str(export(records, "labelme", tmp_path / "set").file)
    found = supervision.DetectionDataset.from_labelme(folder, folder)
    street = next(each for path, each in found.annotations.items() if path.endswith("street.png"))
    np.testing.assert_allclose(street.xyxy, [target.box for target in records[2].targets])
