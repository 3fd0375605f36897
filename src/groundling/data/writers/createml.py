"""CreateML's JSON list, one entry a picture; `x` and `y` are the middle of a box, in pixels (made by hand):

    [{"image": "images/7.jpg", "annotations": [
        {"label": "cat", "coordinates": {"x": 25, "y": 40, "width": 30, "height": 40}}]}]

Source: developer.apple.com, "building an object detector data source" (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundling.data.labelled import LabelledPicture, LabelledThing, width_and_height
from groundling.data.writers.writing import Writing, name_below, write_document


def write_createml(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write one file. Scores have no place in it."""
    entries = [
        {"image": name_below(picture, out.parent), "annotations": [_describe(thing) for thing in picture.things]}
        for picture in pictures
    ]
    write_document(entries, out)


def _describe(thing: LabelledThing) -> dict[str, Any]:
    left, top, right, bottom = thing.numbers
    width, height = width_and_height(thing.numbers)
    middle = {"x": (left + right) / 2, "y": (top + bottom) / 2}
    return {"label": thing.label, "coordinates": middle | {"width": width, "height": height}}
