"""Which convention a model answers in: each that is known is held against boxes whose truth is known.

A convention is what the numbers count, in which order they stand, and whether the picture was turned upright before it
was seen. An example, of a red square at [40, 30, 80, 60] of a 100x68 picture: "43, 26, 91, 51" counts pixels of that
picture resized to 108x58, "400, 441, 800, 882" counts thousandths, "30, 40, 60, 80" is pixels, y before x.

One convention must explain half of the answers or more, to within a twentieth of the picture's side: boxes at random
do not, whichever of the thousands that are tried. Two are told apart by the answers that they place differently: the
better one has to be the closer one so often that chance is ruled out (a sign test).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from groundling.data.formats.chat import resize_within
from groundling.dialect.family import FAMILIES, Budget, Family
from groundling.evaluation.cards import SHOWN, Card
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import THOUSANDTHS, Frame

Order = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Turned = Literal["upright", "stored"]
Numbers = tuple[float, float, float, float]


class Heard(NamedTuple):
    """Four numbers that were answered to a card, and the frame that the model saw the upright card in, if known."""

    card: Card
    numbers: Numbers
    seen: Frame | None


class Counts(NamedTuple):
    """What the numbers of a text count."""

    words: str
    frame: Callable[[Frame, Frame | None], Frame | None]  # of a picture by its size, and as it was seen; None: unknown
    budget: Budget | None = None  # of pixels of the resized picture

    @property
    def kind(self) -> str:
        """`seen` and every budget are of one kind: pixels of the picture as it was resized."""
        return "seen" if self.budget else self.words


ORDERS: dict[Order, Callable[[Numbers], Numbers]] = {  # to left, top, right, bottom
    "xyxy": lambda box: box,
    "yxyx": lambda box: (box[1], box[0], box[3], box[2]),
    "xywh": lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
    "cxcywh": lambda box: (
        *(box[0] - box[2] / 2, box[1] - box[3] / 2),
        *(box[0] + box[2] / 2, box[1] + box[3] / 2),
    ),
}

# Sources: `seen` is Qwen2.5-VL's, thousandths Qwen2-VL's and Qwen3-VL's (`dialect/family.py`), InternVL's, GLM-4.5V's;
# fractions LFM2-VL's, percent Molmo's, 1024ths PaliGemma's, thousandths with y first Gemini's (by their vendors' code)
COUNTS: tuple[Counts, ...] = (
    Counts("seen", lambda size, seen: seen),
    Counts("thousandths", lambda size, seen: THOUSANDTHS),
    Counts("original", lambda size, seen: size),
    Counts("fractions", lambda size, seen: Frame(1, 1)),
    Counts("percent", lambda size, seen: Frame(100, 100)),
    Counts("1024ths", lambda size, seen: Frame(1024, 1024)),
)
"""What is considered beside pixels within some budget, the likelier first."""

MEANINGS: dict[str, str] = {
    "seen": "pixels of the picture as it was resized",
    "thousandths": "thousandths of its sides",
    "original": "pixels of the picture itself",
    "fractions": "shares of its sides, 0 to 1",
    "percent": "hundredths of its sides",
    "1024ths": "1024ths of its sides",
}

_FAMILIES = (FAMILIES["qwen2_5_vl"], FAMILIES["qwen3_vl"])  # whose tokens have 28 and 32 pixels a side

# Of the vendor's own code and configurations (2025): sft.sh; argument.py of qwen-vl-finetune; the notebook and
# transformers' class; the published configurations of Qwen2.5-VL and of Qwen3-VL, and the latter's for detection
KNOWN: tuple[tuple[int, int], ...] = (
    (3136, 1_003_520),
    (3136, 12_845_056),
    (3136, 50_176),
    (3136, 451_584),
    (65_536, 16_777_216),
    (786_432, 13_107_200),
    (200_704, 1_003_520),
)
LEASTS = (3136, 4096, 784, 12_544, 50_176, 65_536, 200_704, 262_144, 786_432)
_SMALLEST = 4 * 32**2
LARGEST_SHOWN = max(width * height for width, height, _ in SHOWN)  # larger budgets cannot be told from each other
_COARSE, _FINE = 1.15, 1.005  # from one budget that is tried to the next: 7 % and 0.25 % of a side

CLOSE = 0.05  # of the picture's side, the mean over a box's four: what a model that sees is within
FAR = 0.1  # however much farther an answer is, it counts no more
DIFFERENT = 0.01  # apart: two conventions place an answer differently
FEWEST = 8  # answers that can be read
LEAST_SHARE = 0.5  # of them, that one convention has to explain
CHANCE = 0.05  # at most, that two which are as good would differ so
SAME = 0.002  # of the side: budgets whose mean errors differ by less are not told apart


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
        """What tells it from others but for the budget."""
        return self.counts[0].kind, self.order, self.turned

    @property
    def budget(self) -> Budget | None:
        """Of pixels of the resized picture, one that others use before any other; None where none has to be told."""
        budgets = [counts.budget for counts in self.counts]
        return budgets[0] and next((budget for budget in budgets if budget and _is_known(budget)), budgets[0])

    @property
    def is_known(self) -> bool:
        """Whether it is, or would do for, a budget that others use."""
        return self.budget is not None and _is_known(self.budget)

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
    alike: list[Budget]  # of the best's kind, that it is not told from

    @property
    def is_found(self) -> bool:
        """Whether one convention explains the answers, and no other would do."""
        return self.explains and not self.rivals

    @property
    def explains(self) -> bool:
        """Whether the best convention explains enough of them."""
        return self.best.explained >= max(LEAST_SHARE * len(self.best.errors), LEAST_SHARE * FEWEST)

    @property
    def most_pixels(self) -> tuple[int, int] | None:
        """The least and the most budget that would explain them as well; None where no budget is told."""
        return _range([budget.max_pixels for budget in self.alike])


def fit_convention(heard: Sequence[Heard], turns: Sequence[Turned] = ("upright", "stored")) -> Fit | None:
    """The convention that places most answers right; None for fewer than FEWEST answers.

    `turns` are those that are possible: where we turn pictures ourselves, only `upright`.
    """
    if len(heard) < FEWEST:
        return None
    placing = _Placing(heard)
    trials = _try_all(placing, [*COUNTS, *_budgets()], turns, tuple(ORDERS))
    for further in (_with_mosts, _with_leasts, _with_mosts, _around, _with_leasts):  # one limit after the other
        resized = min((trial for trial in trials if trial.budget), key=_score, default=None)
        if resized is None:  # every frame places the answers alike: they are all 0
            break
        tried = _try_all(placing, further(resized), (resized.turned,), (resized.order,))
        trials = _merge([*trials, *tried])
    closest = min(trials, key=_score)
    equal = [trial for trial in trials if not closest.is_better(trial)]
    best, alike = _choose(equal)
    second = min((trial for trial in trials if trial.kind != best.kind), key=_score)
    rivals = {trial.kind: trial for trial in reversed(equal) if trial.kind != best.kind}
    return Fit(best, second, list(rivals.values()), alike)


def _score(trial: Trial) -> float:
    return trial.score


def _choose(equal: Sequence[Trial]) -> tuple[Trial, list[Budget]]:
    """The likeliest of trials that are not told apart, and the budgets that would do as well."""
    first = equal[0]
    if first.budget is None:
        return first, []
    same = [trial for trial in equal if trial.kind == first.kind]
    closest = min(same, key=_score)
    near = [trial for trial in same if trial.score <= closest.score + SAME and trial.side == closest.side]
    best = next((trial for trial in near if trial.is_known), closest)
    return best, [counts.budget for trial in near for counts in trial.counts if counts.budget]


# ---- trials ----------------------------------------------------------------------------------------------------


class _Placing:
    """Where answers are under a convention; what was worked out for one is kept for those that share its frames."""

    def __init__(self, heard: Sequence[Heard]) -> None:
        self._heard = heard
        self.truths = np.concatenate([each.card.box.xyxy for each in heard])
        self.sides = np.array([math.sqrt(each.card.upright.area) for each in heard])
        self._found: dict[tuple[int, Frame, Order, Turned], np.ndarray] = {}
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

    def places(self, frames: Sequence[Frame], order: Order, turned: Turned) -> np.ndarray:
        """(N, 4) in pixels of the upright cards."""
        placed = [self._place(group, frame, order, turned) for group, frame in enumerate(frames)]
        return np.concatenate(placed)[self._back]

    def _place(self, group: int, frame: Frame, order: Order, turned: Turned) -> np.ndarray:
        card = self._heard[self._groups[group][0]].card
        turned = turned if card.orientation > 1 else "upright"
        key = (group, frame, order, turned)
        if key not in self._found:
            boxes = Boxes([ORDERS[order](self._heard[number].numbers) for number in self._groups[group]], frame)
            whole = boxes.to(card.stored).turned(card.orientation) if turned == "stored" else boxes.to(card.upright)
            self._found[key] = whole.xyxy
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
        by_frames: dict[tuple[Frame, ...], tuple[Counts, ...]] = {}
        for counts in all_counts:
            frames = placing.frames(counts, turned)
            if frames is not None:
                by_frames[frames] = (*by_frames.get(frames, ()), counts)
        for order in orders:
            trials += [
                Trial(found, order, turned, placing.places(frames, order, turned), placing.truths, placing.sides)
                for frames, found in by_frames.items()
            ]
    return trials


def _merge(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, those that place every answer alike as one, where the first of them stands."""
    merged: dict[tuple[bytes, Order, Turned], Trial] = {}
    for trial in trials:
        key = (trial.places.tobytes(), trial.order, trial.turned)
        before = merged.get(key)
        merged[key] = trial if before is None else replace(before, counts=before.counts + trial.counts)
    return list(merged.values())


