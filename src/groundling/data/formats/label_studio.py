"""Label Studio's export, JSON: a list of tasks, each with its annotations. One (after its documentation, shortened):

    {"id": 1, "data": {"image": "/data/upload/1/3fa85f64-moon.jpg"}, "predictions": [],
     "annotations": [{"was_cancelled": false, "updated_at": "2021-03-09T22:16:08.728378Z", "result": [
       {"id": "Dx_aB91ISN", "type": "rectanglelabels", "original_width": 600, "original_height": 403,
        "image_rotation": 0, "value": {"x": 50.8, "y": 5.8, "width": 12.4, "height": 10.4, "rotation": 0,
                                       "rectanglelabels": ["Moonwalker"]}}]}]}

Numbers are percent of the picture as the browser shows it, which is upright. A rectangle is turned clockwise about its
own top left corner. JSON-MIN, the short export, is read as well: one annotation an entry, its values under the name of
the control tag. Of several annotations of one task the one marked as ground truth is read, or else the newest; those
that were cancelled, and predictions, are not truth. Source: guide/export.md of HumanSignal/label-studio (2025).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from groundling.data.formats.detection import PERCENT, Annotated, Thing
from groundling.data.formats.entries import as_object, read_entries
from groundling.data.formats.found import PictureFolder, Reading, keep_extra, read_id
from groundling.data.formats.shapes import (
    Sides,
    box_around,
    box_around_ellipse,
    box_around_turned,
    read_shape,
    reduced,
)
from groundling.data.record import Rejected, is_number, read_numbers
from groundling.errors import GroundlingError, RecordError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

_LABELS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels", "labels")
_PICTURE = re.compile(r"\.(jpe?g|png|webp|avif|gif|tiff?|bmp|ppm|jp2)$", re.IGNORECASE)

Region = Mapping[str, Any]  # what an export says of one place, its `value` included


class _Task(NamedTuple):
    """One picture and the regions of the annotation that is read."""

    id: str
    data: Mapping[str, Any]
    regions: Sequence[Region]
    rank: tuple[bool, str]  # of two annotations of one picture, the larger is read


def read_label_studio(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """The annotated pictures of an export, in its order; see `data.questions` for what is asked about them.

    Pictures are looked for by their path and name below the folder, and never fetched. Turned rectangles, polygons and
    ellipses are faults, or with `reduce` the upright boxes around them.
    """
    file = Path(source)
    pictures = PictureFolder(reading.images or file.parent)
    tasks: dict[int, _Task] = {}
    rejected: list[Rejected] = []
    for line, entry in read_entries(file):
        try:
            tasks[line] = _read_task(as_object(entry))
        except GroundlingError as error:
            rejected.append(Rejected(str(file), line, str(error)))
    yield from rejected
    for line in _newest(tasks):
        try:
            yield _annotate(tasks[line], file, line, pictures, reduce=reading.reduce)
        except GroundlingError as error:
            yield Rejected(str(file), line, str(error))


def _newest(tasks: Mapping[int, _Task]) -> list[int]:
    """The lines that are read: JSON-MIN repeats a task for every annotation of it."""
    best: dict[str, int] = {}
    for line, task in tasks.items():
        key = task.id or f"line {line}"
        if key not in best or task.rank >= tasks[best[key]].rank:
            best[key] = line
    return sorted(best.values())


def _read_task(entry: dict[str, Any]) -> _Task:
    if "data" not in entry and "annotations" not in entry:
        return _read_short(entry)
    data, annotations = entry.get("data"), entry.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise RecordError(f"found the keys {', '.join(entry)}; expected a task with 'data' and a list of 'annotations'")
    made = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    if not made:
        raise RecordError("the task has no annotation that was submitted; predictions are not read as truth")
    chosen = max(enumerate(made), key=lambda pair: (*_rank(pair[1]), pair[0]))[1]
    result = chosen.get("result")
    if not isinstance(result, list):
        raise RecordError("the annotation has no list under 'result'")
    return _Task(read_id(entry.get("id")), data, _merge(result), _rank(chosen))


def _rank(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    return bool(annotation.get("ground_truth")), str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _read_short(entry: dict[str, Any]) -> _Task:
    """A JSON-MIN entry: lists of regions under the names of control tags, everything else beside them."""
    tags = [key for key, value in entry.items() if isinstance(value, list) and any(isinstance(v, dict) for v in value)]
    regions = [{**each, "value": each} if isinstance(each, dict) else {} for tag in tags for each in entry[tag]]
    data = {key: value for key, value in entry.items() if key not in tags}
    return _Task(read_id(entry.get("id")), data, regions, _rank(entry))


def _merge(results: Iterable[object]) -> list[Region]:
    """One region for all results of one id: a plain rectangle has its label, and any words, in results of their own."""
    merged: dict[object, dict[str, Any]] = {}
    for number, result in enumerate(results):
        if not isinstance(result, dict):
            merged[number] = {}
            continue
        value = result.get("value")
        known = merged.setdefault(f"id {result.get('id')}" if result.get("id") else number, {})
        values = {**known.get("value", {}), **(value if isinstance(value, dict) else {})}
        known.update({**result, "value": values})
    return [region for region in merged.values() if not region or _is_place(region["value"])]


def _is_place(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in ("x", "points", "rle", *_LABELS))


# ---- one picture -----------------------------------------------------------------------------------------------


def _annotate(task: _Task, file: Path, line: int, pictures: PictureFolder, *, reduce: bool) -> Annotated:
    name = _name_picture(task.data)
    turned = {region.get("image_rotation") or 0 for region in task.regions if is_number(region.get("image_rotation"))}
    if turned - {0}:
        raise RecordError(
            f"{name} was turned by {max(turned)} degrees in Label Studio, whose versions differ in what is then "
            "written; turn it back there, or turn the file"
        )
    size = _declared_size(task.regions)
    return Annotated(
        image=_find_picture(name, pictures),
        file=file,
        line=line,
        things=[thing for region in task.regions for thing in _read_region(region, size, reduce=reduce)],
        size=size,
        units=PERCENT,
        image_name=_local_part(name).rpartition("/")[2],
        id=task.id,
        extra=keep_extra({key: value for key, value in task.data.items() if value != name and key != "id"}),
    )


def _name_picture(data: Mapping[str, Any]) -> str:
    """The path under `image`, or else the only value that ends as the name of a picture does."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    named = [value for key, value in texts.items() if key == "image"]
    named = named or [value for value in texts.values() if _PICTURE.search(_local_part(value))]
    if len(named) != 1:
        raise RecordError(f"{len(named)} pictures among the keys {', '.join(data)}; expected one, best under 'image'")
    return named[0]


