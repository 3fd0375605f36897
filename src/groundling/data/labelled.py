"""From questions back to pictures with labelled things: the inverse of `data.questions.ask_about`.

A record is one question; a detection format describes one picture. All records about one picture become one
`LabelledPicture`, still in the picture's own upright pixels. Writers of a format bring its things into other units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundling.data.record import Record, Target, is_number
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_frame

SCORE_KEY = "score"
"""The extra key of a target that a model answered: how sure it was, 0 to 1."""


@dataclass(frozen=True)
class LabelledThing:
    """One thing on a picture: the four numbers of a box (left, top, right, bottom), or the two of a point."""

    label: str
    numbers: tuple[float, ...]
    score: float | None = None  # of a model, 0 to 1; None: nobody doubts it, or nobody asked
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_point(self) -> bool:
        """Whether it is a place without a size."""
        return len(self.numbers) == 2


@dataclass(frozen=True)
class LabelledPicture:
    """One picture with what is on it, in its own upright pixels: `frame`."""

    image: Path
    frame: Frame
    things: tuple[LabelledThing, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def things_in(self, units: Frame) -> list[LabelledThing]:
        """The things with their numbers in `units`, such as PERCENT, whatever of a box leaves the picture cut off."""
        return [replace(thing, numbers=_numbers_in(thing, self.frame, units)) for thing in self.things]


def name_things(record: Record) -> list[LabelledThing]:
    """The targets of a record as labelled things; one without a label is called what the question says."""
    return [_name_thing(target, record.question.strip()) for target in record.targets]


def label_picture(records: Sequence[Record], labels: Sequence[str] | None = None) -> LabelledPicture:
    """What all these records, at least one and of one picture, say about it; with `labels`, only things called so.

    A thing that several questions name, the same label at the same place, is there once, with its highest score.
    ImageError where the picture's header cannot be read.
    """
    image = records[0].image
    assert image is not None, "a record without a picture is not about one"
    things: dict[tuple[str, tuple[float, ...]], LabelledThing] = {}
    for thing in (thing for record in records for thing in name_things(record)):
        known = things.setdefault((thing.label, thing.numbers), thing)
        if (thing.score or 0) > (known.score or 0):
            things[thing.label, thing.numbers] = thing
    kept = [thing for thing in things.values() if labels is None or thing.label in labels]
    extra = {key: value for record in reversed(records) for key, value in record.extra.items()}
    return LabelledPicture(image, read_frame(image), tuple(kept), extra)


def list_labels(pictures: Sequence[LabelledPicture], labels: Sequence[str] | None = None) -> list[str]:
    """The classes of a data set in the order of their numbers: `labels` as given, else all, alphabetically."""
    return list(labels) if labels is not None else sorted({thing.label for each in pictures for thing in each.things})


def width_and_height(box: Sequence[float]) -> tuple[float, float]:
    """The sides of left, top, right, bottom, to a millionth of a pixel: without the noise of subtracting."""
    left, top, right, bottom = box
    return round(right - left, 6), round(bottom - top, 6)


def _name_thing(target: Target, phrase: str) -> LabelledThing:
    score = target.extra.get(SCORE_KEY)
    return LabelledThing(
        label=(target.label or "").strip() or phrase,
        numbers=target.numbers,
        score=score if is_number(score) else None,
        extra={key: value for key, value in target.extra.items() if key != SCORE_KEY},
    )


def _numbers_in(thing: LabelledThing, frame: Frame, units: Frame) -> tuple[float, ...]:
    if thing.is_point:
        return tuple(Points([thing.numbers], frame).clip().to(units).xy[0].tolist())
    return tuple(Boxes([thing.numbers], frame).clip().to(units).xyxy[0].tolist())
