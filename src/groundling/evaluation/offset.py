"""A bias of boxes that are otherwise right: all of them a little to one side, or two of their edges alone.

Rounding down instead of to nearest moves boxes by half a unit; counting pixels from 1 by one; a right side that is the
last pixel inside, not the first outside, makes them one short. Only what holds for x and y alike is believed: a model
may have a bias of its own along one of them, or at one edge, or draw wide.

Edges scatter about as far as boxes are large, so small boxes tell most and weigh most. The four edges are measured
each by a robust mean, with what they have in common (a box that lies to the right has both sides there), and then
explained together: with n boxes the smallest bias that can be told from 0 is about their scatter over sqrt(4 n).

A model may also draw edges off by a share of the box's side. Boxes of several sizes tell that from a bias of units:
both are measured at once, and the share has to be clearly better. Boxes of one size do not tell, and that is said.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from groundling.evaluation.sheet import Sheet
from groundling.evaluation.undo import Undo

_FEWEST, _FEWEST_ANSWERS = 30, 20  # boxes, and the answers that they are of
_BORDER = 0.03  # of a side: boxes that near to the border are cut off there, hence biased
_LEAST, LARGEST = 0.3, 1.4  # units of a shift: half a unit, or one
_SURE = 4.0  # standard errors
_UNFIT = 11.3  # chi square of three numbers that chance exceeds once in a hundred
_CLEARER = 3.0  # chi square over what another bias explains: chance brings it once in 24 at most
_GROWS = 3.0  # standard errors between boxes near to the left and top border and those far from it
_USUALLY = 0.9  # of draws, that show what is said to be seen
_DRAWS = 500
_EVEN = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # units: a box's noise goes with its side and one of these more
_GRAIN = 0.5  # units: the least spread, so that both whole numbers that a value falls between pull in full (_HELD)
_FAR = 5.0  # spreads: what lies farther off is simply wrong
_HELD = 1.345  # spreads: what lies farther off pulls no harder, by Huber's rule
_ROUNDS = 20
_RIDGE = 1e-9  # of what is known: boxes that are all of one size do not tell a bias of units from one of their sides

# How far each edge is moved by a bias of 1: left, top, right, bottom
_ROUNDED = {"boxes": (1, 1, 1, 1), "right and bottom of boxes": (0, 0, 1, 1), "left and top of boxes": (1, 1, 0, 0)}
_WORDS, _ROUNDINGS = tuple(_ROUNDED), np.array([*_ROUNDED.values()])
_OWN = np.array(
    [
        *((1, 0, 1, 0), (0, 1, 0, 1)),  # along x, along y
        *((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),  # one edge
        *((-1, 0, 1, 0), (0, -1, 0, 1), (-1, -1, 1, 1)),  # drawn wide
    ]
)


class Offset(NamedTuple):
    """A bias that was found: to the left and up below 0, else to the right and down."""

    words: str  # what lies aside
    value: float
    error: float
    unit: str
    grows: bool = False  # whether it is clearly more for boxes that lie farther from the left and top border
    or_share: bool = False  # whether a bias of a share of each box's side would explain it about as well

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
    """What was looked at for a bias, and what was found.

    The least are the smallest that usually would have been, in units, of whole boxes and of two of their edges;
    infinite for too few boxes, and where none up to LARGEST would.
    """

    boxes: int  # that are right, and away from the border
    unit: str
    least: float = np.inf
    least_of_two: float = np.inf
    is_odd: bool = False  # whether edges clearly lie off by what is no rounding, which may hide one
    offset: Offset | None = None


def find_offset(sheet: Sheet, undo: Undo, placed: np.ndarray) -> Look:
    """The clearest bias of placed boxes (B, 4), in the units that the model works in, or of the picture.

    What is finer than the model's own units is no rounding, however many pixels of the picture it is: so pixels of the
    picture are looked at only where there is a bias in the former.
    """
    coarse = np.minimum(undo.grid.place(sheet).sides, sheet.seens)
    kept = _right_ones(sheet, placed)
    look = Look(len(kept), _unit_of(sheet, undo, coarse))
    if len(kept) < _FEWEST or len(np.unique(_owners(sheet, kept))) < _FEWEST_ANSWERS:
        return look
    in_own = _measure(sheet, placed, kept, coarse)
    whole, *of_two = (in_own.least(rounding) for rounding in _ROUNDINGS)
    look = look._replace(least=whole, least_of_two=max(of_two), is_odd=in_own.is_odd)
    found = in_own.find(look.unit)
    if found is None:
        return look
    better = _better_by_side(_measure(sheet, placed, kept, coarse, by_side=True))
    if better > _CLEARER:
        return look._replace(is_odd=True)
    in_picture = _measure(sheet, placed, kept, sheet.originals).find("original pixels")
    best = max((offset for offset in (found, in_picture) if offset), key=lambda offset: offset.sure)
    grows = _grows(sheet, placed, kept, coarse)
    return look._replace(offset=best._replace(grows=grows, or_share=better > -_CLEARER))


def _better_by_side(both: Edges) -> float:
    """The chi square that a bias of a share of each box's side explains, over what one of units does."""
    nothing = np.zeros_like(_ROUNDINGS)
    by_units, by_side = np.hstack([_ROUNDINGS, nothing]), np.hstack([nothing, _ROUNDINGS])
    return float(both.explained(by_side).max() - both.explained(by_units).max())


