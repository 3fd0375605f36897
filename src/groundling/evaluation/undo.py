"""Systematic mistakes of boxes, each as what would undo it, held against the truth.

A mistake has three parts: the order of a box's numbers, the grid that they count in, and how their picture is turned.
All that is tried is in tables, ORDERS and NAMED, and in rules whose one size is found in the answers
(RULES): a longest side of 1024 pixels, say. What is found that way may be any size, so it is believed less easily.

Overlaps are told on the picture's unit square, for stretching a picture changes no IoU. An answer's value is the
sum, over its targets, of the best overlap with any of its boxes, by the number of boxes that could be right: what is
missing is no matter of frames. With one target it is the first box that counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from groundling.data.formats.chat import resized_to
from groundling.data.formats.found import TextFrame
from groundling.dialect.family import FAMILIES, Family
from groundling.evaluation.cases import Case
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import SWAPS_SIDES, Frame

_MOST_BOXES = 60  # of one answer, or of one record, that are looked at
_UNIT = Frame(1, 1)
_MOST_SHRUNK = 1.25  # times as near to the picture's middle, or as far: more is no habit of a model


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


# ---- answers as arrays -----------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Which box is held against which true one: (K,) rows of both, sorted by the true one."""

    boxes: np.ndarray
    truths: np.ndarray


@dataclass(frozen=True, eq=False)
class Sheet:
    """N answers, each with at least one box and at least one true box, as arrays."""

    cases: Sequence[Case]
    numbers: np.ndarray  # (B, 4) as answered
    owner: np.ndarray  # (B,) the answer of each box
    truth: np.ndarray  # (T, 4) on the unit square
    true_owner: np.ndarray  # (T,) the answer of each true box
    pairs: Pairs

    def __len__(self) -> int:
        return len(self.cases)

    def frames(self, frame_of: TextFrame) -> np.ndarray:
        """(N, 2) sides of a frame of each picture."""
        sizes, places = self._sizes
        return np.array([frame_of(size).size_wh for size in sizes], dtype=np.float64).reshape(-1, 2)[places]

    @cached_property
    def _sizes(self) -> tuple[list[Frame], np.ndarray]:
        """The sizes of pictures that there are, and (N,) which of them each has."""
        numbers = {size: number for number, size in enumerate(dict.fromkeys(case.original for case in self.cases))}
        return list(numbers), np.array([numbers[case.original] for case in self.cases], dtype=int)

    @cached_property
    def originals(self) -> np.ndarray:
        """(N, 2) sides of the pictures."""
        return np.array([case.original.size_wh for case in self.cases], dtype=np.float64).reshape(-1, 2)

    @cached_property
    def reads(self) -> np.ndarray:
        """(N, 2) sides of the frames that the numbers were read in."""
        return np.array([case.read.size_wh for case in self.cases], dtype=np.float64).reshape(-1, 2)

    @cached_property
    def seens(self) -> np.ndarray:
        """(N, 2) sides of the pictures as the model saw them; the pictures' own where that is not told."""
        return np.array([(case.seen or case.original).size_wh for case in self.cases], dtype=np.float64).reshape(-1, 2)

    @property
    def is_raw(self) -> bool:
        """Whether most numbers are those of the texts."""
        return sum(case.is_raw for case in self.cases) > len(self) / 2

    @cached_property
    def orientations(self) -> np.ndarray:
        """(N,) orientation of each picture's file."""
        return np.array([case.orientation for case in self.cases], dtype=int)

    def values(self, placed: np.ndarray) -> np.ndarray:
        """(N,) what each answer is worth with its boxes placed so: (B, 4) on the unit square."""
        best = self._best(placed)
        return np.minimum(np.bincount(self.true_owner, weights=best * self._shares, minlength=len(self)), 1.0)

    def worth(self, placed: np.ndarray) -> np.ndarray:
        """(S,) mean values of the answers for S ways to place their boxes: (S, B, 4)."""
        return self._best(placed) @ self._shares / max(len(self), 1)

    def _best(self, placed: np.ndarray) -> np.ndarray:
        """(..., T) the best overlap of each true box with the boxes it is held against."""
        if not len(self):
            return np.empty((*placed.shape[:-2], 0))
        return np.maximum.reduceat(self.overlaps(placed), self._starts, axis=-1)

    def overlaps(self, placed: np.ndarray) -> np.ndarray:
        """(..., K) overlaps of all pairs."""
        return overlaps(placed[..., self.pairs.boxes, :], self.truth[self.pairs.truths])

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.flatnonzero(np.diff(self.pairs.truths, prepend=-1))

    @cached_property
    def _shares(self) -> np.ndarray:
        """(T,) what each true box weighs in its answer: one over the fewer of true boxes and answered ones."""
        targets = np.bincount(self.true_owner, minlength=len(self))[self.true_owner]
        return 1 / np.minimum(targets, np.bincount(self.pairs.truths, minlength=len(self.truth)))

    def part(self, chosen: Sequence[int] | np.ndarray) -> Sheet:
        """Some of the answers."""
        return lay_out([self.cases[place] for place in chosen])