def _budgets() -> list[Counts]:
    """Those that others use, and a ladder of budgets."""
    return [
        _within(Budget(family, least, most))
        for family in _FAMILIES
        for least, most in (*KNOWN, *((4 * family.token_side**2, most) for most in _ladder()))
    ]


def _ladder() -> list[int]:
    """Mosts from the smallest to what the largest card exceeds."""
    steps = math.ceil(math.log(LARGEST_SHOWN / _SMALLEST, _COARSE))
    return [round(_SMALLEST * _COARSE**number) for number in range(steps + 1)]


def _around(trial: Trial) -> list[Counts]:
    """Budgets near a trial's, in small steps."""
    budget = trial.budget
    assert budget is not None
    steps = range(-math.ceil(math.log(_COARSE, _FINE)), math.ceil(math.log(_COARSE, _FINE)) + 1)
    mosts = [round(budget.max_pixels * _FINE**number) for number in steps]
    return [_within(Budget(budget.family, budget.min_pixels, most)) for most in mosts if most >= budget.min_pixels]


def _with_mosts(trial: Trial) -> list[Counts]:
    """A trial's budget with the whole ladder of mosts."""
    budget = trial.budget
    assert budget is not None
    least = budget.min_pixels
    return [_within(Budget(budget.family, least, most)) for most in _ladder() if most >= least]


def _with_leasts(trial: Trial) -> list[Counts]:
    """A trial's budget with every least that is tried."""
    budget = trial.budget
    assert budget is not None
    leasts = [least for least in LEASTS if budget.family.token_side**2 <= least <= budget.max_pixels]
    return [_within(Budget(budget.family, least, budget.max_pixels)) for least in leasts]


def _is_known(budget: Budget) -> bool:
    return (budget.min_pixels, budget.max_pixels) in KNOWN


def _within(budget: Budget) -> Counts:
    words = f"resized:{budget.max_pixels}"
    return Counts(words, lambda size, seen: resize_within(size, budget), budget)


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
