"""How sure a model was of each box that it wrote, from the probabilities of the tokens that are the box's own.

A box's score is the probability of everything that was chosen for it: that another thing comes here, its four numbers,
its label. A number counts as right wherever it lies within NEAR of the box's side, so a model that wavers between 412
and 413 is sure, and one that wavers between 412 and 530 is not. Why so, and what else was tried: docs/scores.md.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

NEAR = 1 / 8
"""Share of its box's side that a number may be off: with all four off so far, IoU is still 0.56 or more."""

SCORE_DIGITS = 5
"""Of a score: in later ones, and now and then by one in the last, it shows which questions were answered together."""


class Chance(NamedTuple):
    """What a model thought of a token that it was asked for: probabilities among all its tokens."""

    token: float
    digits: Sequence[float]  # of each digit from 0 to 9 in the token's place


class Written(NamedTuple):
    """A token of an answer's text, and what the model thought of it; None where it was not asked."""

    text: str
    chance: Chance | None


class Extent(NamedTuple):
    """Where in a text the numbers of a thing stand, and all that was written for it: from behind the thing before."""

    begin: int
    start: int  # of its numbers
    stop: int
    end: int


class Reading:
    """An answer's tokens, by their places in its text."""

    def __init__(self, text: str, written: Sequence[Written]) -> None:
        self._text = text
        self._written = written
        self._ends = list(accumulate(len(token.text) for token in written))

    def score_box(self, extent: Extent, size_wh: tuple[float, float]) -> float:
        """The probability of a box, 0..1; its size in the units of its numbers."""
        runs = self._find_numbers(extent)
        edges = [extent.begin, *(edge for run in runs for edge in run), extent.end]
        between = zip(edges[::2], edges[1::2], strict=True)
        near = (self._score_number(*run, size_wh[place % 2] * NEAR) for place, run in enumerate(runs))
        return math.prod(self.score_text(*gap) for gap in between) * math.prod(near)

    def score_text(self, start: int, stop: int) -> float:
        """The probability of the tokens that end there; 1 where the model was not asked for any."""
        return math.prod(token.chance.token for token in self._tokens(start, stop) if token.chance)

    def _find_numbers(self, extent: Extent) -> list[tuple[int, int]]:
        """From where to where each of the box's four numbers stands; none where they are not digit by digit."""
        runs = [match.span() for match in _WHOLE.finditer(self._text, extent.start, extent.stop)]
        lengths = [[len(token.text) for token in self._tokens(*run)] for run in runs]
        is_plain = lengths == [[1] * (stop - start) for start, stop in runs]
        return runs if is_plain and len(runs) == 4 else []

    def _score_number(self, start: int, stop: int, slack: float) -> float:
        """The probability of a number no more than `slack` from the one that stands there, and of as many digits.

        Another digit counts where a number so near may follow from it.
        """
        number = int(self._text[start:stop])
        unit = 10 ** (stop - start)
        found, reached = 0.0, 1.0  # reached: by the digits so far
        for token in self._tokens(start, stop):
            before, unit = number // unit * unit, unit // 10
            if token.chance is None:
                continue
            for digit, chance in enumerate(token.chance.digits):
                least = before + digit * unit
                is_near = least - number <= slack and number - (least + unit - 1) <= slack
                if is_near and digit != int(token.text):
                    found += reached * chance
            reached *= token.chance.token
        return found + reached

    def _tokens(self, start: int, stop: int) -> Sequence[Written]:
        """Those whose last letter stands there."""
        return self._written[bisect_right(self._ends, start) : bisect_right(self._ends, stop)]


_WHOLE = re.compile(r"(?<![\d.])\d+", re.ASCII)
