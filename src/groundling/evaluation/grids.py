"""What the four numbers of a box may be, and what they may count: every order and frame that is tried, in tables.

A grid is a frame laid on a picture: its sides in units of the numbers, and where the picture's corner lies in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from groundling.data.formats.chat import resized_to
from groundling.dialect.family import FAMILIES, Family
from groundling.evaluation.sheet import Sheet


class Order(NamedTuple):
    """An order of a box's four numbers. `read` turns (B, 4) of them into left, top, right, bottom."""

    words: str
    read: Callable[[np.ndarray], np.ndarray]


ORDERS: dict[str, Order] = {
    "xyxy": Order("left, top, right, bottom", lambda rows: rows),
    "yxyx": Order("top, left, bottom, right", lambda rows: rows[:, [1, 0, 3, 2]]),
    "xywh": Order("left, top, width, height", lambda rows: np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:]])),
    "cxcywh": Order(
        "middle, width, height",
        lambda rows: np.hstack([rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2]),
    ),
    "summed": Order(
        "left, top, left + right, top + bottom",
        lambda rows: np.hstack([rows[:, :2], rows[:, 2:] - rows[:, :2]]),
    ),
}
"""What four numbers may be; the first is right, the last comes of corners that were read as corner and size."""


Kind = Literal["read", "thousandths", "pixels", "padded", "fitted", "padded_to", "shifted", "shrunk"]
FITTED: tuple[Kind, ...] = ("fitted", "padded_to", "shifted", "shrunk")
"""The kinds of grids whose sizes or places the answers told."""
PADDED: tuple[Kind, ...] = ("padded", "padded_to")
"""The kinds of grids that are a square with the picture in it."""


class Placement(NamedTuple):
    """A grid on each of N pictures: (N, 2) sides of the picture in its units, and where its corner lies."""

    sides: np.ndarray
    start: np.ndarray | float = 0.0  # (N, 2) units

    @property
    def starts(self) -> np.ndarray:
        """(N, 2) whatever was given."""
        return np.broadcast_to(np.asarray(self.start, dtype=np.float64), self.sides.shape)


class Grid(NamedTuple):
    """What numbers may count, and how readily it is believed: `cost` breaks ties, the least first."""

    words: str
    kind: Kind
    cost: float
    place: Callable[[Sheet], Placement]
    taken: Kind = "read"  # what they were taken for


AS_READ = Grid("as they were read", "read", 0.0, lambda sheet: Placement(sheet.reads))


def length(units: float) -> str:
    """A side in whole units, unless it is so few that they are shares."""
    return f"{units:.0f}" if units >= 10 else f"{units:.3g}"


# ---- frames that tools have in mind ----------------------------------------------------------------------------


class Named(NamedTuple):
    """A frame that a tool may have had in mind. `words` follow "they count"; `sides` are (N, 2), one row a picture."""

    words: str
    kind: Kind
    sides: Callable[[Sheet], np.ndarray]


# The budgets that others' code resizes within: sft.sh, LLaMA-Factory's examples and default, argument.py of
# qwen-vl-finetune, the vendor's notebook and transformers' class, the published configuration (all 2025)
BUDGETS = (50_176, 262_144, 451_584, 589_824, 1_003_520, 12_845_056)
STEPS = (FAMILIES["qwen2_5_vl"], FAMILIES["qwen3_vl"])
"""One family for each size of visual tokens."""

# Sides that published vision towers and tools resize to: CLIP's and SigLIP's (224 to 980), SAM's, YOLO's, screens'
SIDES = (224, 256, 336, 364, 378, 384, 448, 490, 512, 560, 640, 672, 768, 800, 896, 980, 1008, 1024, 1120, 1280)
SIDES += (1344, 1536, 1568, 1920, 2048)


def resized(budget: int, family: Family) -> Named:
    """The picture as that family's tools resize it."""
    frame_of = resized_to(budget, family)
    words = f"pixels of the picture resized to at most {budget} pixels in steps of {family.token_side}"
    return Named(words, "pixels", lambda sheet: sheet.frames(frame_of))


def _same(side: float) -> Callable[[Sheet], np.ndarray]:
    return lambda sheet: np.full((len(sheet), 2), side)


