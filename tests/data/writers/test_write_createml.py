from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from groundling.data.export import export
from groundling.data.record import Record


def test_boxes_are_middle_and_sides_in_pixels(records: list[Record], tmp_path: Path):
    exported = export(records, "createml", tmp_path / "set.json")
    assert (exported.written, exported.rejected) == (5, [])
    street, field = json.loads((tmp_path / "set.json").read_text())
    assert street["image"] == "photos/street.png" and field["annotations"] == []
    assert street["annotations"][0] == {"label": "cat", "coordinates": {"x": 25, "y": 40, "width": 30, "height": 40}}
    for target, written in zip(records[2].targets, street["annotations"], strict=True):
        x, y, width, height = written["coordinates"].values()
        assert (x - width / 2, y - height / 2, x + width / 2, y + height / 2) == target.box


def test_supervision_reads_what_is_written(records: list[Record], tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    file = export(records, "createml", tmp_path / "set.json").file
    found = supervision.DetectionDataset.from_createml(str(tmp_path), str(file))
    street = found.annotations[str(tmp_path / "photos/street.png")]
    np.testing.assert_allclose(street.xyxy, [target.box for target in records[2].targets])
