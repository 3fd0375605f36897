"""Label Studio's tasks with predictions, which are shown to whoever labels, to be corrected. One (made by hand):

    {"data": {"image": "images/7.jpg"}, "predictions": [{"model_version": "groundling", "score": 0.9, "result": [
        {"id": "1", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "original_width": 640,
         "original_height": 480, "image_rotation": 0, "score": 0.9, "value": {"x": 10, "y": 20, "width": 30,
         "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}}]}]}

Places are in percent of the picture. `from_name` and `to_name` are what its own templates for boxes call their parts.
Source: labelstud.io, "import pre-annotated data" (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from groundling.data.formats.detection import PERCENT
from groundling.data.labelled import LabelledPicture, LabelledThing
from groundling.data.writers.writing import Writing, name_below, write_document
from groundling.geometry.frame import Frame

_POINT_WIDTH = 0.5  # percent of the picture's width: how large a point is drawn


def write_label_studio(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write one task a picture; with `url_prefix`, a picture is named by its address, which is that and its path."""
    write_document([_describe(picture, _address(picture, out.parent, writing)) for picture in pictures], out)


def _address(picture: LabelledPicture, folder: Path, writing: Writing) -> str:
    name = name_below(picture, folder)
    return writing.url_prefix + quote(name) if writing.url_prefix else name


def _describe(picture: LabelledPicture, address: str) -> dict[str, Any]:
    things = picture.things_in(PERCENT)
    scores = [thing.score for thing in things if thing.score is not None]
    prediction = {"model_version": "groundling"} | ({"score": fmean(scores)} if scores else {})
    result = [_describe_thing(thing, str(number), picture.frame) for number, thing in enumerate(things, start=1)]
    return {"data": {"image": address}, "predictions": [prediction | {"result": result}]}


def _describe_thing(thing: LabelledThing, id: str, frame: Frame) -> dict[str, Any]:
    kind = "keypointlabels" if thing.is_point else "rectanglelabels"
    x, y, *end = thing.numbers
    sides = {"width": end[0] - x, "height": end[1] - y, "rotation": 0} if end else {"width": _POINT_WIDTH}
    return {
        "id": id,
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": frame.width,
        "original_height": frame.height,
        "image_rotation": 0,
        "value": {"x": x, "y": y, **sides, kind: [thing.label]},
    } | ({} if thing.score is None else {"score": thing.score})
