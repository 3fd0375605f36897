"""CVAT for images 1.1: XML of a task, or of a project with subsets. An example (shortened from its documentation):

    <annotations><version>1.1</version>
      <meta><task><labels><label><name>plate</name><type>rectangle</type></label></labels></task></meta>
      <image id="0" name="filename000.jpg" width="1600" height="1200">
        <box label="plate" xtl="797.33" ytl="870.92" xbr="965.52" ybr="928.94" occluded="0" z_order="4"></box>
      </image></annotations>

Numbers count pixels of the declared size. A box is turned by `rotation` degrees clockwise about its middle. Source:
docs/manual/advanced/xml_format.md of cvat-ai/cvat (2022); `rotation`, `mask` and `ellipse` came later.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from groundling.data.formats.detection import Annotated, Thing
from groundling.data.formats.found import PictureFolder, Reading, keep_extra, read_id
from groundling.data.formats.shapes import box_around, box_around_ellipse, box_around_turned, read_shape, reduced
from groundling.data.formats.xml import parse_xml
from groundling.data.record import Rejected, read_numbers
from groundling.errors import GroundlingError, RecordError, SettingsError
from groundling.geometry.frame import Frame

_SHAPES = ("box", "polygon", "polyline", "points", "mask", "ellipse", "cuboid", "skeleton")  # a tag has no place


def read_cvat(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """The pictures of a dump, in its order; its labels are those that were looked for. `part` is a subset's name.

    `source` is the XML file, or the folder of its annotations.xml. Turned boxes, polygons, lines, masks and ellipses
    are faults, or with `reduce` the upright boxes around them. RecordError for the dump of a video, SettingsError for a
    subset that is not in it.
    """
    file = Path(source, "annotations.xml") if Path(source).is_dir() else Path(source)
    root = _read_root(file)
    looked_for = _read_labels(root)
    pictures = PictureFolder(reading.images or file.parent)
    for number, image in enumerate(_in_part(root.findall("image"), reading.part), start=1):
        try:
            yield Annotated(
                image=pictures.find(image.get("name", "")),
                file=file,
                line=number,
                things=[_read_thing(shape, reduce=reading.reduce) for shape in image if shape.tag in _SHAPES],
                size=_read_size(image),
                looked_for=looked_for,
                image_name=image.get("name", ""),
                id=read_id(image.get("id")),
            )
        except GroundlingError as error:
            yield Rejected(str(file), number, str(error))


def _read_root(file: Path) -> Element:
    if not file.is_file():
        raise RecordError(f"no file {file}; expected the XML of CVAT for images 1.1")
    try:
        root = parse_xml(file.read_bytes())
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from None
    if root.tag != "annotations":
        raise RecordError(f"{file} is XML of <{root.tag}>; expected <annotations>, as CVAT for images 1.1 has it")
    if root.find("track") is not None:
        raise RecordError(f"{file} holds the tracks of a video; export it from CVAT as 'CVAT for images 1.1'")
    return root


def _read_labels(root: Element) -> list[str] | None:
    """The labels that could be drawn, in order; None where the file does not list them."""
    labels = [label for label in root.iterfind("meta/*/labels/label") if label.findtext("type") != "tag"]
    whole = [label.findtext("name", "").strip() for label in labels if not label.findtext("parent")]
    return list(dict.fromkeys(name for name in whole if name)) or None


def _in_part(images: list[Element], part: str | None) -> list[Element]:
    if part is None:
        return images
    subsets = dict.fromkeys(image.get("subset", "") for image in images)
    if part not in subsets:
        known = ", ".join(name for name in subsets if name) or "none"
        raise SettingsError(f"there is no subset {part!r}; the file has {known}")
    return [image for image in images if image.get("subset", "") == part]


def _read_size(image: Element) -> Frame | None:
    sides = [image.get("width", ""), image.get("height", "")]
    if not all(side.isascii() and side.isdecimal() and int(side[:10]) > 0 and len(side) < 10 for side in sides):
        return None
    return Frame(*map(int, sides))


# ---- one shape -------------------------------------------------------------------------------------------------


def _read_thing(shape: Element, *, reduce: bool) -> Thing:
    attributes: dict[str, Any] = {each.get("name", ""): each.text or "" for each in shape.iterfind("attribute")}
    occluded = {"occluded": True} if shape.get("occluded") == "1" else {}
    return read_shape(shape.get("label"), partial(_read_place, shape, reduce=reduce), keep_extra(attributes | occluded))


def _read_place(shape: Element, *, reduce: bool) -> tuple[float, ...]:
    """Four numbers of a box or two of a point. RecordError for what is neither."""
    what = f"a {shape.tag}" if shape.tag != "ellipse" else "an ellipse"
    if shape.tag == "box":
        return _read_box(shape, reduce=reduce)
    if shape.tag == "mask":
        left, top, width, height = _numbers(shape, "left", "top", "width", "height")
        return reduced((left, top, left + width, top + height), what, reduce=reduce)
    if shape.tag == "ellipse":
        x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
        around = box_around_ellipse((x, y), radius_x, radius_y, _degrees(shape))
        return reduced(around, what, reduce=reduce)
    if shape.tag in ("cuboid", "skeleton"):
        raise RecordError(f"a {shape.tag} has no box of its own")
    points = [_read_point(point) for point in shape.get("points", "").split(";")]
    if shape.tag != "points":
        return reduced(box_around(points), what, reduce=reduce)
    if len(points) > 1:
        raise RecordError(f"{len(points)} points under one label; expected one point a thing")
    return points[0]


def _read_box(shape: Element, *, reduce: bool) -> tuple[float, ...]:
    left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    degrees = _degrees(shape)
    if not degrees:
        return left, top, right, bottom
    middle = ((left + right) / 2, (top + bottom) / 2)
    around = box_around_turned((left, top, right, bottom), middle, degrees)
    return reduced(around, f"a box turned by {degrees:g} degrees", reduce=reduce)


def _degrees(shape: Element) -> float:
    return _number(shape.get("rotation", "0")) % 360


def _numbers(shape: Element, *names: str) -> tuple[float, ...]:
    return read_numbers([_number(shape.get(name, "")) for name in names], len(names), shape.tag)


def _read_point(text: str) -> tuple[float, float]:
    x, y = read_numbers([_number(number) for number in text.split(",")], 2, "point")
    return x, y


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecordError(f"{text[:50]!r} is no number") from None