NAMED = (
    Named("thousandths of the picture's sides", "thousandths", _same(1000)),
    Named("pixels of the picture itself", "pixels", lambda sheet: sheet.originals),
    Named("pixels of the picture as the model saw it", "pixels", lambda sheet: sheet.seens),
    *(resized(budget, family) for family in STEPS for budget in BUDGETS),
)
"""The frames that are tried, the most usual first."""

_BINS = (
    Named("shares of the picture's sides, 0 to 1", "fitted", _same(1)),
    Named("hundredths of its sides", "fitted", _same(100)),
    Named("1024ths", "fitted", _same(1024)),
)
_TAKEN = NAMED[: 3 + len(BUDGETS)]  # what numbers may have been taken for


# ---- pictures that are padded to a square ----------------------------------------------------------------------


class Padding(NamedTuple):
    """How a picture lies in a square: a `share` of the border is left of it and above."""

    words: str  # that follow "with the picture"
    share: float


MIDDLE = Padding("in its middle", 0.5)
CORNER = Padding("in its corner, padded at the right and bottom", 0.0)


class SquareUnit(NamedTuple):
    """What numbers of a padded picture may count: (N, 2) of it make the sides of squares of (N, 2) pixels."""

    words: str
    sides: Callable[[Sheet, np.ndarray], np.ndarray]


PIXELS = SquareUnit("pixels of", lambda sheet, squares: squares)
SQUARE_UNITS = (
    SquareUnit("thousandths of", lambda sheet, squares: np.full_like(squares, 1000.0)),
    SquareUnit("shares, 0 to 1, of", lambda sheet, squares: np.ones_like(squares)),
    PIXELS,
    SquareUnit("the model's own units of", lambda sheet, squares: sheet.reads),
)


def in_squares(pictures: np.ndarray, squares: np.ndarray, units: np.ndarray, padding: Padding) -> Placement:
    """Pictures of (N, 2) pixels in squares of (N, 2) pixels whose sides are (N, 2) units."""
    scale = units / squares
    return Placement(pictures * scale, (squares - pictures) * scale * padding.share)


# ---- all that are listed ---------------------------------------------------------------------------------------


def known_grids(sheet: Sheet, order: str) -> list[Grid]:
    """The listed grids: plain ones, bins, a picture padded to a square, and one frame read in place of another.

    The last only where the text is not at hand: boxes may then have been moved before they came here.
    """
    grids = [AS_READ]
    grids += [_grid_of(named, 1 + 0.02 * number) for number, named in enumerate(NAMED)]
    grids += [_grid_of(named, 1.4) for named in _BINS]
    grids += [_padded(unit, padding) for unit, padding in itertools.product(SQUARE_UNITS, (MIDDLE, CORNER))]
    if not sheet.is_raw:
        grids += list(_mistaken_grids(is_swapped=order == "yxyx"))
    return grids


def _grid_of(named: Named, cost: float) -> Grid:
    return Grid(named.words, named.kind, cost, lambda sheet: Placement(named.sides(sheet)))


def _padded(unit: SquareUnit, padding: Padding) -> Grid:
    """The picture in a square of its longer side."""

    def place(sheet: Sheet) -> Placement:
        squares = np.repeat(longer_side(sheet.originals), 2, axis=1)
        return in_squares(sheet.originals, squares, unit.sides(sheet, squares), padding)

    return Grid(f"{unit.words} a square with the picture {padding.words}", "padded", 1.5, place)


def longer_side(wh: np.ndarray) -> np.ndarray:
    """(N, 1) the longer of (N, 2)."""
    return wh.max(axis=1, keepdims=True)


def _mistaken_grids(*, is_swapped: bool) -> Iterator[Grid]:
    """Numbers of one frame that were scaled to the picture as if they were of another."""
    for number, (meant, taken) in enumerate(itertools.product(NAMED, _TAKEN)):
        place, cost = _mistaken(meant, taken, is_swapped=is_swapped), 0.001 * number
        if meant is not taken:
            yield Grid(f"{meant.words}, taken for {taken.words}", meant.kind, 1.3 + cost, place, taken.kind)
        elif is_swapped:
            yield Grid(AS_READ.words, "read", 0.1 + cost, place)


def _mistaken(meant: Named, taken: Named, *, is_swapped: bool) -> Callable[[Sheet], Placement]:
    def place(sheet: Sheet) -> Placement:
        scale = sheet.originals / taken.sides(sheet)
        return Placement(meant.sides(sheet) * (scale[:, ::-1] if is_swapped else scale))

    return place
