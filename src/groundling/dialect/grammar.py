"""The grammar of an answer: what may come next at each place, so that whatever is written can be read back.

An answer is a skeleton of fixed text with a few free places. In `{"bbox_2d": [10, 20, 30, 40], "label": "mug"}`, of the
form `bare`, these are four numbers, whether there is a label, and the label. The forms are those of `answer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from groundling.dialect.family import AnswerForm
from groundling.geometry.frame import Frame


class Fixed(NamedTuple):
    """One of these texts comes next."""

    then: tuple[str, ...]


class Number(NamedTuple):
    """A whole number without leading zeros, then one of these texts, none of which begins with a digit."""

    least: int
    most: int
    then: tuple[str, ...]


class Label(NamedTuple):
    """Any text, then one of these, which begin with what closes it: a quote, or a control token.

    A quoted label is a JSON string, a space and its opening quote counted: they are spelled together with what follows.
    """

    then: tuple[str, ...]
    is_quoted: bool


class Filled(NamedTuple):
    """What was written in a place: which of its texts followed, and the number before it, if there was one."""

    branch: int
    value: int = 0


Slot = Fixed | Number | Label
Skeleton = Generator[Slot, Filled, None]
Places = Generator[Slot, Filled, Filled]  # some of a skeleton's places; returns what filled the last

NONE = "[]"  # the answer that there is nothing, in every form


def skeleton(form: AnswerForm, frame: Frame, end: str, *, has_room: Callable[[], bool] = lambda: True) -> Skeleton:
    """The free places of an answer in the text's `frame`, one by one; it is sent what was written in each.

    Numbers stay inside the frame and corners are in order, so every box has an area. `end` is the family's end token,
    which closes the answer. After each thing `has_room` is asked whether another one may follow.
    """
    if form == "tokens":
        return _token_places(frame, end, has_room)
    return _json_places(frame, *AROUND[form], end, has_room if form != "bare" else lambda: False)


def may_begin(prefix: int, least: int, most: int) -> bool:
    """Whether a number from `least` to `most` is `prefix`, or begins with its digits; 0 begins nothing else."""
    low = high = prefix
    while low <= most:
        if high >= least:
            return True
        if prefix == 0:
            return False
        low, high = low * 10, high * 10 + 9
    return False


# ---- JSON: fenced, list, bare ----------------------------------------------------------------------------------

AROUND: dict[AnswerForm, tuple[str, str, str]] = {  # before the first object, between two, after the last
    "fenced": ("```json\n[\n\t", ",\n\t", "\n]\n```"),
    "list": ("[", ", ", "]"),
    "bare": ("", "", ""),
}
_KEYS = ('{"bbox_2d": [', '{"point_2d": [')


def _json_places(
    frame: Frame, opening: str, between: str, closing: str, end: str, has_room: Callable[[], bool]
) -> Skeleton:
    coming = (yield Fixed((NONE + end, *(opening + key for key in _KEYS)))).branch  # 0: the end, 1: a box, 2: a point
    while coming:
        following = [between + key for key in _KEYS] if has_room() else []
        ends = ["}" + text for text in (closing + end, *following)]
        closes = (*("]" + text for text in ends), '], "label":')
        coming = (yield from _box_places(frame, closes) if coming == 1 else _point_places(frame, closes)).branch
        if coming == len(ends):
            coming = (yield Label(tuple('"' + text for text in ends), is_quoted=True)).branch


def _box_places(frame: Frame, closes: tuple[str, ...]) -> Places:
    left = (yield Number(0, frame.width - 1, (", ",))).value
    top = (yield Number(0, frame.height - 1, (", ",))).value
    yield Number(left + 1, frame.width, (", ",))
    return (yield Number(top + 1, frame.height, closes))


def _point_places(frame: Frame, closes: tuple[str, ...]) -> Places:
    yield Number(0, frame.width, (", ",))
    return (yield Number(0, frame.height, closes))


# ---- box tokens ------------------------------------------------------------------------------------------------

_STARTS = ("<|object_ref_start|>", "<|box_start|>(")


def _token_places(frame: Frame, end: str, has_room: Callable[[], bool]) -> Skeleton:
    coming = (yield Fixed((NONE + end, *_STARTS))).branch  # 0: the end, 1: a label, 2: a place
    while coming:
        if coming == 1:
            yield Label(("<|object_ref_end|>" + _STARTS[1],), is_quoted=False)
        ends = tuple(")<|box_end|>" + text for text in (end, *(_STARTS if has_room() else ())))
        coming = (yield from _pair_places(frame, ends)).branch


def _pair_places(frame: Frame, ends: tuple[str, ...]) -> Places:
    """One pair is a point, two are a box; which of them shows behind the first. So no point lies on the far border."""
    left = (yield Number(0, frame.width - 1, (",",))).value
    first = yield Number(0, frame.height - 1, (*ends, "),("))
    if first.branch < len(ends):
        return first
    yield Number(left + 1, frame.width, (",",))
    return (yield Number(first.value + 1, frame.height, ends))
