"""labelme: one JSON file a picture, with the shapes that were drawn on it (made up):

    {"version": "5.7.0", "flags": {}, "imagePath": "7.jpg", "imageData": null, "imageHeight": 428, "imageWidth": 640,
     "shapes": [{"label": "horse", "points": [[146, 137], [615, 415]], "shape_type": "rectangle", "group_id": null,
                 "description": "", "flags": {}}]}

Points are x, y in pixels, corners in any order. A rectangle is a box and a point a point; a circle is its centre and a
point on it; a mask's two points are its first and its last pixel. `imageData` may hold the picture itself in base64.
Source: the files and the code of labelme 5 and 6 (2025).
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groundling.data.formats.detection import NO_THINGS, Annotated, Thing, read_point, read_shape, read_size
from groundling.data.formats.documents import choose_part, find_documents, read_json
from groundling.data.formats.found import PICTURE_ENDINGS, PictureFolder, Reading, keep_extra
from groundling.data.record import Rejected, read_numbers
from groundling.errors import RecordError

_KEPT = ("flags", "group_id", "description")  # of a shape, where they are not empty


def read_labelme(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """What is on each picture, in order of the files' paths.

    `source` is such a file, or a folder of them at any depth. Shapes that are neither rectangles nor points are only
    used with `reduce`. The picture is the file that `imagePath` names; without it, what `imageData` holds; without
    that, the one called as the JSON file.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    pictures = PictureFolder(reading.images or folder)
    files = find_documents(source, [".json"])
    for file in choose_part(files, folder, reading.part):
        yield _read_file(file, pictures, reduce=reading.reduce)


def _read_file(file: Path, pictures: PictureFolder, *, reduce: bool) -> Annotated | Rejected:
    try:
        entry = read_json(file)
        if not isinstance(entry, dict) or not isinstance(entry.get("shapes"), list):
            raise RecordError(f"{file} holds {reprlib.repr(entry)}; expected an object with a list of shapes")
        image, name = _find_image(entry, file, pictures)
        size = read_size(entry.get("imageWidth"), entry.get("imageHeight"))
    except RecordError as error:
        return Rejected(str(file), None, str(error))
    return Annotated(
        image=image,
        file=file,
        line=1,
        things=[_read_shape(shape, reduce=reduce) for shape in entry["shapes"]],
        size=size,
        image_name=name,
        id=file.stem,
        extra=keep_extra({"flags": entry["flags"]} if entry.get("flags") else {}),
    )


def _find_image(entry: Mapping[str, Any], file: Path, pictures: PictureFolder) -> tuple[bytes | Path, str]:
    named, content = entry.get("imagePath"), entry.get("imageData")
    names = [named] if isinstance(named, str) and Path(named).suffix.lower() in PICTURE_ENDINGS else []
    try:
        image = pictures.find_first(names, beside=file.parent)
        return image, image.name
    except RecordError as error:
        if content:
            return _decode(content), names[0] if names else file.name
        try:
            image = pictures.find_first([f"{file.stem}{ending}" for ending in PICTURE_ENDINGS], beside=file.parent)
            return image, image.name
        except RecordError:
            raise error if names else RecordError(f"imagePath is {reprlib.repr(named)}; expected a picture") from None


def _decode(content: object) -> bytes:
    if not isinstance(content, str):
        raise RecordError(f"imageData is {reprlib.repr(content)}; expected base64")
    try:
        return base64.b64decode(content.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise RecordError(f"imageData is no base64: {error}") from None


# ---- one shape -------------------------------------------------------------------------------------------------


def _read_shape(shape: object, *, reduce: bool) -> Thing:
    if not isinstance(shape, dict):
        return Thing("", fault=f"the shape is {reprlib.repr(shape)}; expected an object")
    label, points = shape.get("label"), shape.get("points")
    kind = shape.get("shape_type") or "polygon"  # old versions leave it out
    extra = {key: shape[key] for key in _KEPT if shape.get(key) not in (None, "", {})}
    corners = points if isinstance(points, list) else []
    text = label.strip() if isinstance(label, str) else ""
    if text in NO_THINGS:
        return Thing("", fault=f"{text!r} is the label of what is to be ignored", extra=extra)
    if kind == "point":
        return read_point(label, corners[0] if len(corners) == 1 else points, extra=extra)
    if kind == "rectangle" and (len(corners) == 2 or _is_upright(corners)):
        return read_shape(label, points, extra=extra)
    if not isinstance(kind, str) or kind not in _BOXES_AROUND:
        return Thing(text, fault=f"a shape of the kind {reprlib.repr(kind)} has no box", extra=extra)
    if not reduce:
        return Thing(text, fault=f"a {kind}, no upright rectangle; with --reduce it is the box around it", extra=extra)
    return read_shape(label, _BOXES_AROUND[kind](corners), extra=extra)


def _is_upright(corners: list[Any]) -> bool:
    """Whether these are the four corners of an upright box, as newer tools write rectangles."""
    try:
        xs, ys = zip(*(read_numbers(corner, 2, "corner") for corner in corners), strict=True)
    except (RecordError, ValueError):
        return False
    return len(corners) == 4 and len(set(xs)) <= 2 and len(set(ys)) <= 2


def _as_drawn(corners: list[Any]) -> list[Any]:
    return corners


def _around_circle(corners: list[Any]) -> list[Any]:
    """Two corners of the box around a circle, from its centre and a point on it."""
    try:
        (x, y), (end_x, end_y) = (read_numbers(corner, 2, "corner") for corner in corners)
    except (RecordError, ValueError):
        return corners[:1]  # one corner is no box, and that is said
    radius = math.hypot(end_x - x, end_y - y)
    return [(x - radius, y - radius), (x + radius, y + radius)]


def _around_mask(corners: list[Any]) -> list[Any]:
    """The two corners of a mask, whose last pixel is inside."""
    try:
        first, (right, bottom) = (read_numbers(corner, 2, "corner") for corner in corners)
    except (RecordError, ValueError):
        return corners[:1]
    return [first, (right + 1, bottom + 1)]


_BOXES_AROUND = {
    "rectangle": _as_drawn,  # turned
    "rotation": _as_drawn,
    "polygon": _as_drawn,
    "line": _as_drawn,
    "linestrip": _as_drawn,
    "circle": _around_circle,
    "mask": _around_mask,
}