def _declared_size(regions: Iterable[Region]) -> Frame | None:
    """The size that the browser saw; None where no region says it, or they differ."""
    sizes = [[region.get("original_width"), region.get("original_height")] for region in regions if region]
    if not sizes or any(size != sizes[0] for size in sizes):
        return None
    width, height = sizes[0]
    if not isinstance(width, int) or not isinstance(height, int) or not (is_number(width) and is_number(height)):
        return None
    return Frame(width, height) if width > 0 and height > 0 else None


_ADDRESS = re.compile(r"^[a-z0-9]+://[^/]*/", re.IGNORECASE)
_UPLOAD = re.compile(r"^/?data/upload/(\d+/)?")
_UPLOAD_MARK = re.compile(r"^[0-9a-f]{8}-")  # put before the name of a file that is uploaded


def _local_part(name: str) -> str:
    """The path of a picture without what stands for its server: an address, a bucket, the server's own folders."""
    path = name.partition("?d=")[2] if "?d=" in name else name.partition("?")[0]
    return unquote(_UPLOAD.sub("", _ADDRESS.sub("", path))).lstrip("/")


def _find_picture(name: str, pictures: PictureFolder) -> Path:
    path = _local_part(name)
    try:
        return pictures.find(path)
    except RecordError as error:
        plain = _UPLOAD_MARK.sub("", path)
        if plain == path:
            raise RecordError(f"{error} (for {name[:200]!r}: pictures are never fetched; save them there)") from None
        return pictures.find(plain)


# ---- one place -------------------------------------------------------------------------------------------------


def _read_region(region: Region, size: Frame | None, *, reduce: bool) -> list[Thing]:
    """A thing for each label of the region; one with a fault where it has no place or no label."""
    value = region.get("value", {})
    labels = next((value[key] for key in _LABELS if value.get(key)), None)
    extra = {key: value[key] for key in ("text",) if key in value}
    read_place = partial(_read_place, value, size, reduce=reduce)
    return [read_shape(label, read_place, extra) for label in (labels if isinstance(labels, list) else [labels])]


def _read_place(value: Mapping[str, Any], size: Frame | None, *, reduce: bool) -> tuple[float, ...]:
    """Four numbers of a box or two of a point, in percent. RecordError for what is neither."""
    if "rle" in value:
        raise RecordError("a brushed mask; draw a rectangle around it")
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list) or not points:
            raise RecordError("a polygon without points")
        return reduced(box_around([_read_point(point) for point in points]), "a polygon", reduce=reduce)
    if "radiusX" in value:
        return reduced(_box_around_ellipse(value, size), "an ellipse", reduce=reduce)
    if "height" not in value:
        return _read_point([value.get("x"), value.get("y")])
    x, y, width, height = _numbers(value, "x", "y", "width", "height")
    box, degrees = (x, y, x + width, y + height), _degrees(value)
    if not degrees:
        return box
    pixels = _square_pixels(size)
    left, top, right, bottom = Boxes([box], PERCENT).to(pixels).xyxy[0].tolist()
    around = box_around_turned((left, top, right, bottom), (left, top), degrees)
    return reduced(_to_percent(around, pixels), f"a rectangle turned by {degrees:g} degrees", reduce=reduce)


def _box_around_ellipse(value: Mapping[str, Any], size: Frame | None) -> Sides:
    x, y, radius_x, radius_y = _numbers(value, "x", "y", "radiusX", "radiusY")
    degrees = _degrees(value)
    pixels = _square_pixels(size) if degrees else PERCENT
    (x, y), (radius_x, radius_y) = Points([(x, y), (radius_x, radius_y)], PERCENT).to(pixels).xy.tolist()
    return _to_percent(box_around_ellipse((x, y), radius_x, radius_y, degrees), pixels)


def _square_pixels(size: Frame | None) -> Frame:
    """The picture's own frame, in which turning keeps right angles; in percent of its sides it does not."""
    if size is None:
        raise RecordError("a turned shape, and no original_width and original_height to turn it in")
    return size


def _to_percent(box: Sides, pixels: Frame) -> Sides:
    left, top, right, bottom = Boxes([box], pixels).to(PERCENT).xyxy[0].tolist()
    return left, top, right, bottom


def _degrees(value: Mapping[str, Any]) -> float:
    return _numbers({"rotation": value.get("rotation") or 0}, "rotation")[0] % 360


def _numbers(value: Mapping[str, Any], *names: str) -> tuple[float, ...]:
    return read_numbers([value.get(name) for name in names], len(names), f"region's {', '.join(names)}")


def _read_point(point: object) -> tuple[float, float]:
    x, y = read_numbers(point, 2, "point")
    return x, y
