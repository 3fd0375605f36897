"""LabelMe's folder: a JSON file beside each picture. One shape of it (made by hand):

    {"label": "cat", "points": [[10, 20], [40, 60]], "shape_type": "rectangle", "group_id": null, "flags": {}}

Points count pixels from 0. Source: the examples in wkentaro/labelme (version 5, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundling.data.labelled import LabelledPicture, LabelledThing
from groundling.data.writers.writing import Writing, name_below, write_document

_VERSION = "5.0.0"  # of labelme, whose keys these are


def write_labelme(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write a file for each picture of the folder, in which the pictures lie already. Scores have no place in it."""
    for picture in pictures:
        name = name_below(picture, out)
        write_document(_describe(picture, Path(name).name), (out / name).with_suffix(".json"))


def _describe(picture: LabelledPicture, name: str) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": [_describe_thing(thing) for thing in picture.things],
        "imagePath": name,
        "imageData": None,
        "imageHeight": picture.frame.height,
        "imageWidth": picture.frame.width,
    }


def _describe_thing(thing: LabelledThing) -> dict[str, Any]:
    return {
        "label": thing.label,
        "points": [list(thing.numbers[start : start + 2]) for start in range(0, len(thing.numbers), 2)],
        "group_id": None,
        "shape_type": "point" if thing.is_point else "rectangle",
        "flags": {},
    }
