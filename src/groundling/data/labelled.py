"""From questions back to pictures with labelled things: the inverse of `data.questions.ask_about`.

A record is one question; a detection format describes one picture. All records about one picture become one
`LabelledPicture`, still in the picture's own upright pixels. Writers of a format bring its things into other units.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from groundling.data.record import Record, Target, is_number
from groundling.errors import SettingsError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_frame

SCORE_KEY = "score"
"""The extra key of a target that a model answered: how sure it was, 0 to 1."""

log = logging.getLogger(__name__)


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


def refuse_unknown_labels(records: Iterable[Record], labels: Sequence[str]) -> None:
    """SettingsError for a label that nothing has or was asked for by, where a label much like it would be left out.

    Likewise where none of them is there. Another one is a class without things, as in one part of a split, and is told.
    """
    named: dict[str, None] = {}
    asked: set[str] = set()
    for record in records:
        named |= dict.fromkeys(thing.label for thing in name_things(record))
        asked.add(record.question.strip())
    left_out = [label for label in named if label not in labels]
    unknown = [label for label in labels if label not in named and label not in asked]
    for label in unknown:
        if near := get_close_matches(label, left_out, n=5, cutoff=0.0 if len(unknown) == len(labels) else 0.7):
            raise SettingsError(f"nothing is labelled {label!r}; the closest labels are {', '.join(near)}")
        log.warning("nothing is labelled %r: its class is without things", label)


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
