"""COCO's instances: one JSON object of pictures, annotations and categories that name each other by id (made up):

    {"images": [{"id": 7, "file_name": "7.jpg", "width": 640, "height": 428}],
     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [146, 137, 469, 278], "iscrowd": 0}],
     "categories": [{"id": 3, "name": "horse", "supercategory": "animal"}]}

`bbox` is left, top, width, height in pixels, from 0. LVIS adds to a picture the categories known to be absent
(`neg_category_ids`) and those of which not all are marked (`not_exhaustive_category_ids`), and has `coco_url` in place
of `file_name`. Source: the format pages of cocodataset.org and lvisdataset.org (2025).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundling.data.formats.detection import NO_THINGS, Annotated, Thing, read_shape, read_size, read_thing
from groundling.data.formats.documents import find_document, read_json
from groundling.data.formats.found import PictureFolder, Reading
from groundling.data.record import Rejected
from groundling.errors import RecordError

OTHER_KINDS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # beside COCO's instances_


def read_coco(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """What is on each picture, in order; `line` is the picture's place in `images`, from 1.

    `source` is such a file, or a folder with one or with several of which `part` chooses. Pictures lie beside the file,
    or below the folder that holds `annotations`. Crowds and masks without a box cannot be used, polygons without one
    only with `reduce`. RecordError for a file of another kind.
    """
    file = find_document(source, reading.part, [".json"], lambda file: not file.name.startswith(OTHER_KINDS))
    instances = read_instances(file)
    pictures = PictureFolder(reading.images or picture_folder(file))
    yield from instances.rejected
    for line in instances.pictures:
        yield _read_picture(line, instances, pictures, reduce=reading.reduce)


def picture_folder(file: Path) -> Path:
    """Where the pictures of a file of annotations lie: beside it, or beside the folder `annotations` that it is in."""
    return file.parent.absolute().parent if file.parent.absolute().name == "annotations" else file.parent


# ---- the whole file --------------------------------------------------------------------------------------------


@dataclass
class Instances:
    """What an instances file holds, by ids as `read_key` writes them; `rejected` are the entries that fit nowhere."""

    file: Path
    labels: dict[str, str] = field(default_factory=dict)  # by category
    looked_for: list[str] = field(default_factory=list)
    pictures: dict[int, dict[str, Any]] = field(default_factory=dict)  # entries, by their place from 1
    lines: dict[str, int] = field(default_factory=dict)  # where a picture stands in `pictures`
    annotations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by picture
    rejected: list[Rejected] = field(default_factory=list)


def read_instances(file: Path) -> Instances:
    """The file's entries, brought together. RecordError for a file of another kind."""
    document = read_json(file)
    _refuse_other_kinds(document, file)
    instances = Instances(file)
    _fill_labels(instances, document["categories"])
    _fill_pictures(instances, document["images"])
    _fill_annotations(instances, document["annotations"])
    used = {read_key(annotation.get("category_id")) for found in instances.annotations.values() for annotation in found}
    instances.looked_for = _find_looked_for(document["categories"], instances.labels, used)
    return instances


def read_key(value: object) -> str | None:
    """An id as text, the same for 7, 7.0 and "7"; None for what is no id."""
    if type(value) is int:  # not a bool; nearly all are
        return str(value)
    if not isinstance(value, float | str):
        return None
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value).strip() or None


def _refuse_other_kinds(document: object, file: Path) -> None:
    if isinstance(document, list):
        raise RecordError(f"{file} is a list, as results of a detector are; expected an object with images and more")
    lists = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in lists):
        found = ", ".join(map(str, document))[:200] if isinstance(document, dict) else reprlib.repr(document)
        raise RecordError(f"{file} holds {found or 'nothing'}; expected lists of images, annotations and categories")
    entries = [entry for entry in document["annotations"] if isinstance(entry, dict)]
    for key, kind in (("caption", "captions"), ("keypoints", "keypoints"), ("segments_info", "panoptic masks")):
        if entries and all(entry.get(key) for entry in entries):
            raise RecordError(f"{file} holds {kind}; expected boxes, which are in the file called instances_...")


