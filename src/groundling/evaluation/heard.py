"""The first box or point that an answer names, in whatever words: what calibrating takes from a model that it asks.

Nobody has told yet how the model writes, so more is read here than the answer forms of `dialect/answer.py`:

    [{"bbox_2d": [10, 20, 30, 40]}]                     JSON and box tokens, as everywhere
    <box>(10,20),(30,40)</box>                          numbers alone between tags
    <loc0020><loc0010><loc0040><loc0030>                PaliGemma's, y before x; <loc_10>... is Florence-2's
    <point x="63.5" y="44.2" alt="a mug">a mug</point>  Molmo's points, the first of <points x1="..." y1="..." x2=...>
    <points coords="1 1 635 442">a mug</points>         Molmo2's: picture, point, x, y
    {"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40}    four numbers by name: x1, left, width, cx and the like
    It is between (10, 20) and (30, 40).                two pairs, or four numbers, in brackets
    10, 20, 30, 40                                      four numbers alone on a line, or after a colon

Numbers that stand otherwise, as in "2 dogs in picture 1", are no box. Sources: the vendors' code, and the processors of
transformers for Florence-2 and PaliGemma (2026).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from groundling.dialect.answer import read_items
from groundling.evaluation.cards import Card
from groundling.evaluation.conventions import Numbers
from groundling.geometry.frame import Frame


class Heard(NamedTuple):
    """What was answered to a card: a box's four numbers or a point's two.

    `seen` is the frame that the model saw the upright card in, if known.
    """

    card: Card
    numbers: Numbers
    seen: Frame | None

    @property
    def is_point(self) -> bool:
        """Whether it is two numbers."""
        return len(self.numbers) == 2

    @property
    def corners(self) -> Numbers:
        """The four numbers; a point is a box of no size."""
        return self.numbers * 2 if self.is_point else self.numbers

    @property
    def truth(self) -> np.ndarray:
        """(1, 4) where the thing is, in pixels of the upright card; for a point its middle, twice."""
        return np.tile(self.card.box.centers().xy, 2) if self.is_point else self.card.box.xyxy


_LONGEST = 100_000  # characters of an answer that are looked through
_MOST = 1e6  # no coordinate of a card is so large in any convention


def read_numbers(text: str) -> Numbers | None:
    """The first box of an answer, else its first point, in its own order and units; None where there is neither."""
    text = _skip_thoughts(text[:_LONGEST])
    numbers = _read_molmo(text) or _read_dialect(text) or _read_named(text) or _read_words(text)
    return numbers if numbers and max(map(abs, numbers)) <= _MOST else None


def _skip_thoughts(text: str) -> str:
    _, end, words = text.rpartition("</think>")
    return "" if not end and text.lstrip().startswith("<think>") else words


def _read_dialect(text: str) -> Numbers | None:
    """What the reader of answers takes."""
    items = sorted(read_items(text), key=lambda item: len(item.numbers) == 2)  # boxes first, else in order
    return items[0].numbers if items else None


# ---- other words -----------------------------------------------------------------------------------------------

_NUMBER = r"-?\d{1,20}(?:\.\d{1,20})?"  # a length, for nobody counts further and a search stays quick
_GAP = r"[ \t,;]++"
_TWO = rf"{_NUMBER}%?{_GAP}{_NUMBER}%?"
_FOUR = rf"{_TWO}{_GAP}{_TWO}"
_OPEN, _CLOSE = r"[(\[{]\s*+", r"\s*+[)\]}]"

_MOLMO = re.compile(rf"""<points?\b[^<>]*?\sx1?="({_NUMBER})"\s+y1?="({_NUMBER})\"""", re.ASCII)
_MOLMO_2 = re.compile(rf"""<points?\b[^<>]*?\scoords="\d+ \d+ ({_NUMBER}) ({_NUMBER})[ "]""", re.ASCII)
_NAME = r"(?:[xy](?:_?(?:[012]|min|max|cent(?:er|re)))?|c_?[xy]|left|top|right|bottom|width|height|[wh])"
_VALUE = rf"""[ \t]*+[:=][ \t]*+["']?({_NUMBER})"""
_NAMED = re.compile(
    rf"""\b{_NAME}["'*]{{0,3}}{_VALUE}""" + rf"""[^\w:=-]{{1,20}}\b{_NAME}["'*]{{0,3}}{_VALUE}""" * 3,
    re.ASCII | re.IGNORECASE,
)
_WORDS = tuple(
    re.compile(form, re.ASCII | re.MULTILINE)
    for form in (
        r"(?:<(?:loc_?)?\d{1,4}>\s?){4}",
        rf"{_OPEN}{_FOUR}{_CLOSE}",
        rf"{_OPEN}{_TWO}{_CLOSE}[^\d()\[\]{{}}]{{0,60}}{_OPEN}{_TWO}{_CLOSE}",
        rf"(?:^|[:=>])[ \t]*+{_FOUR}[ \t]*+\.?[ \t]*+(?:$|<)",
        rf"\A\s*+{_OPEN}{_TWO}{_CLOSE}\s*+\.?\s*+\Z",
    )
)


def _read_molmo(text: str) -> Numbers | None:
    match = _MOLMO.search(text) or _MOLMO_2.search(text)
    return tuple(map(float, match.groups())) if match else None


def _read_named(text: str) -> Numbers | None:
    match = _NAMED.search(text)
    return tuple(map(float, match.groups())) if match else None


def _read_words(text: str) -> Numbers | None:
    match = next((match for form in _WORDS if (match := form.search(text))), None)
    return tuple(map(float, re.findall(_NUMBER, match.group(), re.ASCII))) if match else None
