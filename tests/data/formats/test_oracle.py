"""Another library's readers see the same boxes in the shared real files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from shown import things_of

from groundling.data.formats.found import Reading
from groundling.data.sources import FORMATS

Boxes = dict[str, list[tuple[str, tuple[float, ...]]]]


def ours(format: str, source: Path, **options: Any) -> Boxes:
    """Label and box by picture, as a single-precision number would be rounded."""
    found: Boxes = {}
    for name, label, numbers in things_of(FORMATS[format].read(str(source), Reading(**options))):
        found.setdefault(Path(name).stem, []).append((label, tuple(round(float(number), 3) for number in numbers)))
    return {name: sorted(boxes) for name, boxes in found.items()}


def theirs(data: Any) -> Boxes:
    return {
        Path(path).stem: sorted(
            (data.classes[number], tuple(round(float(side), 3) for side in box))
            for number, box in zip(found.class_id, found.xyxy, strict=True)
        )
        for path, _, found in data
    }


def test_supervision_reads_the_same(shared_data: Path, tmp_path: Path):
    supervision = pytest.importorskip("supervision").DetectionDataset
    folder = shared_data / "formats"

    coco = supervision.from_coco(str(folder / "coco_labelme"), str(folder / "coco_labelme/annotations.json"))
    assert ours("coco", folder / "coco_labelme") == theirs(coco)

    voc = supervision.from_pascal_voc(str(folder / "voc/JPEGImages"), str(folder / "voc/Annotations"))
    assert ours("voc", folder / "voc", one_based=True) == theirs(voc)  # it always counts from one

    for file in (folder / "labelme").glob("2011_*"):
        shutil.copy(file, tmp_path)
    labelme = supervision.from_labelme(str(tmp_path), str(tmp_path))
    assert ours("labelme", tmp_path) == theirs(labelme)
