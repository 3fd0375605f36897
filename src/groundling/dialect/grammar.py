"""The grammar of an answer: what may come next at each place, so that whatever is written can be read back.

An answer is a skeleton of fixed text with a few free places. In `{"bbox_2d": [10, 20, 30, 40], "label": "mug"}`, of the
form `bare`, these are four numbers, whether there is a label, and the label. The forms are those of `answer.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from groundling.dialect.family import AnswerForm
from groundling.geometry.frame import Frame


class Fixed(NamedTuple):
    """One of these texts comes next."""

    then: tuple[str, ...]
    more: int = 0  # none begins another thing: what they begin is the first


class Number(NamedTuple):
    """A whole number without leading zeros, then one of these texts, none of which begins with a digit.

    With `more`, so many texts behind the first begin another thing, and the first ends the answer.
    """

    least: int
    most: int
    then: tuple[str, ...]
    more: int = 0


class Label(NamedTuple):
    """Any text, then one of these, which begin with what closes it: a quote, or a control token.

    A quoted label is a JSON string, a space and its opening quote counted: they are spelled together with what follows.
    `more` is as in Number.
    """

    then: tuple[str, ...]
    is_quoted: bool
    more: int = 0


class Filled(NamedTuple):
    """What was written in a place: which of its texts followed, and the number before it, if there was one."""

    branch: int
    value: int = 0


Slot = Fixed | Number | Label
Skeleton = Generator[Slot, Filled, None]
Places = Generator[Slot, Filled, Filled]  # some of a skeleton's places; returns what filled the last

NONE = "[]"  # the answer that there is nothing, in every form


def skeleton(form: AnswerForm, frame: Frame, end: str) -> Skeleton:
    """The free places of an answer in the text's `frame`, one by one; it is sent what was written in each.

    Numbers stay inside the frame and corners are in order, so every box has an area. `end` is the family's end token,
    which closes the answer. There may be any number of things, but one alone in the form `bare`.
    """
    if form == "tokens":
        return _token_places(frame, end)
    return _json_places(frame, *AROUND[form], end, is_one=form == "bare")


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


def _json_places(frame: Frame, opening: str, between: str, closing: str, end: str, *, is_one: bool) -> Skeleton:
    coming = (yield Fixed((NONE + end, *(opening + key for key in _KEYS)))).branch  # 0: the end, 1: a box, 2: a point
    more = () if is_one else tuple(between + key for key in _KEYS)
    ends = ["}" + text for text in (closing + end, *more)]
    closes = (*("]" + text for text in ends), '], "label":')
    while coming:
        places = _box_places if coming == 1 else _point_places
        coming = (yield from places(frame, closes, len(more))).branch
        if coming == len(ends):
            coming = (yield Label(tuple('"' + text for text in ends), is_quoted=True, more=len(more))).branch


def _box_places(frame: Frame, closes: tuple[str, ...], more: int) -> Places:
    left = (yield Number(0, frame.width - 1, (", ",))).value
    top = (yield Number(0, frame.height - 1, (", ",))).value
    yield Number(left + 1, frame.width, (", ",))
    return (yield Number(top + 1, frame.height, closes, more))


def _point_places(frame: Frame, closes: tuple[str, ...], more: int) -> Places:
    yield Number(0, frame.width, (", ",))
    return (yield Number(0, frame.height, closes, more))


# ---- box tokens ------------------------------------------------------------------------------------------------

_STARTS = ("<|object_ref_start|>", "<|box_start|>(")


def _token_places(frame: Frame, end: str) -> Skeleton:
    coming = (yield Fixed((NONE + end, *_STARTS))).branch  # 0: the end, 1: a label, 2: a place
    ends = tuple(")<|box_end|>" + text for text in (end, *_STARTS))
    while coming:
        if coming == 1:
            yield Label(("<|object_ref_end|>" + _STARTS[1],), is_quoted=False)
        coming = (yield from _pair_places(frame, ends)).branch


def _pair_places(frame: Frame, ends: tuple[str, ...]) -> Places:
    """One pair is a point, two are a box; which of them shows behind the first. So no point lies on the far border."""
    left = (yield Number(0, frame.width - 1, (",",))).value
    first = yield Number(0, frame.height - 1, (*ends, "),("), len(_STARTS))
    if first.branch < len(ends):
        return first
    yield Number(left + 1, frame.width, (",",))
    return (yield Number(first.value + 1, frame.height, ends, len(_STARTS)))
