"""A bias of boxes that are otherwise right: all of them a little to one side, or all a little short.

Rounding down instead of to nearest moves boxes by half a unit; counting pixels from 1 by one; a right side that is the
last pixel inside, not the first outside, makes them one short. Only what holds for x and y alike is believed: a model
may have a bias of its own along one of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from groundling.evaluation.sheet import Sheet, overlaps
from groundling.evaluation.undo import Undo

_FEWEST = 30  # boxes
_BORDER = 0.03  # of a side: boxes that near to the border are cut off there, hence biased
_LEAST, _MOST = 0.3, 1.4  # units of a shift: half a unit, or one
_SURE = 4.5  # standard errors, along x and along y
_ALIKE = 3.5  # standard errors between x and y
_NOISY = 10.0  # units: a box's noise goes with its side and this much more, 0.3 of rounding over 0.03 of a side
_GRAIN = 0.3  # units: the least spread, for whole numbers are at most that near to each other
_ROUNDS = 20


class Mean(NamedTuple):
    """A robust mean of something along one axis, and its standard error; in units."""

    value: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether it is clearly not 0."""
        return abs(self.value) >= _SURE * self.error

    def __str__(self) -> str:
        """Its size, whatever its sign, and the 95 % interval."""
        size = abs(self.value)
        return f"{size:.2f} [{size - 1.96 * self.error:.2f}, {size + 1.96 * self.error:.2f}]"


class Offset(NamedTuple):
    """A bias that was found, in x and y."""

    x: Mean
    y: Mean
    unit: str
    is_short: bool  # whether right and bottom alone are off
    boxes: int

    @property
    def sure(self) -> float:
        """The smaller of the two, in standard errors."""
        return min(abs(mean.value) / max(mean.error, 1e-9) for mean in (self.x, self.y))


def find_offset(sheet: Sheet, undo: Undo) -> Offset | None:
    """The clearest bias, in the units that the model works in or of the picture; None where the former show none."""
    placed = undo.place(sheet)
    answered, truth, owner = _right_ones(sheet, placed)
    if len(answered) < _FEWEST:
        return None
    text = undo.grid.place(sheet).sides
    coarse = np.minimum(text, sheet.seens)
    unit = "units of the text" if (coarse == text).all() else "pixels as the model saw them"
    seen, in_picture = (
        _offsets(answered * np.tile(sides[owner], 2), truth * np.tile(sides[owner], 2), words)
        for sides, words in ((coarse, unit), (sheet.originals, "original pixels"))
    )
    # what is finer than the model's own units is no rounding, however many pixels of the picture it is
    return max(seen + (in_picture if seen else []), key=lambda offset: offset.sure, default=None)


def _right_ones(sheet: Sheet, placed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, 4) answered and true boxes that overlap by half, away from the border, and (K,) whose they are."""
    answered, truth = placed[sheet.pairs.boxes], sheet.truth[sheet.pairs.truths]
    inside = [((rows > _BORDER) & (rows < 1 - _BORDER)).all(axis=1) for rows in (answered, truth)]
    kept = (overlaps(answered, truth) >= 0.5) & inside[0] & inside[1]
    return answered[kept], truth[kept], sheet.true_owner[sheet.pairs.truths][kept]


def _offsets(answered: np.ndarray, truth: np.ndarray, unit: str) -> list[Offset]:
    """Of the middles, and of right and bottom alone."""
    off, sides = answered - truth, truth[:, 2:] - truth[:, :2]
    noise = sides + _NOISY
    starts = [_mean(off[:, axis], noise[:, axis]) for axis in (0, 1)]
    ends = [_mean(off[:, axis + 2], noise[:, axis]) for axis in (0, 1)]
    middles = [_mean((off[:, axis] + off[:, axis + 2]) / 2, noise[:, axis]) for axis in (0, 1)]
    found = []
    if all(_is_one_shift(*means) for means in (middles, starts, ends)):
        found.append(Offset(middles[0], middles[1], unit, False, len(off)))
    if _is_one_shift(*ends) and all(abs(mean.value) < _LEAST and not mean.is_sure for mean in starts):
        found.append(Offset(ends[0], ends[1], unit, True, len(off)))
    return found


def _is_one_shift(x: Mean, y: Mean) -> bool:
    """Whether both are clearly off, by about as much, and by no more than a rounding can do."""
    if not (x.is_sure and y.is_sure and x.value * y.value > 0):
        return False
    if not all(_LEAST <= abs(mean.value) <= _MOST for mean in (x, y)):
        return False
    return abs(x.value - y.value) <= _ALIKE * float(np.hypot(x.error, y.error))


def _mean(values: np.ndarray, noise: np.ndarray) -> Mean:
    """Huber's mean of values whose spread goes with `noise`."""
    weights = noise**-2.0
    value = float(np.median(values))
    kept = weights
    for _ in range(_ROUNDS):
        off = np.abs(values - value)
        spread = np.maximum(1.4826 * float(np.median(off / noise)) * noise, _GRAIN)
        kept = weights * np.minimum(1, 1.345 * spread / np.maximum(off, 1e-12))
        value = float((kept * values).sum() / kept.sum())
    return Mean(value, float(np.sqrt(((kept * (values - value)) ** 2).sum()) / kept.sum()))
