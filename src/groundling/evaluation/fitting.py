"""Which convention a model answers in: each that is known is held against places whose truth is known.

A convention is what the numbers count, in which order they stand (`conventions.py`), and whether the picture was turned
upright before it was seen. One must explain half of the answers or more, to within a twentieth of the picture's side:
boxes at random do not, whichever of the thousands that are tried. Two are told apart by the answers that they place
differently: the better one has to be the closer one so often that chance is ruled out (a sign test). And what it does
not explain has to be mistakes: several pictures that it places wrong alike tell that none fits (`misplaced.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from groundling.dialect.family import FAMILIES, Budget, Family
from groundling.evaluation.cards import Card
from groundling.evaluation.conventions import (
    COUNTS,
    ORDERS,
    POINT_ORDERS,
    SIZINGS,
    Counts,
    Order,
    Padding,
    Turned,
    budgets_around,
    budgets_with_leasts,
    budgets_with_mosts,
    first_budgets,
    first_sizes,
    sizes_around,
)
from groundling.evaluation.heard import Heard
from groundling.evaluation.misplaced import find_misplaced
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame

CLOSE = 0.05  # of the picture's side, the mean over a box's four: what a model that sees is within
FAR = 0.1  # however much farther an answer is, it counts no more
DIFFERENT = 0.01  # apart: two conventions place an answer differently
FEWEST = 8  # answers that can be read
LEAST_SHARE = 0.5  # of them, that one convention has to explain
CHANCE = 0.05  # at most, that two which are as good would differ so
SAME = 0.002  # of the side: budgets and sizes whose mean errors differ by less are not told apart


@dataclass(frozen=True)
class Trial:
    """One convention, or several that place every answer alike, and where it puts the answers."""

    counts: tuple[Counts, ...]
    order: Order
    turned: Turned
    places: np.ndarray  # (N, 4) left, top, right, bottom in pixels of each upright card
    truths: np.ndarray  # (N, 4)
    sides: np.ndarray  # (N,) of a square as large as the card

    @cached_property
    def errors(self) -> np.ndarray:
        """(N,) mean distance of the four edges from the truth, in sides of the card."""
        return np.abs(self.places - self.truths).mean(axis=1) / self.sides

    @cached_property
    def score(self) -> float:
        """Mean error, those of answers that are wrong whatever they count held at FAR; less is better."""
        return float(np.minimum(self.errors, FAR).mean())

    @property
    def explained(self) -> int:
        """Answers that are close."""
        return int((self.errors < CLOSE).sum())

    @property
    def median_px(self) -> float:
        """Of the mean distance of the four edges, in pixels of the upright cards."""
        return float(np.median(self.errors * self.sides))

    @property
    def kind(self) -> tuple[str, Order, Turned]:
        """What tells it from others but for a budget or a size."""
        return self.counts[0].words, self.order, self.turned

    def is_other_than(self, other: Trial) -> bool:
        """Whether it is another kind: not the same rule with some size in place of a usual one, or of another."""
        if self.kind == other.kind:
            return False
        same_rule = self.counts[0].rule == other.counts[0].rule and self.kind[1:] == other.kind[1:]
        return not (same_rule and (self.is_tuned or other.is_tuned))

    @property
    def likeliest(self) -> Counts:
        """What its numbers count: of those that stand as the first does, one that others use before any other."""
        first = self.counts[0]
        return next((counts for counts in self.counts if counts.words == first.words and counts.is_usual), first)

    @property
    def budget(self) -> Budget | None:
        """Of pixels of the resized picture; None where none has to be told."""
        return self.likeliest.budget

    @property
    def is_usual(self) -> bool:
        """Whether others use it."""
        return self.likeliest.is_usual

    @property
    def is_tuned(self) -> bool:
        """Whether a budget or a size was found by trying."""
        return self.likeliest.budget is not None or self.likeliest.size is not None

    @property
    def side(self) -> int | None:
        """Of a token, in pixels of the resized picture."""
        return self.budget and self.budget.family.token_side

    def against(self, other: Trial) -> tuple[int, int]:
        """Of how many answers that the two place differently this one is the closer, and how many there are."""
        apart = np.abs(self.places - other.places).mean(axis=1) / self.sides > DIFFERENT
        apart &= np.minimum(self.errors, other.errors) < FAR  # who is far by both tells nothing
        return int((self.errors[apart] < other.errors[apart]).sum()), int(apart.sum())

    def is_better(self, other: Trial) -> bool:
        """Whether it is the closer one so often that chance is ruled out."""
        wins, of = self.against(other)
        return _chance_of(wins, of) < CHANCE


class Fit(NamedTuple):
    """What the answers tell."""

    best: Trial
    second: Trial  # the best of another kind
    rivals: list[Trial]  # of other kinds, one each, that the best is not told from
    alike: list[Counts]  # of the best's kind but with other budgets or sizes, that it is not told from
    misplaced: list[Card]  # one of each picture that the best places wrong alike

    @property
    def is_found(self) -> bool:
        """Whether one convention explains the answers but for mistakes, and no other would do."""
        return self.explains and not self.misplaced and not self.rivals

    @property
    def explains(self) -> bool:
        """Whether the best convention explains enough of them."""
        return self.best.explained >= max(LEAST_SHARE * len(self.best.errors), LEAST_SHARE * FEWEST)

    @property
    def is_sayable(self) -> bool:
        """Whether a contract can say what the numbers count, and in which order."""
        return self.best.kind[:2] in (("seen", "xyxy"), ("thousandths", "xyxy"))

    @property
    def most_pixels(self) -> tuple[int, int] | None:
        """The least and the most budget that would explain them as well; None where no budget is told."""
        return _range([counts.budget.max_pixels for counts in self.alike if counts.budget])

    @property
    def sizes(self) -> tuple[int, int] | None:
        """The least and the most size that would explain them as well; None where no size is told."""
        return _range([counts.size for counts in self.alike if counts.size])


def fit_convention(heard: Sequence[Heard], turns: Sequence[Turned] = ("upright", "stored")) -> Fit | None:
    """The convention that places most answers right; None for fewer than FEWEST answers, which are all of one kind.

    `turns` are those that are possible: where we turn pictures ourselves, only `upright`.
    """
    if len(heard) < FEWEST:
        return None
    placing = _Placing(heard)
    orders: tuple[Order, ...] = tuple(POINT_ORDERS if heard[0].is_point else ORDERS)
    trials = _try_all(placing, [*COUNTS, *first_budgets(), *first_sizes()], turns, orders)
    trials = _merge([*_tune_budgets(placing, trials), *_tune_sizes(placing, trials)])
    closest = min(trials, key=_score)
    equal = [trial for trial in trials if not closest.is_better(trial)]
    best, alike = _choose(equal)
    second = min((trial for trial in trials if trial.is_other_than(best)), key=_score)
    rivals = {trial.kind: trial for trial in reversed(equal) if trial.is_other_than(best)}
    return Fit(best, second, list(rivals.values()), alike, find_misplaced(heard, best.places))


def _score(trial: Trial) -> float:
    return trial.score


def _choose(equal: Sequence[Trial]) -> tuple[Trial, list[Counts]]:
    """The likeliest of trials that are not told apart, and those with other budgets or sizes that would do as well."""
    first = equal[0]
    if first.kind[0] == "seen" and first.budget is None:  # the frames that the model is known to have seen
        return first, []
    same = [trial for trial in equal if not trial.is_other_than(first)]
    closest = min(same, key=_score)
    near = [trial for trial in same if trial.score <= closest.score + SAME and trial.side == closest.side]
    usual = sorted((trial for trial in near if trial.is_usual), key=lambda trial: (trial.is_tuned, trial.score))
    best = usual[0] if usual else closest
    alike = [counts for trial in near for counts in trial.counts if counts.words == best.kind[0]]
    return best, alike if best.is_tuned else []


def _tune_budgets(placing: _Placing, trials: Sequence[Trial]) -> list[Trial]:
    """The trials, with more around the best that has a budget: one of its limits after the other."""
    found = list(trials)
    for further in (budgets_with_mosts, budgets_with_leasts, budgets_with_mosts, budgets_around, budgets_with_leasts):
        best = min((trial for trial in found if trial.budget), key=_score, default=None)
        if best is None or best.budget is None:  # every frame places the answers alike: they are all 0
            break
        found = _merge([*found, *_try_all(placing, further(best.budget), (best.turned,), (best.order,))])
    return found


def _tune_sizes(placing: _Placing, trials: Sequence[Trial]) -> list[Trial]:
    """For each way to resize that may yet be the best, more trials around its best size."""
    found: list[Trial] = []
    worst = min(trial.score for trial in trials) + CLOSE  # half a coarse step moves places by less
    for sizing in SIZINGS:
        best = min((trial for trial in trials if trial.kind[0] == sizing.words), key=_score, default=None)
        if best is not None and best.score < worst and (size := best.counts[0].size):
            found += _try_all(placing, sizes_around(sizing, size), (best.turned,), (best.order,))
    return found


# ---- trials ----------------------------------------------------------------------------------------------------


class _Placing:
    """Where answers are under a convention; what was worked out for one is kept for those that share its frames."""

    def __init__(self, heard: Sequence[Heard]) -> None:
        self._heard = heard
        self.truths = np.concatenate([each.truth for each in heard])
        self.sides = np.array([math.sqrt(each.card.upright.area) for each in heard])
        self._found: dict[tuple[int, Frame, Padding, int, Order, Turned], np.ndarray] = {}
        by_file: dict[bytes, list[int]] = {}
        for number, each in enumerate(heard):
            by_file.setdefault(each.card.file, []).append(number)
        self._groups = list(by_file.values())  # answers about one picture
        self._back = np.argsort(np.concatenate(self._groups))  # from the order of groups to that of answers

    def frames(self, counts: Counts, turned: Turned) -> tuple[Frame, ...] | None:
        """The frame of the numbers about each picture; None where it is not known."""
        frames = [_frame_of(self._heard[group[0]], counts, turned) for group in self._groups]
        known = tuple(frame for frame in frames if frame is not None)
        return known if len(known) == len(frames) else None

    def places(self, frames: Sequence[Frame], counts: Counts, order: Order, turned: Turned) -> np.ndarray:
        """(N, 4) in pixels of the upright cards."""
        placed = [self._place(group, frame, counts, order, turned) for group, frame in enumerate(frames)]
        return np.concatenate(placed)[self._back]

    def _place(self, group: int, frame: Frame, counts: Counts, order: Order, turned: Turned) -> np.ndarray:
        card = self._heard[self._groups[group][0]].card
        turned = turned if card.orientation > 1 else "upright"
        least = counts.least if counts.least > max(card.upright.size_wh) else 0
        key = (group, frame, counts.padding, least, order, turned)
        if key not in self._found:
            boxes = Boxes([ORDERS[order](self._heard[number].corners) for number in self._groups[group]], frame)
            stored = turned == "stored"
            whole = counts.place(boxes, card.stored if stored else card.upright)
            self._found[key] = (whole.turned(card.orientation) if stored else whole).xyxy
        return self._found[key]


def _frame_of(each: Heard, counts: Counts, turned: Turned) -> Frame | None:
    if turned == "upright":
        return counts.frame(each.card.upright, each.seen)
    seen = each.seen and each.seen.turned(each.card.orientation)
    return counts.frame(each.card.stored, seen)


def _try_all(
    placing: _Placing, all_counts: Sequence[Counts], turns: Sequence[Turned], orders: Sequence[Order]
) -> list[Trial]:
    """One trial for each set of conventions that are the same on these cards, in the order of the tables."""
    trials: list[Trial] = []
    for turned in turns:
        by_frames: dict[tuple[tuple[Frame, ...], Padding, int], tuple[Counts, ...]] = {}
        for counts in all_counts:
            frames = placing.frames(counts, turned)
            if frames is not None:
                key = (frames, counts.padding, counts.least)
                by_frames[key] = (*by_frames.get(key, ()), counts)
        for order in orders:
            for (frames, *_), found in by_frames.items():
                places = placing.places(frames, found[0], order, turned)
                trials.append(Trial(found, order, turned, places, placing.truths, placing.sides))
    return trials


def _merge(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, those that place every answer alike as one, where the first of them stands."""
    merged: dict[tuple[bytes, Order, Turned], Trial] = {}
    for trial in trials:
        key = (trial.places.tobytes(), trial.order, trial.turned)
        before = merged.get(key)
        merged[key] = trial if before is None else replace(before, counts=before.counts + trial.counts)
    return list(merged.values())


def _chance_of(wins: int, of: int) -> float:
    """Of as many heads or more in `of` tosses of a coin."""
    return sum(math.comb(of, heads) for heads in range(wins, of + 1)) / 2**of


def _range(values: Sequence[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None


def find_family(fit: Fit) -> Family | None:
    """The family of the table that answers so; None where several do, or none."""
    counts = "seen_pixels" if fit.best.kind[0] == "seen" else fit.best.kind[0]
    side = fit.best.side
    found = [
        family for family in FAMILIES.values() if family.coordinates == counts and side in (None, family.token_side)
    ]
    return found[0] if len(found) == 1 and fit.best.order == "xyxy" else None
