"""A bias of boxes that are otherwise right: all of them a little to one side, or two of their edges alone.

Rounding down instead of to nearest moves boxes by half a unit; counting pixels from 1 by one; a right side that is the
last pixel inside, not the first outside, makes them one short. Only what holds for x and y alike is believed: a model
may have a bias of its own along one of them, or at one edge, or draw wide.

Edges scatter about as far as boxes are large, so small boxes tell most and weigh most. The four edges are measured
each by a robust mean, with what they have in common (a box that lies to the right has both sides there), and then
explained together: with n boxes the smallest bias that can be told from 0 is about their scatter over sqrt(4 n).

A model may also draw edges off by a share of the box's side. Measured as such, that explains more than a bias of units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from groundling.evaluation.sheet import Sheet
from groundling.evaluation.undo import Undo

_FEWEST = 30  # boxes
_BORDER = 0.03  # of a side: boxes that near to the border are cut off there, hence biased
_LEAST, LARGEST = 0.3, 1.4  # units of a shift: half a unit, or one
_SURE = 4.5  # standard errors
_UNFIT = 16.3  # chi square of three numbers that chance exceeds once in a thousand
_CLEARER = 4.0  # chi square over what a bias of the model's own explains: two standard errors
_GROWS = 3.0  # standard errors between boxes near to the left and top border and those far from it
_USUALLY = 1.3  # standard errors more, with which nine in ten are seen
_EVEN = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # units: a box's noise goes with its side and one of these more
_GRAIN = 0.3  # units: the least spread, for whole numbers are at most that near to each other
_FAR = 5.0  # spreads: what lies farther off is simply wrong
_ROUNDS = 20


class Pattern(NamedTuple):
    """How far each edge is moved by a bias of 1: left, top, right, bottom. `words` is empty for a model's own."""

    words: str
    edges: tuple[int, int, int, int]


_ROUNDED = (
    Pattern("boxes", (1, 1, 1, 1)),
    Pattern("right and bottom of boxes", (0, 0, 1, 1)),
    Pattern("left and top of boxes", (1, 1, 0, 0)),
)
_OWN = (
    *(Pattern("", edges) for edges in ((1, 0, 1, 0), (0, 1, 0, 1))),  # along x, along y
    *(Pattern("", edges) for edges in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))),  # one edge
    *(Pattern("", edges) for edges in ((-1, 0, 1, 0), (0, -1, 0, 1), (-1, -1, 1, 1))),  # drawn wide
)


class Offset(NamedTuple):
    """A bias that was found: to the left and up below 0, else to the right and down."""

    words: str  # what lies aside
    value: float
    error: float
    unit: str
    grows: bool = False  # whether it is clearly more for boxes that lie farther from the left and top border

    @property
    def sure(self) -> float:
        """In standard errors."""
        return abs(self.value) / self.error

    @property
    def size(self) -> str:
        """Whatever its sign, with the 95 % interval."""
        size, slack = abs(self.value), 1.96 * self.error
        return f"{size:.2f} [{size - slack:.2f}, {size + slack:.2f}]"


class Look(NamedTuple):
    """What was looked at for a bias, and what was found. `least` is the smallest that would usually have been."""

    boxes: int  # that are right, and away from the border
    least: float  # units; infinite for too few boxes
    unit: str
    offset: Offset | None


def find_offset(sheet: Sheet, undo: Undo, placed: np.ndarray) -> Look:
    """The clearest bias of placed boxes (B, 4), in the units that the model works in, or of the picture.

    What is finer than the model's own units is no rounding, however many pixels of the picture it is: so pixels of the
    picture are looked at only where there is a bias in the former.
    """
    coarse = np.minimum(undo.grid.place(sheet).sides, sheet.seens)
    unit = _unit_of(sheet, undo, coarse)
    kept = _right_ones(sheet, placed)
    if len(kept) < _FEWEST:
        return Look(len(kept), np.inf, unit, None)
    in_own = _measure(sheet, placed, kept, coarse, _EVENLY)
    found = in_own.find(unit)
    if found is None or _measure(sheet, placed, kept, coarse, _BY_SIDE).rounded >= in_own.rounded:
        return Look(len(kept), in_own.least, unit, None)
    in_picture = _measure(sheet, placed, kept, sheet.originals, _EVENLY).find("original pixels")
    best = max((offset for offset in (found, in_picture) if offset), key=lambda offset: offset.sure)
    return Look(len(kept), in_own.least, unit, best._replace(grows=_grows(sheet, placed, kept, coarse)))


def _grows(sheet: Sheet, placed: np.ndarray, kept: np.ndarray, sides: np.ndarray) -> bool:
    """Whether the farther half of the boxes lies off by more than the nearer one: a scale does that, no rounding."""
    away = sheet.paired_truth[kept].sum(axis=1)
    halves = (kept[away < np.median(away)], kept[away >= np.median(away)])
    near, far = (_measure(sheet, placed, half, sides, _EVENLY).measure(_ROUNDED[0], "") for half in halves)
    slack = _GROWS * float(np.hypot(near.error, far.error))
    return (far.value - near.value) * np.sign(far.value) > slack