def lay_out(cases: Sequence[Case]) -> Sheet:
    """The answers that have a box, to records that have one, as arrays."""
    kept = [case for case in cases if len(case.numbers) and len(case.truth)]
    numbers = [case.numbers[:_MOST_BOXES] for case in kept]
    truths = [case.truth.to(_UNIT).xyxy[:_MOST_BOXES] for case in kept]
    pairs = _pair(numbers, truths, [case.is_single for case in kept], range(len(kept)))
    return Sheet(
        cases=kept,
        numbers=np.concatenate([np.empty((0, 4)), *numbers]),
        owner=np.repeat(np.arange(len(kept)), [len(rows) for rows in numbers]),
        truth=np.concatenate([np.empty((0, 4)), *truths]),
        true_owner=np.repeat(np.arange(len(kept)), [len(rows) for rows in truths]),
        pairs=pairs,
    )


def _pair(
    numbers: Sequence[np.ndarray], truths: Sequence[np.ndarray], is_single: Sequence[bool], partners: Sequence[int]
) -> Pairs:
    """Each truth against all boxes of its partner among the answers; against the first where it is the only one."""
    starts = np.cumsum([0, *(len(rows) for rows in numbers)])
    boxes: list[np.ndarray] = []
    counts: list[int] = []
    for place, partner in enumerate(partners):
        rows = np.arange(starts[partner], starts[partner + 1])[: 1 if is_single[place] else None]
        boxes += [rows] * len(truths[place])
        counts += [len(rows)] * len(truths[place])
    return Pairs(np.concatenate([np.empty(0, dtype=int), *boxes]), np.repeat(np.arange(len(counts)), counts))


def shuffled(sheet: Sheet, seed: int) -> Sheet:
    """The same answers, each held against the truth of another: what chance alone is worth."""
    count = len(sheet)
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=int)
    partners[order] = np.roll(order, 1)  # one round of all, so nobody keeps its own
    numbers = np.split(sheet.numbers, np.cumsum(np.bincount(sheet.owner, minlength=count))[:-1])
    truths = np.split(sheet.truth, np.cumsum(np.bincount(sheet.true_owner, minlength=count))[:-1])
    pairs = _pair(numbers, truths, [case.is_single for case in sheet.cases], partners.tolist())
    return Sheet(sheet.cases, sheet.numbers, sheet.owner, sheet.truth, sheet.true_owner, pairs)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) IoU of the boxes of two (..., 4) arrays, one by one; 0 where either has no area."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)
    areas = _areas(a) + _areas(b) - shared
    return np.divide(shared, areas, out=np.zeros(shared.shape), where=shared > 0)


def _areas(rows: np.ndarray) -> np.ndarray:
    return (rows[..., 2] - rows[..., 0]) * (rows[..., 3] - rows[..., 1])