def _grows(sheet: Sheet, placed: np.ndarray, kept: np.ndarray, sides: np.ndarray) -> bool:
    """Whether the farther half of the boxes lies off by more than the nearer one: a scale does that, no rounding."""
    away = sheet.paired_truth[kept].sum(axis=1)
    halves = (kept[away < np.median(away)], kept[away >= np.median(away)])
    if min(len(np.unique(_owners(sheet, half))) for half in halves) < _FEWEST_ANSWERS // 2:  # most lie at one place
        return False
    near, far = (_measure(sheet, placed, half, sides).measure(0, "") for half in halves)
    slack = _GROWS * float(np.hypot(near.error, far.error))
    return bool((far.value - near.value) * np.sign(far.value) > slack)


def _unit_of(sheet: Sheet, undo: Undo, coarse: np.ndarray) -> str:
    if (coarse == sheet.originals).all():
        return "original pixels"
    return "units of the text" if (coarse == undo.grid.place(sheet).sides).all() else "pixels as the model saw them"


def _right_ones(sheet: Sheet, placed: np.ndarray) -> np.ndarray:
    """Which of the pairs overlap by half, away from the border."""
    rows = np.hstack([placed[sheet.pairs.boxes], sheet.paired_truth])
    inside = ((rows > _BORDER) & (rows < 1 - _BORDER)).all(axis=1)
    return np.flatnonzero(inside & (sheet.overlaps(placed) >= 0.5))


def _owners(sheet: Sheet, kept: np.ndarray) -> np.ndarray:
    """(K,) the answers that the pairs are of."""
    return sheet.true_owner[sheet.pairs.truths[kept]]


class Edges(NamedTuple):
    """How far edges lie off, (..., 4), and the inverse, (4, 4), of the covariance of these means.

    Where that is measured by side as well, (..., 8): in units for a box of no size, then by how much more for a mean
    one. Biases, (P, 4) or (P, 8), are how far each edge is moved by one of 1.
    """

    means: np.ndarray
    inverse: np.ndarray

    def values(self, biases: np.ndarray) -> np.ndarray:
        """(..., P) how large each of the biases is where it alone is there."""
        return self.means @ self.inverse @ biases.T * self.errors(biases) ** 2

    def errors(self, biases: np.ndarray) -> np.ndarray:
        """(P,) of these values."""
        return ((biases @ self.inverse) * biases).sum(axis=1) ** -0.5

    def explained(self, biases: np.ndarray) -> np.ndarray:
        """(..., P) what each of the biases takes off the chi square of the means."""
        return (self.values(biases) / self.errors(biases)) ** 2

    @property
    def chi_square(self) -> np.ndarray:
        """(...) of the means."""
        return ((self.means @ self.inverse) * self.means).sum(axis=-1)

    @property
    def roundings(self) -> np.ndarray:
        """(...) which rounding explains the means, if one does, and clearly more than a bias of the model's own; -1."""
        explained = self.explained(_ROUNDINGS)
        best, most = explained.argmax(axis=-1), explained.max(axis=-1)
        sizes = most**0.5 * self.errors(_ROUNDINGS)[best]
        is_one = (most >= _SURE**2) & (sizes >= _LEAST) & (sizes <= LARGEST) & (self.chi_square - most <= _UNFIT)
        return np.where(is_one & (most >= self.explained(_OWN).max(axis=-1) + _CLEARER), best, -1)

    def find(self, unit: str) -> Offset | None:
        """The one rounding that explains the means."""
        place = int(self.roundings)
        return None if place < 0 else self.measure(place, unit)

    def measure(self, place: int, unit: str) -> Offset:
        """The rounding of that place, as large as fits best."""
        value, error = self.values(_ROUNDINGS)[place], self.errors(_ROUNDINGS)[place]
        return Offset(_WORDS[place], float(value), float(error), unit)

    @property
    def is_odd(self) -> bool:
        """Whether they clearly lie off by more than the likeliest rounding, or by one that is too large."""
        explained = self.explained(_ROUNDINGS)
        sizes = np.abs(self.values(_ROUNDINGS))
        return bool(self.chi_square - explained[sizes <= LARGEST].max(initial=0) > _SURE**2)

    def least(self, rounding: np.ndarray) -> float:
        """The smallest one of those edges, (4,), that would usually be found; infinite where none would."""
        spread = np.linalg.inv(self.inverse)
        chance = np.random.default_rng(0).multivariate_normal(np.zeros(4), spread, _DRAWS, check_valid="ignore")
        for size in np.arange(_LEAST, LARGEST, 0.1).round(1).tolist():
            if (Edges(chance + size * rounding, self.inverse).roundings >= 0).mean() >= _USUALLY:
                return size
        return np.inf


