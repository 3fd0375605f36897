"""A set of two record files in which nothing is wrong: drawn pictures of four sizes, four classes, boxes everywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from groundling.data.check import Examination, examine
from groundling.data.record import scan_records
from groundling.dialect.family import FAMILIES, Budget

SIZES_WH = [(320, 240), (240, 320), (400, 300), (352, 352)]
CLASSES = {"cup": "crimson", "plate": "navy", "fork": "seagreen", "pan": "goldenrod"}
BUDGET = Budget(FAMILIES["qwen2_5_vl"], min_pixels=4 * 28**2, max_pixels=1280 * 28**2)  # enlarges none but thumbnails

Row = dict[str, Any]  # one line of a record file


def draw_set(folder: Path) -> None:
    """24 pictures for train.jsonl and 8 for test.jsonl, three things on each."""
    rng = np.random.default_rng(7)
    (folder / "images").mkdir(parents=True)
    for name, count in (("train", 24), ("test", 8)):
        rows = [row for number in range(count) for row in _draw_picture(folder, f"{name}-{number}", rng)]
        write_rows(rows, folder / f"{name}.jsonl")


def _draw_picture(folder: Path, name: str, rng: np.random.Generator) -> list[Row]:
    """A picture of soft clouds with three things on it, one in a corner of the picture; a question about each class."""
    width, height = SIZES_WH[int(rng.integers(len(SIZES_WH)))]
    picture = clouds(rng, width, height)
    pen = ImageDraw.Draw(picture)
    labels = [list(CLASSES)[int(number)] for number in rng.permutation(4)[:3]]
    rows: list[Row] = []
    for place, label in enumerate(labels):
        box = _place(place, width, height, rng)
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=CLASSES[label], outline="black")
        rows.append({"question": f"the {label}", "targets": [{"label": label, "box": box}]})
    picture.save(folder / "images" / f"{name}.jpg", quality=90)
    size = {"width": width, "height": height}
    return [{"id": f"{name}-{place}", "image": f"images/{name}.jpg"} | size | row for place, row in enumerate(rows)]


def clouds(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture with as much in it as a photograph: noise at several scales."""
    levels = np.zeros((height, width, 3))
    for side, strength in ((3, 60), (6, 40), (12, 25)):
        noise = rng.normal(size=(side, side, 3)) * strength
        coarse = [Image.fromarray(noise[:, :, band].astype(np.float32)) for band in range(3)]
        levels += np.stack([np.asarray(band.resize((width, height))) for band in coarse], axis=2)
    return Image.fromarray(np.clip(levels + 128, 0, 255).astype(np.uint8))


def _place(place: int, width: int, height: int, rng: np.random.Generator) -> list[int]:
    """Corners of a thing: the first in one of the picture's corners, the others to the left and right of the middle."""
    side_x, side_y = (int(side) for side in rng.integers(36, 72, size=2))
    if place == 0:
        left, top = [(0, 0), (width - side_x, height - side_y)][int(rng.integers(2))]
    else:
        left = int(rng.integers(30, width // 2 - 72)) if place == 1 else width // 2 + int(rng.integers(0, 40))
        top = int(rng.integers(80, height - 152))
    return [left, top, left + side_x, top + side_y]


def read_rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(rows: Sequence[Row], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def examine_set(folder: Path, *names: str) -> Examination:
    """Both files, or those named, examined together."""
    scans = [scan_records(folder / name) for name in names or ("train.jsonl", "test.jsonl")]
    return examine(
        [record for scan in scans for record in scan.records],
        rejected=[bad for scan in scans for bad in scan.rejected],
        budget=BUDGET,
    )