def settle(unit: np.ndarray) -> np.ndarray:
    """(..., 4) boxes with their corners in order, cut off at the border of the unit square; as a reader does."""
    low, high = np.minimum(unit[..., :2], unit[..., 2:]), np.maximum(unit[..., :2], unit[..., 2:])
    return np.clip(np.concatenate([low, high], axis=-1), 0, 1)


# ---- grids -----------------------------------------------------------------------------------------------------


Kind = Literal["read", "thousandths", "pixels", "padded", "fitted", "shifted", "shrunk"]
FITTED: tuple[Kind, ...] = ("fitted", "shifted", "shrunk")
"""The kinds of grids whose sizes or places the answers told."""


class Placement(NamedTuple):
    """A grid on each of N pictures: (N, 2) sides of the picture in its units, and where its corner lies."""

    sides: np.ndarray
    start: np.ndarray | float = 0.0  # (N, 2) units


class Grid(NamedTuple):
    """What numbers may count, and how readily it is believed: `cost` breaks ties, the least first."""

    words: str
    kind: Kind
    cost: float
    place: Callable[[Sheet], Placement]
    taken: Kind = "read"  # what they were taken for


AS_READ = Grid("as they were read", "read", 0.0, lambda sheet: Placement(sheet.reads))

# The budgets that others' code resizes within: sft.sh, LLaMA-Factory's examples and default, argument.py of
# qwen-vl-finetune, the vendor's notebook and transformers' class, the published configuration (all 2025)
BUDGETS = (50_176, 262_144, 451_584, 589_824, 1_003_520, 12_845_056)


class Named(NamedTuple):
    """A frame that a tool may have had in mind. `words` follow "they count"; `sides` are (N, 2), one row a picture."""

    words: str
    kind: Kind
    sides: Callable[[Sheet], np.ndarray]


def _resized(budget: int, family: Family) -> Named:
    frame_of = resized_to(budget, family)
    words = f"pixels of the picture resized to at most {budget} pixels in steps of {family.token_side}"
    return Named(words, "pixels", lambda sheet: sheet.frames(frame_of))


NAMED = (
    Named("thousandths of the picture's sides", "thousandths", lambda sheet: np.full((len(sheet), 2), 1000.0)),
    Named("pixels of the picture itself", "pixels", lambda sheet: sheet.originals),
    Named("pixels of the picture as the model saw it", "pixels", lambda sheet: sheet.seens),
    *(_resized(budget, FAMILIES[name]) for name in ("qwen2_5_vl", "qwen3_vl") for budget in BUDGETS),
)
"""The frames that are tried, the most usual first."""

_BINS = (("shares of the picture's sides, 0 to 1", 1.0), ("hundredths of its sides", 100.0), ("1024ths", 1024.0))


def known_grids(sheet: Sheet, order: str) -> list[Grid]:
    """The listed grids: plain ones, bins, a picture padded to a square, and one frame read in place of another.

    The last only where the text is not at hand: boxes may then have been moved before they came here.
    """
    grids = [AS_READ]
    for number, (words, kind, sides) in enumerate(NAMED):
        grids.append(Grid(words, kind, 1 + 0.02 * number, lambda sheet, sides=sides: Placement(sides(sheet))))
    for words, side in _BINS:
        grids.append(Grid(words, "fitted", 1.4, lambda sheet, side=side: Placement(np.full((len(sheet), 2), side))))
    grids += list(_padded_grids())
    if not sheet.is_raw:
        grids += list(_mistaken_grids(is_swapped=order == "yxyx"))
    return grids


