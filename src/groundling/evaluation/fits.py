"""Grids of a size, a shift or a scale that the answers tell. What is found that way may be any, so it is believed less.

All are found in one manner: many are tried, as single answers suggest them, by what they make the answers worth; the
best is fitted again to all boxes that it makes overlap their targets by half.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from groundling.dialect.family import Family
from groundling.evaluation.grids import (
    CORNER,
    MIDDLE,
    ORDERS,
    PIXELS,
    SIDES,
    SQUARE_UNITS,
    STEPS,
    Grid,
    Kind,
    Padding,
    Placement,
    SquareUnit,
    in_squares,
    length,
    longer_side,
    resized,
)
from groundling.evaluation.sheet import Sheet, settle
from groundling.evaluation.undo import Undo

_TRIES = 80  # sizes, each suggested by one answer
_DRAWS = 150  # shifts, or lines of two answers
_REFINED = 3  # times that the best is fitted again
_FEWEST = 3  # pairs to fit anything to
_LEAST_SIDE = 1e-3  # of the picture: a box's noise goes with its side, but for the smallest


def fitted(sheet: Sheet, orders: Sequence[str], seed: int) -> Iterator[Undo]:
    """The best of every kind, in each of those orders."""
    for order in orders:
        yield from fit_rules(sheet, order, seed)
        yield from fit_budgets(sheet, order)
        yield from fit_squares(sheet, order)
        yield from fit_shifts(sheet, order, seed)
        yield fit_shrunk(sheet, order)
        for in_pixels in (False, True):
            line = fit_line(sheet, order, seed, in_pixels=in_pixels)
            if line is not None:
                yield lined(order, line)


Place = Callable[[np.ndarray], np.ndarray]
"""From (S, ...) things that are tried to the (S, B, 4) boxes on the unit square that each makes."""


def _best_of(sheet: Sheet, place: Place, tried: np.ndarray) -> np.ndarray:
    """The one of (S, ...) whose boxes overlap most."""
    return tried[sheet.worth(place(tried)).argmax()]


def _refined(
    sheet: Sheet, place: Place, best: np.ndarray, fit: Callable[[np.ndarray], np.ndarray | float]
) -> np.ndarray:
    """The best, found again from the pairs that overlap by half with it: `fit` takes (K,) marks of them."""
    for _ in range(_REFINED):
        fits = sheet.overlaps(place(best[None])[0]) >= 0.5
        if fits.sum() < _FEWEST:
            break
        best = np.asarray(fit(fits))
    return best


def _shares(sheet: Sheet, order: str) -> np.ndarray:
    """(B, 4) corners in shares of the frames that they were read in."""
    return ORDERS[order].read(sheet.numbers) / sheet.per_box(sheet.reads)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(total, total[-1] / 2), len(values) - 1)])


# ---- one size ---------------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """A grid with one size left open: (N, 2) sides of the picture, and its corner, for a size of 1."""

    words: str  # with {size}, in {area} squared, or {times}
    base: Callable[[np.ndarray], Placement]
    cost: float = 1.6
    kind: Kind = "fitted"


RULES = (
    Rule(
        "pixels of the picture, padded at the right and bottom or not, its longer side resized to {size}",
        lambda wh: Placement(wh / longer_side(wh)),
    ),
    Rule(
        "pixels of the picture, its shorter side resized to {size}",
        lambda wh: Placement(wh / wh.min(axis=1, keepdims=True)),
    ),
    Rule("pixels of the picture resized to a width of {size}", lambda wh: Placement(wh / wh[:, :1])),
    Rule("pixels of the picture resized to a height of {size}", lambda wh: Placement(wh / wh[:, 1:])),
    Rule("pixels of the picture {times:.3g} times as large", lambda wh: Placement(wh), 1.82),
    Rule(
        "pixels of the picture resized to about {size} x {size} = {area} pixels",
        lambda wh: Placement(wh / np.sqrt(wh.prod(axis=1, keepdims=True))),
    ),
    Rule("{size}ths of the picture's sides", lambda wh: Placement(np.ones_like(wh))),
    Rule(
        "pixels of a square of {size} with the picture in its middle",
        lambda wh: Placement(wh / longer_side(wh), (1 - wh / longer_side(wh)) / 2),
        1.8,
        "padded_to",
    ),
)


def fit_rules(sheet: Sheet, order: str, seed: int) -> Iterator[Undo]:
    """For each rule the size that makes the answers worth most."""
    for rule in RULES:
        size = _fit_size(sheet, order, rule, seed)
        if size is not None:
            yield Undo(order, _ruled(rule, size))


def _ruled(rule: Rule, size: float) -> Grid:
    def place(sheet: Sheet) -> Placement:
        base = rule.base(sheet.originals)
        return Placement(base.sides * size, base.starts * size)

    words = rule.words.format(size=length(size), area=length(size**2), times=size)
    return Grid(words, rule.kind, rule.cost, place)


def _fit_size(sheet: Sheet, order: str, rule: Rule, seed: int) -> float | None:
    """The size whose boxes overlap most; None where no answer suggests one."""
    base = rule.base(sheet.originals)
    rows = ORDERS[order].read(sheet.numbers)
    shares, starts = rows / sheet.per_box(base.sides), sheet.per_box(base.starts / base.sides)
    middles = _middles(sheet.paired_truth) * sheet.per_pair(base.sides) + sheet.per_pair(base.starts)
    true_sides = _sides(sheet.paired_truth) * sheet.per_pair(base.sides)
    ratios = _over(_middles(rows[sheet.pairs.boxes]), middles)
    weights = _over(middles, true_sides)  # the noise goes with a box's side
    if not (ratios > 0).any():
        return None

    def place(sizes: np.ndarray) -> np.ndarray:
        return settle(shares / sizes[:, None, None] - starts)

    tried = np.random.default_rng(seed).choice(ratios[ratios > 0], _TRIES)
    best = _best_of(sheet, place, tried)
    return float(
        _refined(sheet, place, best, lambda fits: _weighted_median(ratios[fits].ravel(), weights[fits].ravel()))
    )


def _middles(rows: np.ndarray) -> np.ndarray:
    return (rows[:, :2] + rows[:, 2:]) / 2


def _sides(rows: np.ndarray) -> np.ndarray:
    return rows[:, 2:] - rows[:, :2]


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Their ratios; 0 where there is none."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


_SCANNED = np.geomspace(20_000, 20_000_000, 60)  # pixels; each side changes by 6 % from one to the next
_CLOSER = np.linspace(0.9, 1.1, 9)  # of the best of them


def fit_budgets(sheet: Sheet, order: str) -> Iterator[Undo]:
    """For each size of visual tokens the budget whose boxes overlap most, where it is none of BUDGETS."""
    for family in STEPS:
        place = _budgeted(sheet, order, family)
        best = float(_best_of(sheet, place, _SCANNED))
        best = float(_best_of(sheet, place, best * _CLOSER))
        words, _, sides = resized(round(best), family)
        yield Undo(order, Grid(words, "fitted", 1.5, lambda sheet, sides=sides: Placement(sides(sheet))))


def _budgeted(sheet: Sheet, order: str, family: Family) -> Place:
    rows = ORDERS[order].read(sheet.numbers)

    def place(budgets: np.ndarray) -> np.ndarray:
        sides = np.array([resized(round(budget), family).sides(sheet) for budget in budgets.tolist()])
        return settle(rows / sheet.per_box(sides))

    return place


# ---- the side of a square that pictures are padded to ----------------------------------------------------------

_SMALLEST_SIDE, _LARGEST_SIDE = 196, 4096
_SIDES = np.array([*SIDES, *np.geomspace(_SMALLEST_SIDE, _LARGEST_SIDE, 100)])  # 3 % from one to the next
_NEARER = np.linspace(0.97, 1.03, 25)  # of the best of them
_AS_GOOD = 0.003  # of value: a usual side is believed before one that is better by no more
# Where no picture is larger than the square, or all are of one size, it is one scale or one shift of all boxes too: a
# usual side is believed before either, another after both
_UNUSUAL = 0.15  # of cost


class Square(NamedTuple):
    """A square of some side, and a picture in it that was shrunk to fit, never enlarged."""

    words: str  # with {side}
    kind: Kind
    cost: float
    unit: SquareUnit
    padding: Padding

    def place(self, sheet: Sheet, side: float) -> Placement:
        """The pictures in squares of that side."""
        squares = np.full_like(sheet.originals, side)
        shrunk = sheet.originals * np.minimum(side / longer_side(sheet.originals), 1)
        return in_squares(shrunk, squares, self.unit.sides(sheet, squares), self.padding)


_IN_SQUARE = "a square of {side:.0f} with the picture, shrunk where it is larger,"
SQUARES = (
    Square(
        "pixels of the picture, padded at the right and bottom or not, its longer side shrunk to at most {side:.0f}",
        "fitted",
        1.65,
        PIXELS,
        CORNER,
    ),
    *(
        Square(f"{unit.words} {_IN_SQUARE} {padding.words}", "padded_to", 1.81, unit, padding)
        for unit, padding in itertools.product(SQUARE_UNITS, (MIDDLE, CORNER))
        if (unit, padding) != (PIXELS, CORNER)  # which is the first, for padding there shows in no number
    ),
)


def fit_squares(sheet: Sheet, order: str) -> Iterator[Undo]:
    """For each square the side whose boxes overlap most."""
    rows = ORDERS[order].read(sheet.numbers)
    for square in SQUARES:
        side = _fit_side(sheet, rows, square)
        cost = square.cost + (side not in SIDES) * _UNUSUAL
        yield Undo(order, Grid(square.words.format(side=side), square.kind, cost, partial(square.place, side=side)))


def _fit_side(sheet: Sheet, rows: np.ndarray, square: Square) -> float:
    """The best side; a usual one where that is as good."""

    def place(sides: np.ndarray) -> np.ndarray:
        placements = [square.place(sheet, side) for side in sides.tolist()]
        starts, lengths = np.array([(each.starts, each.sides) for each in placements]).swapaxes(0, 1)
        return settle((rows - sheet.per_box(starts)) / sheet.per_box(lengths))

    best = _best_of(sheet, place, _SIDES)
    best = _best_of(sheet, place, best * _NEARER)
    usual = _best_of(sheet, place, np.array(SIDES))
    found, known = sheet.worth(place(np.array([best, usual])))
    return float(usual if known >= found - _AS_GOOD else best)


# ---- one share --------------------------------------------------------------------------------------------------

_MOST_SHRUNK = 1.25  # times as near to the picture's middle, or as far: more is no habit of a model
_SHRUNK = np.linspace(1 / _MOST_SHRUNK, _MOST_SHRUNK, 91)


def fit_shrunk(sheet: Sheet, order: str) -> Undo:
    """The boxes nearer to the picture's middle than their targets, or farther from it, all by one share."""
    shares = _shares(sheet, order)
    share = float(_best_of(sheet, lambda tried: settle((shares - 0.5) / tried[:, None, None] + 0.5), _SHRUNK))
    way = "shrink towards" if share < 1 else "spread from"
    return Undo(
        order,
        Grid(
            f"{way} the middle of the picture by {abs(1 - share):.0%}",
            "shrunk",
            1.79,
            lambda sheet: Placement(sheet.reads * share, sheet.reads * (1 - share) / 2),
        ),
    )


