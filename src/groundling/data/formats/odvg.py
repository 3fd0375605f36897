"""Grounding-DINO's training data, ODVG: JSONL with boxes of labels, of phrases, or of both. One line (made up):

    {"filename": "dog.jpg", "height": 693, "width": 1024,
     "detection": {"instances": [{"bbox": [262, 210, 323, 338], "label": 0, "category": "dog"}]},
     "grounding": {"caption": "a dog on a mat", "regions": [{"bbox": [262, 210, 323, 338], "phrase": "a dog"}]}}

Boxes are left, top, right, bottom in pixels of the declared size; a phrase may have a list of them. The labels that
were looked for stand in a file beside it, `*label_map*.json`: {"0": "dog", "1": "cat"}. Source: data_format.md and
datasets/odvg.py of longzw1997/Open-GroundingDino (2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundling.data.formats.detection import Annotated, Thing, place_things, read_thing
from groundling.data.formats.entries import as_object, read_entries
from groundling.data.formats.found import Found, PictureFolder, Reading, keep_extra, read_id
from groundling.data.record import Rejected, Target, is_number, parse_json
from groundling.errors import GroundlingError, RecordError
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_header

_KEYS = ("filename", "height", "width", "detection", "grounding", "id")

Labels = Mapping[str, str]  # names by number


def read_odvg(source: str, reading: Reading) -> Iterator[Annotated | Found | Rejected]:
    """For each line its labelled boxes, and a question for each phrase with all the boxes of it.

    A phrase with a box that cannot be used is not asked about. RecordError where the label map is no JSON object.
    """
    file = Path(source)
    pictures = PictureFolder(reading.images or file.parent)
    labels = _read_label_map(file.parent) if file.is_file() else {}
    for line, entry in read_entries(file):
        try:
            value = as_object(entry)
            blank = _read_picture(value, file, line, pictures)
            if isinstance(value.get("detection"), dict):
                things = [_read_instance(each, labels) for each in _list_in(value["detection"], "instances")]
                yield replace(blank, things=things, looked_for=list(labels.values()) or None)
            if isinstance(value.get("grounding"), dict):
                yield from _read_phrases(value["grounding"], blank)
        except GroundlingError as error:
            yield Rejected(str(file), line, str(error))


def _read_picture(value: Mapping[str, Any], file: Path, line: int, pictures: PictureFolder) -> Annotated:
    """The entry with nothing on it yet."""
    name = value.get("filename")
    if not isinstance(name, str) or not any(isinstance(value.get(key), dict) for key in ("detection", "grounding")):
        raise RecordError(f"found the keys {', '.join(value)}; expected filename, and detection or grounding")
    return Annotated(
        image=pictures.find(name),
        file=file,
        line=line,
        things=(),
        size=_read_size(value),
        image_name=name,
        id=read_id(value.get("id")),
        extra=keep_extra({key: value[key] for key in value if key not in _KEYS}),
    )


def _read_size(value: Mapping[str, Any]) -> Frame | None:
    width, height = value.get("width"), value.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or not (is_number(width) and is_number(height)):
        return None
    return Frame(width, height) if width > 0 and height > 0 else None


def _read_label_map(folder: Path) -> Labels:
    """The only label map of the folder; none where there are several, since nothing says whose they are."""
    files = sorted(folder.glob("*label_map*.json"))
    if len(files) != 1:
        return {}
    names = parse_json(files[0].read_bytes())
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise RecordError(f'{files[0]} is no label map; expected names by number, as in {{"0": "dog", "1": "cat"}}')
    return names


def _read_instance(instance: object, labels: Labels) -> Thing:
    if not isinstance(instance, dict):
        return Thing("", fault=f"an instance is {type(instance).__name__}; expected an object with bbox and label")
    number = instance.get("label")
    name = instance.get("category") or labels.get(str(number))
    if name is None:
        return Thing("", fault=f"label {number!r} has no category, and there is not one *label_map*.json to name it")
    return read_thing(name, instance.get("bbox"))


def _read_phrases(grounding: Mapping[str, Any], blank: Annotated) -> Iterator[Found | Rejected]:
    regions = [thing for region in _list_in(grounding, "regions") for thing in _read_region(region)]
    placed = place_things(replace(blank, things=regions), read_header(blank.image))
    spoilt = {thing.label for thing in placed.things if thing.fault}
    for thing in placed.things:
        if thing.fault:
            yield Rejected(str(blank.file), blank.line, f"phrase {thing.label!r}: {thing.fault}")
    doubt = {} if placed.doubt is None else {"doubt": placed.doubt}
    caption = keep_extra({"caption": grounding["caption"]} if "caption" in grounding else {})
    for phrase in dict.fromkeys(thing.label for thing in placed.things if thing.label not in spoilt):
        yield Found(
            question=phrase,
            image=blank.image,
            file=blank.file,
            line=blank.line,
            image_name=blank.image_name,
            targets=tuple(_target(thing) for thing in placed.things if thing.label == phrase),
            id=blank.id,
            extra={**blank.extra, **caption, **doubt},
        )


def _read_region(region: object) -> list[Thing]:
    """A thing for each box of the phrase."""
    if not isinstance(region, dict):
        return [Thing("", fault=f"a region is {type(region).__name__}; expected an object with bbox and phrase")]
    box = region.get("bbox")
    boxes = box if isinstance(box, list) and box and all(isinstance(each, list) for each in box) else [box]
    return [read_thing(region.get("phrase"), each) for each in boxes]


def _target(thing: Thing) -> Target:
    left, top, right, bottom = thing.numbers
    return Target(box=(left, top, right, bottom))


def _list_in(value: Mapping[str, Any], key: str) -> list[object]:
    if not isinstance(value.get(key), list):
        raise RecordError(f"{key!r} is {type(value.get(key)).__name__}; expected a list")
    return value[key]