def _mistaken_grids(*, is_swapped: bool) -> Iterator[Grid]:
    """Numbers of one frame that were scaled to the picture as if they were of another."""
    for number, (meant, taken) in enumerate(itertools.product(NAMED, NAMED[: 3 + len(BUDGETS)])):
        if meant is taken and not is_swapped:
            continue

        def place(sheet: Sheet, meant: Named = meant, taken: Named = taken) -> Placement:
            scale = sheet.originals / taken.sides(sheet)
            return Placement(meant.sides(sheet) * (scale[:, ::-1] if is_swapped else scale))

        if meant is taken:
            yield Grid(AS_READ.words, "read", 0.1 + 0.001 * number, place)
        else:
            yield Grid(f"{meant.words}, taken for {taken.words}", meant.kind, 1.3 + 0.001 * number, place, taken.kind)


def _padded_grids() -> Iterator[Grid]:
    """A picture in the middle, or in the corner, of a square of its longer side."""
    units = {
        "thousandths of": lambda sheet, longer: np.full_like(longer, 1000.0),
        "pixels of": lambda sheet, longer: longer,
        "the model's own units of": lambda sheet, longer: sheet.reads,
    }
    for (words, unit), (where, share) in itertools.product(
        units.items(), (("padded to a square, the picture in its middle", 0.5), ("padded to a square", 0.0))
    ):

        def place(sheet: Sheet, unit: Callable[..., np.ndarray] = unit, share: float = share) -> Placement:
            longer = np.repeat(sheet.originals.max(axis=1, keepdims=True), 2, axis=1)
            scale = unit(sheet, longer) / longer
            return Placement(sheet.originals * scale, (longer - sheet.originals) * scale * share)

        yield Grid(f"{words} the picture {where}", "padded", 1.5, place)


# ---- undoing ---------------------------------------------------------------------------------------------------


class Undo(NamedTuple):
    """What undoes a mistake: read the numbers in that order, on that grid, then turn the picture."""

    order: str = "xyxy"
    grid: Grid = AS_READ
    turn: int = 1  # as an EXIF orientation; 0 for each picture's own
    is_stored: bool = False  # whether the grid is that of the picture before it is turned

    @property
    def cost(self) -> float:
        """How much it takes to believe it; 0 for what changes nothing."""
        return (self.order != "xyxy") * 1.0 + self.grid.cost + (self.turn != 1) * 1.3 + self.is_stored * 0.1

    @property
    def is_nothing(self) -> bool:
        """Whether the boxes stay as they were read."""
        return self.order == "xyxy" and self.turn == 1 and self.grid.kind == "read"

    def place(self, sheet: Sheet) -> np.ndarray:
        """(B, 4) boxes on the unit square of the upright picture: corners in order, cut off at the border."""
        rows = ORDERS[self.order].read(sheet.numbers)
        sides, start = self.grid.place(sheet)
        turns = sheet.orientations if self.turn == 0 else np.full(len(sheet), self.turn)
        if self.is_stored:
            sides = np.where(np.isin(turns, SWAPS_SIDES)[:, None], sides[:, ::-1], sides)
        start = np.broadcast_to(np.asarray(start, dtype=np.float64), sides.shape)
        unit = (rows - np.tile(start[sheet.owner], 2)) / np.tile(sides[sheet.owner], 2)
        for turn in set(turns.tolist()) - {1}:
            chosen = turns[sheet.owner] == turn
            unit[chosen] = Boxes(unit[chosen], _UNIT).turned(turn).xyxy
        return settle(unit)


def turned_ways() -> Iterator[Undo]:
    """The picture turned or mirrored, its numbers as they were read or in its own pixels."""
    grids = (AS_READ, Grid("pixels of the picture itself", "pixels", 0.3, lambda sheet: Placement(sheet.originals)))
    for turn, grid in itertools.product(range(2, 9), grids):
        yield Undo(grid=grid, turn=turn)
        if turn in SWAPS_SIDES:
            yield Undo(grid=grid, turn=turn, is_stored=True)


# ---- grids of a size that the answers tell ---------------------------------------------------------------------


class Rule(NamedTuple):
    """A grid with one size left open: (N, 2) sides of the picture, and its corner, for a size of 1."""

    words: str  # with {size}
    cost: float
    base: Callable[[np.ndarray], Placement]


