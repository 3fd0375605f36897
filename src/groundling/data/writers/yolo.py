"""YOLO's folder: `data.yaml` names the classes, `images/` holds the pictures, and `labels/` a text file for each.

A line is the class's number, the middle of the box, and its width and height, as shares of the picture (made by hand):

    0 0.5 0.25 0.1 0.2

An empty file says that the picture shows nothing of the classes. Source: docs.ultralytics.com, "detection datasets
overview" (2025), whose `data.yaml` this is; it wants a `val` beside `train`, which is for the user to name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from groundling.data.formats.detection import FRACTIONS
from groundling.data.labelled import LabelledPicture, LabelledThing, list_labels
from groundling.data.writers.writing import Writing, name_below

IMAGES, LABELS, NAMES = "images", "labels", "data.yaml"

_DIGITS = 12  # behind the point: on a picture of 100000 pixels a millionth of a pixel


def write_yolo(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write the folder around its pictures, which lie in `images` already. Scores have no place in it."""
    labels = list_labels(pictures, writing.labels)
    numbers = {label: number for number, label in enumerate(labels)}
    for picture in pictures:
        file = (out / LABELS / name_below(picture, out / IMAGES)).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_describe(picture, numbers), encoding="utf-8", newline="\n")
    values = {"train": IMAGES, "names": dict(enumerate(labels))}
    out.mkdir(parents=True, exist_ok=True)
    (out / NAMES).write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")


def _describe(picture: LabelledPicture, numbers: Mapping[str, int]) -> str:
    return "".join(f"{numbers[thing.label]} {_write_box(thing)}\n" for thing in picture.things_in(FRACTIONS))


def _write_box(thing: LabelledThing) -> str:
    left, top, right, bottom = thing.numbers
    shares = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return " ".join(f"{share:.{_DIGITS}f}".rstrip("0").rstrip(".") for share in shares)