def _fill_labels(instances: Instances, categories: Sequence[Any]) -> None:
    ambiguous: set[str] = set()
    for number, entry in enumerate(categories, start=1):
        key = read_key(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if key is None or not isinstance(name, str) or not name.strip():
            reason = f"{reprlib.repr(entry)} has no id or name"
            instances.rejected.append(_reject(instances, number, "categories", reason))
        elif instances.labels.setdefault(key, name.strip()) != name.strip():
            reason = f"category {key} is called {name!r} here and {instances.labels[key]!r} before; which is it?"
            instances.rejected.append(_reject(instances, number, "categories", reason))
            ambiguous.add(key)
    for key in ambiguous:
        del instances.labels[key]


def _find_looked_for(categories: Sequence[Any], labels: Mapping[str, str], used: set[str | None]) -> list[str]:
    """The names of all categories but those that stand for no thing: backgrounds, and groups of others without use."""
    entries = [entry for entry in categories if isinstance(entry, dict)]
    groups = [entry.get("supercategory") for entry in entries if entry.get("supercategory") != entry.get("name")]
    names = [name for key, name in labels.items() if key in used or name not in groups]
    return [name for name in dict.fromkeys(names) if name not in NO_THINGS]


def _fill_pictures(instances: Instances, images: Sequence[Any]) -> None:
    """Those with an id of their own: where two files have one, nothing tells whose its annotations are."""
    doubled: set[str] = set()
    for line, entry in enumerate(images, start=1):
        key = read_key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None:
            instances.rejected.append(_reject(instances, line, "images", f"{reprlib.repr(entry)} has no id"))
        elif key not in instances.lines:
            instances.pictures[line] = entry
            instances.lines[key] = line
        else:
            first = instances.lines[key]
            reason = f"its id {key} is that of entry {first} too"
            instances.rejected.append(_reject(instances, line, "images", reason))
            if entry.get("file_name") != images[first - 1].get("file_name") and key not in doubled:
                doubled.add(key)
                reason = f"its id {key} is that of entry {line} too, and nothing tells whose the boxes are"
                instances.rejected.append(_reject(instances, first, "images", reason))
                del instances.pictures[first]


def _fill_annotations(instances: Instances, annotations: Sequence[Any]) -> None:
    first: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(annotations, start=1):
        picture = read_key(entry.get("image_id")) if isinstance(entry, dict) else None
        key = read_key(entry.get("id")) if isinstance(entry, dict) else None
        if picture is None:
            reason = f"{reprlib.repr(entry)} names no picture"
        elif picture not in instances.lines:
            reason = f"there is no picture {reprlib.repr(entry['image_id'])} in images"
        elif key is not None and first.setdefault(key, entry) is not entry and _is_same(first[key], entry):
            reason = f"annotation {key} stands there twice"
        else:
            instances.annotations.setdefault(picture, []).append(entry)
            continue
        instances.rejected.append(_reject(instances, number, "annotations", reason))


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("image_id", "category_id", "bbox", "segmentation"))


def _reject(instances: Instances, number: int, place: str, reason: str) -> Rejected:
    return Rejected(str(instances.file), number, f"entry {number} of {place}: {reason}")


# ---- one picture -----------------------------------------------------------------------------------------------


def _read_picture(line: int, instances: Instances, pictures: PictureFolder, *, reduce: bool) -> Annotated | Rejected:
    entry = instances.pictures[line]
    try:
        name = _name_of(entry)
        image = pictures.find(name)
        size = read_size(entry.get("width"), entry.get("height"))
    except RecordError as error:
        return _reject(instances, line, "images", str(error))
    found = instances.annotations.get(read_key(entry["id"]) or "", [])
    things = [read_annotation(annotation, instances.labels, reduce=reduce) for annotation in found]
    absent = _labels_of(entry, "neg_category_ids", instances)
    partly = _labels_of(entry, "not_exhaustive_category_ids", instances)
    return Annotated(
        image=image,
        file=instances.file,
        line=line,
        things=[_refuse_partly_marked(thing, partly) for thing in things],
        size=size,
        looked_for=absent if "neg_category_ids" in entry else instances.looked_for,
        image_name=name,
        id=read_key(entry["id"]) or "",
        extra={"coco_image_id": entry["id"]},
    )


def _name_of(entry: Mapping[str, Any]) -> str:
    name, address = entry.get("file_name"), entry.get("coco_url")
    if isinstance(name, str) and name:
        return name
    if isinstance(address, str) and address:  # http://images.cocodataset.org/val2017/000000397133.jpg
        return "/".join(address.split("/")[-2:])
    raise RecordError(f"the file_name is {reprlib.repr(name)}; expected the path of a picture")


def _labels_of(entry: Mapping[str, Any], key: str, instances: Instances) -> list[str]:
    ids = entry.get(key)
    keys = [read_key(value) for value in ids] if isinstance(ids, list) else []
    return [instances.labels[key] for key in keys if key in instances.labels]


def _refuse_partly_marked(thing: Thing, partly: Sequence[str]) -> Thing:
    if thing.fault or thing.label not in partly:
        return thing
    return replace(thing, numbers=(), fault="not all of its kind are marked here (not_exhaustive_category_ids)")


def read_annotation(annotation: Mapping[str, Any], labels: Mapping[str, str], *, reduce: bool) -> Thing:
    """The thing that an annotation marks, with `annotation_id` for the way back."""
    number = annotation.get("id")
    thing = _read_box(annotation, labels, reduce=reduce, extra={"annotation_id": number})
    return replace(thing, fault=f"annotation {reprlib.repr(number)}: {thing.fault}") if thing.fault else thing


def _read_box(
    annotation: Mapping[str, Any], labels: Mapping[str, str], *, reduce: bool, extra: Mapping[str, Any]
) -> Thing:
    category = annotation.get("category_id")
    label = labels.get(read_key(category) or "")
    if label is None:
        return Thing("", fault=f"the category {reprlib.repr(category)} is none of the file's")
    if any(annotation.get(key) in (1, "1", True) for key in ("iscrowd", "ignore")):
        return Thing(label, fault="a crowd or a region to ignore, whose box is around no one thing", extra=extra)
    if annotation.get("bbox"):
        return read_thing(label, annotation["bbox"], is_xywh=True, extra=extra)
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list):
        kind = "only a mask (RLE)" if isinstance(polygons, dict) else "no bbox"
        return Thing(label, fault=f"it has {kind}; expected a bbox of x, y, width, height", extra=extra)
    if not reduce:
        return Thing(label, fault="it has a polygon and no bbox; with --reduce the box around it is taken", extra=extra)
    return read_shape(label, _corners(polygons), extra=extra)


def _corners(polygons: Sequence[Any]) -> list[Any]:
    """The corners (x, y) of all polygons, which list them flat."""
    flat = [polygon if isinstance(polygon, list) else [polygon] for polygon in polygons]
    return [polygon[start : start + 2] for polygon in flat for start in range(0, len(polygon), 2)]