RULES: tuple[Rule, ...] = (
    Rule("pixels of the picture, its longer side resized to {size:.0f}", 1.6, lambda wh: Placement(wh / _longer(wh))),
    Rule(
        "pixels of the picture, its shorter side resized to {size:.0f}",
        1.6,
        lambda wh: Placement(wh / wh.min(axis=1, keepdims=True)),
    ),
    Rule("pixels of the picture resized to a width of {size:.0f}", 1.6, lambda wh: Placement(wh / wh[:, :1])),
    Rule("pixels of the picture resized to a height of {size:.0f}", 1.6, lambda wh: Placement(wh / wh[:, 1:])),
    Rule("pixels of the picture {size:.3g} times as large", 1.6, lambda wh: Placement(wh)),
    Rule(
        "pixels of the picture resized to about {size:.0f} x {size:.0f} = {area:.0f} pixels",
        1.6,
        lambda wh: Placement(wh / np.sqrt(wh.prod(axis=1, keepdims=True))),
    ),
    Rule("{size:.0f}ths of the picture's sides", 1.6, lambda wh: Placement(np.ones_like(wh))),
    Rule(
        "pixels of the picture in the middle of a square of {size:.0f}",
        1.8,
        lambda wh: Placement(wh / _longer(wh), (1 - wh / _longer(wh)) / 2),
    ),
)

_TRIES = 80  # of sizes, each suggested by one answer
_REFINED = 3  # rounds of the median of those that fit


_SCANNED = np.geomspace(20_000, 20_000_000, 60)  # pixels; each side changes by 6 % from one to the next
_CLOSER = np.linspace(0.9, 1.1, 9)  # of the best of them


def fit_budgets(sheet: Sheet, order: str) -> Iterator[Undo]:
    """For each size of visual tokens the budget whose boxes overlap most, where it is none of BUDGETS."""
    for family in (FAMILIES["qwen2_5_vl"], FAMILIES["qwen3_vl"]):
        best = _best_budget(sheet, order, family, _SCANNED)
        best = _best_budget(sheet, order, family, best * _CLOSER)
        words, _, sides = _resized(round(best), family)
        yield Undo(order, Grid(words, "fitted", 1.5, lambda sheet, sides=sides: Placement(sides(sheet))))


def _best_budget(sheet: Sheet, order: str, family: Family, budgets: np.ndarray) -> float:
    rows = ORDERS[order].read(sheet.numbers)
    sides = np.array([_resized(round(budget), family).sides(sheet) for budget in budgets.tolist()])
    worth = sheet.worth(settle(rows / np.tile(sides[:, sheet.owner], 2)))
    return float(budgets[worth.argmax()])


def _longer(wh: np.ndarray) -> np.ndarray:
    return wh.max(axis=1, keepdims=True)


def fit_rules(sheet: Sheet, order: str, seed: int) -> Iterator[Undo]:
    """For each rule the size that makes the answers worth most, found from single answers, then from all that fit."""
    for rule in RULES:
        size = _fit_size(sheet, order, rule, seed)
        if size is not None:
            yield Undo(order, _ruled(rule, size))


def _ruled(rule: Rule, size: float) -> Grid:
    def place(sheet: Sheet) -> Placement:
        sides, start = rule.base(sheet.originals)
        return Placement(sides * size, np.asarray(start) * size)

    return Grid(rule.words.format(size=size, area=size**2), "fitted", rule.cost, place)


