"""Create ML's annotations for detectors: a JSON list with one entry a picture (made up):

    [{"image": "7.jpg", "annotations": [{"label": "horse", "coordinates": {"x": 380.5, "y": 276, "width": 469,
                                                                           "height": 278}}]}]

`x`, `y` are the middle of the box, in pixels from the upper left. Some tools write `imagefilename` for `image`. Source:
Apple's page about building a data source for an object detector (2025).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path

from groundling.data.formats.detection import Annotated, Thing, from_centre, read_thing
from groundling.data.formats.documents import find_document, read_json
from groundling.data.formats.found import PictureFolder, Reading
from groundling.data.record import Rejected
from groundling.errors import RecordError

_SIDES = ("x", "y", "width", "height")


def read_createml(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """What is on each picture, in order; `line` is the entry, from 1.

    `source` is such a file, or a folder with one or with several of which `part` chooses. Pictures lie beside it.
    RecordError where it is no list.
    """
    file = find_document(source, reading.part, [".json"], lambda file: True)
    entries = read_json(file)
    if not isinstance(entries, list):
        raise RecordError(f"{file} holds {reprlib.repr(entries)}; expected a list of pictures with their annotations")
    pictures = PictureFolder(reading.images or file.parent)
    for line, entry in enumerate(entries, start=1):
        try:
            yield _read_entry(entry, file, line, pictures)
        except RecordError as error:
            yield Rejected(str(file), line, str(error))


def _read_entry(entry: object, file: Path, line: int, pictures: PictureFolder) -> Annotated:
    if not isinstance(entry, dict):
        raise RecordError(f"the entry is {reprlib.repr(entry)}; expected an object of image and annotations")
    name = entry.get("image") or entry.get("imagefilename")
    annotations = entry.get("annotations", entry.get("annotation"))
    if not isinstance(name, str):
        raise RecordError(f"the image is {reprlib.repr(name)}; expected the path of a picture")
    if not isinstance(annotations, list):
        raise RecordError(f"the annotations are {reprlib.repr(annotations)}; expected a list")
    return Annotated(
        image=pictures.find(name, beside=file.parent),
        file=file,
        line=line,
        things=[_read_annotation(annotation) for annotation in annotations],
        image_name=name,
        id=name.rpartition(".")[0],
    )


def _read_annotation(annotation: object) -> Thing:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("coordinates"), dict):
        return Thing("", fault=f"the annotation is {reprlib.repr(annotation)}; expected a label and coordinates")
    values = [annotation["coordinates"].get(side) for side in _SIDES]
    return read_thing(annotation.get("label"), from_centre(values))