# ---- one shift --------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """What a shift may be measured in; `sides` are (N, 2) of the pictures."""

    words: str
    cost: float
    sides: Callable[[Sheet], np.ndarray]


UNITS = (
    Unit("units of the text", 1.9, lambda sheet: sheet.reads),
    Unit("original pixels", 1.92, lambda sheet: sheet.originals),
    Unit("% of the picture", 1.94, lambda sheet: np.full((len(sheet), 2), 100.0)),
)


def fit_shifts(sheet: Sheet, order: str, seed: int) -> Iterator[Undo]:
    """For each unit the shift of all boxes whose undoing makes the answers worth most."""
    if not len(sheet):
        return
    shares = _shares(sheet, order)
    off = (shares[sheet.pairs.boxes] - sheet.paired_truth).reshape(-1, 2, 2).mean(axis=1)
    weights = 1 / np.maximum(_sides(sheet.paired_truth), _LEAST_SIDE)
    for unit in UNITS if sheet.is_raw else UNITS[1:]:
        sides = unit.sides(sheet)
        shift = _fit_shift(sheet, shares, sides, off * sheet.per_pair(sides), weights, seed)
        yield Undo(order, _shifted(unit, shift))


def _fit_shift(
    sheet: Sheet, shares: np.ndarray, sides: np.ndarray, off: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """(2,) along x and y, in units of the pictures' `sides`.

    `off`, (K, 2), is how far each pair's middles lie apart, and what that weighs.
    """

    def place(shifts: np.ndarray) -> np.ndarray:
        return settle(shares - sheet.per_box(shifts[:, None] / sides))

    def fit(fits: np.ndarray) -> np.ndarray:
        return np.array([_weighted_median(off[fits, axis], weights[fits, axis]) for axis in (0, 1)])

    best = _best_of(sheet, place, np.random.default_rng(seed).choice(off, _DRAWS))
    return _refined(sheet, place, best, fit)


def _shifted(unit: Unit, shift: np.ndarray) -> Grid:
    def place(sheet: Sheet) -> Placement:
        return Placement(sheet.reads, shift * sheet.reads / unit.sides(sheet))

    return Grid(f"{_aside(shift[0], shift[1])} of their targets, in {unit.words}", "shifted", unit.cost, place)


def _aside(x: float, y: float) -> str:
    return f"{abs(x):.3g} to the {'left' if x < 0 else 'right'} and {abs(y):.3g} {'up' if y < 0 else 'down'}"


# ---- scale and offset, free ------------------------------------------------------------------------------------


class Line(NamedTuple):
    """`true = scale * answered + offset` for x and for y, both (2,); in original pixels, or in shares of the sides."""

    scale: np.ndarray
    offset: np.ndarray
    in_pixels: bool


def fit_line(sheet: Sheet, order: str, seed: int, *, in_pixels: bool) -> Line | None:
    """The scale and offset whose boxes overlap most: tried on two answers at a time, then fitted to all that agree.

    None for fewer than two answers.
    """
    units = sheet.originals if in_pixels else np.ones((len(sheet), 2))
    rows = _shares(sheet, order) * sheet.per_box(units)
    answered = rows[sheet.pairs.boxes].reshape(-1, 2, 2)
    truth = sheet.paired_truth.reshape(-1, 2, 2) * sheet.per_pair(units)[:, None]
    if len(answered) < 2:
        return None

    def place(lines: np.ndarray) -> np.ndarray:
        scale, offset = (np.tile(lines[:, part], 2)[:, None] for part in (0, 1))
        return settle((rows * scale + offset) / sheet.per_box(units))

    def fit(fits: np.ndarray) -> np.ndarray:
        return _lines_of(answered[fits].reshape(1, -1, 2), truth[fits].reshape(1, -1, 2))[0]

    draws = np.random.default_rng(seed).integers(0, len(answered), (_DRAWS, 2))
    lines = _lines_of(answered[draws].reshape(_DRAWS, 4, 2), truth[draws].reshape(_DRAWS, 4, 2))
    scale, offset = _refined(sheet, place, _best_of(sheet, place, lines), fit)
    return Line(scale, offset, in_pixels)


def _lines_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(S, 2, 2) scales and offsets by least squares over (S, C, 2) corners; a scale of 1 where none is sound."""
    x_mean, y_mean = x.mean(axis=1), y.mean(axis=1)
    spread = ((x - x_mean[:, None]) ** 2).sum(axis=1)
    shared = ((x - x_mean[:, None]) * (y - y_mean[:, None])).sum(axis=1)
    scale = np.divide(shared, spread, out=np.ones_like(shared), where=spread > 0)
    scale = np.where(scale > 1e-3, scale, 1.0)
    return np.stack([scale, y_mean - scale * x_mean], axis=1)


def lined(order: str, line: Line) -> Undo:
    """The boxes moved along those lines."""

    def place(sheet: Sheet) -> Placement:
        sides = sheet.reads / line.scale
        unit = sheet.originals if line.in_pixels else 1.0
        return Placement(sides, -line.offset / unit * sides)

    x, y = line.offset / -line.scale * (1 if line.in_pixels else 100)
    unit = "pixels" if line.in_pixels else "% of the picture"
    is_near = max(abs(x), abs(y)) < (2 if line.in_pixels else 0.5)
    moved = "" if is_near else f", and lie {_aside(x, y)}, in {unit}"
    return Undo(order, Grid(f"in a frame that no known rule gives{moved}", "fitted", 3.0, place))