def _fit_size(sheet: Sheet, order: str, rule: Rule, seed: int) -> float | None:
    """The size whose boxes overlap most; None where no answer suggests one."""
    answered, true, sides = _middles(sheet, order, rule.base(sheet.originals))
    ratios = np.divide(answered, true, out=np.zeros_like(answered), where=true > 0)
    weights = np.divide(true, sides, out=np.zeros_like(true), where=sides > 0)  # the noise goes with a box's side
    if not (ratios > 0).any():
        return None
    tried = np.random.default_rng(seed).choice(ratios[ratios > 0], _TRIES)
    size = float(tried[sheet.worth(_with_sizes(sheet, order, rule, tried)).argmax()])
    for _ in range(_REFINED):
        fits = sheet.overlaps(_with_sizes(sheet, order, rule, np.array([size]))[0]) >= 0.5
        if not fits.any():
            return size
        size = _weighted_median(ratios[fits].ravel(), weights[fits].ravel())
    return size


def _with_sizes(sheet: Sheet, order: str, rule: Rule, sizes: np.ndarray) -> np.ndarray:
    """(S, B, 4) boxes on the unit square by a rule at each of S sizes."""
    sides, start = rule.base(sheet.originals)
    start = np.broadcast_to(np.asarray(start, dtype=np.float64), sides.shape)
    rows = ORDERS[order].read(sheet.numbers) / np.tile(sides[sheet.owner], 2)
    return settle(rows / sizes[:, None, None] - np.tile((start / sides)[sheet.owner], 2))


def _middles(sheet: Sheet, order: str, base: Placement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, 2) answered and true middles, and true sides, of all pairs: in answered units, and in those of size 1."""
    rows = ORDERS[order].read(sheet.numbers)[sheet.pairs.boxes]
    truth = sheet.truth[sheet.pairs.truths]
    owner = sheet.true_owner[sheet.pairs.truths]
    start = np.broadcast_to(np.asarray(base.start, dtype=np.float64), base.sides.shape)[owner]
    middles = (truth[:, :2] + truth[:, 2:]) / 2 * base.sides[owner] + start
    return (rows[:, :2] + rows[:, 2:]) / 2, middles, (truth[:, 2:] - truth[:, :2]) * base.sides[owner]


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(total, total[-1] / 2), len(values) - 1)])


# ---- scale and offset, free ------------------------------------------------------------------------------------

_DRAWS = 150  # pairs of answers, each a line for x and one for y


class Line(NamedTuple):
    """`true = scale * answered + offset` for x and for y, both (2,); in original pixels, or in shares of the sides."""

    scale: np.ndarray
    offset: np.ndarray
    in_pixels: bool


def fit_line(sheet: Sheet, order: str, seed: int, *, in_pixels: bool) -> Line | None:
    """The scale and offset whose boxes overlap most: tried on two answers at a time, then fitted to all that agree.

    None for fewer than two answers.
    """
    rows = ORDERS[order].read(sheet.numbers) / np.tile(sheet.reads[sheet.owner], 2)
    unit = np.tile(sheet.originals, 2) if in_pixels else np.ones((len(sheet), 4))
    owner = sheet.true_owner[sheet.pairs.truths]
    answered, truth = rows[sheet.pairs.boxes] * unit[owner], sheet.truth[sheet.pairs.truths] * unit[owner]
    if len(answered) < 2:
        return None
    draws = np.random.default_rng(seed).integers(0, len(answered), (_DRAWS, 2))
    lines = _lines_of(answered[draws].reshape(_DRAWS, 4, 2), truth[draws].reshape(_DRAWS, 4, 2))
    for _ in range(_REFINED):
        best, fits = _best_line(sheet, rows, unit, lines)
        if fits.sum() < 3:
            break
        lines = _lines_of(answered[fits].reshape(1, -1, 2), truth[fits].reshape(1, -1, 2))
    best, _ = _best_line(sheet, rows, unit, lines)
    return Line(lines[0][best], lines[1][best], in_pixels)


def _best_line(
    sheet: Sheet, rows: np.ndarray, unit: np.ndarray, lines: tuple[np.ndarray, np.ndarray]
) -> tuple[int, np.ndarray]:
    """Which of S lines makes the answers worth most, and (K,) the pairs that overlap by half then."""
    scale, offset = (np.tile(part, 2)[:, None] for part in lines)
    placed = settle((rows * unit[sheet.owner] * scale + offset) / unit[sheet.owner])
    best = int(sheet.worth(placed).argmax())
    return best, sheet.overlaps(placed[best]) >= 0.5


def _lines_of(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, 2) scales and offsets by least squares over (S, C, 2) corners; a scale of 1 where there is no sound one."""
    x_mean, y_mean = x.mean(axis=1), y.mean(axis=1)
    spread = ((x - x_mean[:, None]) ** 2).sum(axis=1)
    shared = ((x - x_mean[:, None]) * (y - y_mean[:, None])).sum(axis=1)
    scale = np.divide(shared, spread, out=np.ones_like(shared), where=spread > 0)
    scale = np.where(scale > 1e-3, scale, 1.0)
    return scale, y_mean - scale * x_mean


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


