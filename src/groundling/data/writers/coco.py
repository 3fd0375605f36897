"""COCO's JSON of pictures, categories and boxes, and the list of results that its evaluators score (both made by hand):

    {"images": [{"id": 7, "file_name": "images/7.jpg", "width": 640, "height": 480}],
     "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}],
     "categories": [{"id": 1, "name": "cat"}]}

    [{"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.9}]

`bbox` is left, top, width, height in pixels of the picture, half-open. Source: cocodataset.org, "data format" and
"results format" (2017).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundling.data.labelled import (
    LabelledPicture,
    LabelledThing,
    list_labels,
    name_things,
    width_and_height,
)
from groundling.data.record import Record
from groundling.data.writers.writing import Writing, name_below, refuse_points, write_document
from groundling.errors import ImageError, RecordError

log = logging.getLogger(__name__)

IMAGE_ID = "coco_image_id"  # extra key of a record that was read from COCO
ANNOTATION_ID = "annotation_id"  # and of a target


# ---- a data set ------------------------------------------------------------------------------------------------


def write_coco(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write one file; a thing's score, where it has one, as a key of its own.

    Pictures and things that came from COCO keep their numbers; the others, and categories, count from 1.
    """
    labels = list_labels(pictures, writing.labels)
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    image_ids = _give_ids([picture.extra.get(IMAGE_ID) for picture in pictures])
    owned = [(image_id, thing) for image_id, each in zip(image_ids, pictures, strict=True) for thing in each.things]
    thing_ids = _give_ids([thing.extra.get(ANNOTATION_ID) for _, thing in owned])
    document = {
        "images": [
            {"id": image_id, "file_name": name_below(each, out.parent), "width": width, "height": height}
            for image_id, each in zip(image_ids, pictures, strict=True)
            for width, height in [each.frame.size_wh]
        ],
        "annotations": [
            {"id": thing_id} | _describe(thing, image_id, numbers[thing.label])
            for thing_id, (image_id, thing) in zip(thing_ids, owned, strict=True)
        ],
        "categories": [{"id": number, "name": label} for label, number in numbers.items()],
    }
    write_document(document, out)


def _describe(thing: LabelledThing, image_id: int, category_id: int) -> dict[str, Any]:
    score = {} if thing.score is None else {"score": thing.score}
    width, height = width_and_height(thing.numbers)
    return _place(thing, image_id, category_id) | {"area": width * height, "iscrowd": 0} | score


def _place(thing: LabelledThing, image_id: int, category_id: int) -> dict[str, Any]:
    box = [*thing.numbers[:2], *width_and_height(thing.numbers)]
    return {"image_id": image_id, "category_id": category_id, "bbox": box}


def _give_ids(wanted: Sequence[object]) -> list[int]:
    """A number for each: the wanted one for the first that wants it, else one above all that are wanted."""
    free = max((value for value in wanted if type(value) is int and value > 0), default=0) + 1
    given: dict[int, None] = {}
    for value in wanted:
        if type(value) is int and value not in given:
            given[value] = None
        else:
            given[free] = None
            free += 1
    return list(given)


# ---- results for an evaluator ----------------------------------------------------------------------------------


def refuse_unnumbered(record: Record, writing: Writing) -> str | None:
    """Why a record has no place in the results for the COCO file `writing.like`; None where it has."""
    assert writing.like is not None, "the user names the file"
    assert record.image is not None, "records without a picture are set aside before"
    unknown = [thing.label for thing in name_things(record) if thing.label not in writing.like.categories]
    if unknown:
        return f"{writing.like.file} has no category {unknown[0]!r}"
    try:
        writing.like.find_image(record.image, record.extra.get(IMAGE_ID))
    except (RecordError, ImageError) as error:
        return str(error)
    return refuse_points(record, writing)


def write_results(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write the list of results, with the numbers of the COCO file `writing.like`.

    A thing without a score gets 1: evaluators need one, and take equal ones in the order of the list.
    """
    assert writing.like is not None, "the user names the file"
    rows = [
        _place(thing, image_id, writing.like.categories[thing.label])
        | {"score": 1.0 if thing.score is None else thing.score}
        for each in pictures
        for image_id in [writing.like.find_image(each.image, each.extra.get(IMAGE_ID))]
        for thing in each.things
    ]
    if rows and all(thing.score is None for each in pictures for thing in each.things):
        log.warning("no scores: each box counts as certain, and an AP then depends on the order of the pictures")
    write_document(rows, out)