def _measure(sheet: Sheet, placed: np.ndarray, kept: np.ndarray, sides: np.ndarray, *, by_side: bool = False) -> Edges:
    """The edges of the pairs that are kept, where pictures measure `sides`, (N, 2)."""
    units = np.tile(sheet.per_pair(sides)[kept], 2)
    truth = sheet.paired_truth[kept] * units
    off = placed[sheet.pairs.boxes[kept]] * units - truth
    box_sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    terms = np.stack([np.ones_like(box_sides), box_sides / box_sides.mean()][: 1 + by_side])
    fits = [_fit(off[:, edge], terms[:, :, edge], _spread(off[:, edge], box_sides[:, edge])) for edge in range(4)]
    means, pulls = (np.stack(each, axis=1).reshape(4 * len(terms), -1) for each in zip(*fits, strict=True))
    _, owner = np.unique(_owners(sheet, kept), return_inverse=True)
    return Edges(means[:, 0], _inverse(np.array([np.bincount(owner, weights=pull) for pull in pulls])))


def _inverse(pulls: np.ndarray) -> np.ndarray:
    """(C, C) that of the covariance of C sums over A answers, (C, A), of which few make it too large (Hartlap 2007)."""
    numbers, answers = pulls.shape
    plain = np.linalg.inv(pulls @ pulls.T + 1e-12 * np.eye(numbers))
    return plain * max(answers - numbers - 2, 1) / (answers - 1)


def _fit(off: np.ndarray, terms: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) what (C, K) terms weigh in (K,) distances by Huber's rule, and (C, K) how far each pulls that to itself."""
    values = np.zeros(len(terms))
    away = off - np.median(off)
    for _ in range(_ROUNDS):
        kept = terms * spread**-2 * np.minimum(1, _HELD * spread / np.maximum(np.abs(away), 1e-12))
        values = _undone(kept, terms) @ kept @ off
        away = off - values @ terms
    moving = terms * spread**-2 * (np.abs(away) < _HELD * spread)  # who is held would pull no harder from farther off
    share = _undone(moving, terms)
    alone = 1 - (share @ moving * terms).sum(axis=0)  # as if each were measured by the others
    return values, share @ terms * np.clip(away, -_HELD * spread, _HELD * spread) / spread**2 / alone


def _undone(weighed: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """(C, C) the inverse of what (C, K) terms tell, singular or not."""
    known = weighed @ terms.T
    return np.linalg.inv(known + _RIDGE * np.trace(known) * np.eye(len(terms)))


def _spread(off: np.ndarray, box_sides: np.ndarray) -> np.ndarray:
    """(K,) how far each may lie off: in proportion to its box's side and some more, whatever is most likely."""
    away = np.abs(off - np.median(off))
    tried = []
    for even in _EVEN:
        noise = box_sides + even
        tried.append(np.maximum(1.4826 * float(np.median(away / noise)) * noise, _GRAIN))
    return min(tried, key=lambda spread: float((np.log(spread) + np.minimum(away / spread, _FAR)).mean()))