# ---- offset alone, and towards the middle ----------------------------------------------------------------------


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
    rows = ORDERS[order].read(sheet.numbers) / np.tile(sheet.reads[sheet.owner], 2)
    pairs, owner = sheet.pairs, sheet.true_owner[sheet.pairs.truths]
    truth = sheet.truth[pairs.truths]
    off = (rows[pairs.boxes] - truth).reshape(-1, 2, 2).mean(axis=1)
    if not len(off):
        return
    weights = 1 / np.maximum(truth[:, 2:] - truth[:, :2], 1e-3)  # the noise goes with a box's side
    for unit in UNITS if sheet.is_raw else UNITS[1:]:
        sides = unit.sides(sheet)
        yield Undo(order, _shifted(unit, _best_shift(sheet, rows, sides, off * sides[owner], weights, seed)))


def _best_shift(
    sheet: Sheet, rows: np.ndarray, sides: np.ndarray, off: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """(2,) the best of shifts that single pairs suggest, then the median of all pairs that overlap by half then.

    `rows` are (B, 4) shares of the pictures' `sides`; `off`, (K, 2), is how far each pair's middles lie apart, and what
    that weighs.
    """

    def place(shifts: np.ndarray) -> np.ndarray:
        return settle(rows - np.tile(shifts[:, None] / sides, 2)[:, sheet.owner])

    tried = np.random.default_rng(seed).choice(off, _DRAWS)
    shift = tried[sheet.worth(place(tried)).argmax()]
    for _ in range(_REFINED):
        fits = sheet.overlaps(place(shift[None])[0]) >= 0.5
        if not fits.any():
            break
        shift = np.array([_weighted_median(off[fits, axis], weights[fits, axis]) for axis in (0, 1)])
    return shift


def _shifted(unit: Unit, shift: np.ndarray) -> Grid:
    def place(sheet: Sheet) -> Placement:
        return Placement(sheet.reads, shift * sheet.reads / unit.sides(sheet))

    return Grid(f"{_aside(shift[0], shift[1])} of their targets, in {unit.words}", "shifted", unit.cost, place)


def _aside(x: float, y: float) -> str:
    return f"{abs(x):.3g} to the {'left' if x < 0 else 'right'} and {abs(y):.3g} {'up' if y < 0 else 'down'}"


_SHARES = np.linspace(1 / _MOST_SHRUNK, _MOST_SHRUNK, 91)


def fit_shrunk(sheet: Sheet, order: str) -> Undo:
    """The boxes nearer to the picture's middle than their targets, or farther from it, all by one share."""
    rows = ORDERS[order].read(sheet.numbers) / np.tile(sheet.reads[sheet.owner], 2)
    worth = sheet.worth(settle((rows - 0.5) / _SHARES[:, None, None] + 0.5))
    share = float(_SHARES[worth.argmax()])

    def place(sheet: Sheet) -> Placement:
        return Placement(sheet.reads * share, sheet.reads * (1 - share) / 2)

    way = "shrink towards" if share < 1 else "spread from"
    return Undo(order, Grid(f"{way} the middle of the picture by {abs(1 - share):.0%}", "shrunk", 1.9, place))