def _unit_of(sheet: Sheet, undo: Undo, coarse: np.ndarray) -> str:
    if (coarse == sheet.originals).all():
        return "original pixels"
    return "units of the text" if (coarse == undo.grid.place(sheet).sides).all() else "pixels as the model saw them"


def _right_ones(sheet: Sheet, placed: np.ndarray) -> np.ndarray:
    """Which of the pairs overlap by half, away from the border."""
    rows = np.hstack([placed[sheet.pairs.boxes], sheet.paired_truth])
    inside = ((rows > _BORDER) & (rows < 1 - _BORDER)).all(axis=1)
    return np.flatnonzero(inside & (sheet.overlaps(placed) >= 0.5))


Growth = Callable[[np.ndarray], np.ndarray]
_EVENLY: Growth = np.ones_like
_BY_SIDE: Growth = np.copy
"""How many times its value a bias moves boxes of such (K,) sides."""


class Edges(NamedTuple):
    """How far edges lie off, (4,) in units or in shares of a box's side.

    And the inverse, (4, 4), of the covariance of these means.
    """

    means: np.ndarray
    inverse: np.ndarray

    def explained(self, pattern: Pattern) -> float:
        """What a bias of that pattern takes off the chi square of the means."""
        edges = np.array(pattern.edges)
        return float((edges @ self.inverse @ self.means) ** 2 / (edges @ self.inverse @ edges))

    @property
    def rounded(self) -> float:
        """What the best of the roundings explains."""
        return max(map(self.explained, _ROUNDED))

    def find(self, unit: str) -> Offset | None:
        """The one rounding that explains the means, if one does, and clearly more than a bias of the model's own."""
        best = max(_ROUNDED, key=self.explained)
        explained = self.explained(best)
        left = float(self.means @ self.inverse @ self.means) - explained
        if explained < _SURE**2 or left > _UNFIT or explained < max(map(self.explained, _OWN)) + _CLEARER:
            return None
        found = self.measure(best, unit)
        return found if _LEAST <= abs(found.value) <= LARGEST else None

    def measure(self, pattern: Pattern, unit: str) -> Offset:
        """The bias of that pattern that fits best."""
        edges = np.array(pattern.edges)
        weight = float(edges @ self.inverse @ edges)
        return Offset(pattern.words, float(edges @ self.inverse @ self.means) / weight, weight**-0.5, unit)

    @property
    def least(self) -> float:
        """The smallest shift of whole boxes that would be found nine times in ten."""
        boxes = _ROUNDED[0]
        moved = Edges(np.array(boxes.edges, dtype=np.float64), self.inverse)  # by one unit
        explained = moved.explained(boxes)
        clearer = explained - max(map(moved.explained, _OWN))
        return max(_LEAST, (_SURE + _USUALLY) / explained**0.5, (_CLEARER**0.5 + _USUALLY) / max(clearer, 1e-9) ** 0.5)


def _measure(sheet: Sheet, placed: np.ndarray, kept: np.ndarray, sides: np.ndarray, growth: Growth) -> Edges:
    """The edges of the pairs that are kept, where pictures measure `sides`, (N, 2)."""
    units = np.tile(sheet.per_pair(sides)[kept], 2)
    truth = sheet.paired_truth[kept] * units
    off = placed[sheet.pairs.boxes[kept]] * units - truth
    box_sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    owner = sheet.true_owner[sheet.pairs.truths[kept]]
    means, pulls = zip(*(_mean(off[:, edge], box_sides[:, edge], growth) for edge in range(4)), strict=True)
    by_answer = np.array([np.bincount(owner, weights=pull) for pull in pulls])
    return Edges(np.array(means), np.linalg.inv(by_answer @ by_answer.T + 1e-12 * np.eye(4)))


def _mean(off: np.ndarray, box_sides: np.ndarray, growth: Growth) -> tuple[float, np.ndarray]:
    """Huber's mean of (K,) distances whose spread goes with a box's side, and how far each pulls it to itself."""
    times = growth(box_sides)
    off, spread = off / times, _spread(off, box_sides) / times
    value, kept = float(np.median(off)), spread**-2
    for _ in range(_ROUNDS):
        kept = spread**-2 * np.minimum(1, 1.345 * spread / np.maximum(np.abs(off - value), 1e-12))
        value = float((kept * off).sum() / kept.sum())
    share = kept / kept.sum()
    return value, share * (off - value) / (1 - share)  # as if each were measured by the others


def _spread(off: np.ndarray, box_sides: np.ndarray) -> np.ndarray:
    """(K,) how far each may lie off: in proportion to its box's side and some more, whatever is most likely."""
    away = np.abs(off - np.median(off))
    tried = []
    for even in _EVEN:
        noise = box_sides + even
        tried.append(np.maximum(1.4826 * float(np.median(away / noise)) * noise, _GRAIN))
    return min(tried, key=lambda spread: float((np.log(spread) + np.minimum(away / spread, _FAR)).mean()))
