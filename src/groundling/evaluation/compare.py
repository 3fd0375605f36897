"""Before against after: the same questions answered twice, and what can be said about the difference.

Interval and p value both go by picture, as in `metrics.intervals`. The interval draws pictures again, each with both of
its answers. The p value asks how often a difference as large would come about if it did not matter which answers came
first: it swaps before and after within pictures, at random. For a mean this is the sign-flip test (P. Good, Permutation
Tests, 2000).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundling.errors import RecordError
from groundling.evaluation.metrics import (
    METRICS,
    Marks,
    Prediction,
    accuracy_curve,
    blocks,
    divide,
    mark,
    percentiles,
    redraw,
    sum_by_picture,
    worth_showing,
)
from groundling.evaluation.plot import AXES, trace
from groundling.evaluation.report import Report, without_nan, write_json
from groundling.page.page import (
    View,
    around,
    embed,
    layer,
    open_or_none,
    show_change,
    show_p,
    write_page,
)

HEADLINES = (
    "acc@0.5",
    "f1@0.5",
    "point_f1",
    "none_recall",
    "parse_rate",
)  # the first that was measured gives the verdict

_SIGNIFICANT = 0.05
_ALIKE = 0.05  # a change of IoU below this is no win and no loss; shown galleries only, no number depends on it
_SHOWN = 16  # pictures of each gallery
_LEAST_VIEW = 1 / 3  # of each side of the picture, shown around the boxes
_VIEW_ASPECT = 1.3  # of one of the two views on a card, as the page's style has it


class Change(NamedTuple):
    """One metric, twice. `ci95` is the interval of the difference; all NaN where the metric applies to no question."""

    before: float
    after: float
    difference: float
    ci95: tuple[float, float]
    p: float


class Pair(NamedTuple):
    """One question, answered twice."""

    before: Prediction
    after: Prediction


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returns. `metrics` are over the pairs alone, hence may differ from either report's own."""

    metrics: dict[str, Change]
    pairs: list[Pair] = field(repr=False)
    unmatched_before: int  # questions that only the first report holds
    unmatched_after: int
    verdict: str
    warning: str | None  # why the comparison may be less than it seems
    before: str  # the reports' names
    after: str

    @property
    def shown(self) -> dict[str, Change]:
        """The metrics that were measured and tell something: of points only where there is one."""
        names = worth_showing([each for pair in self.pairs for each in pair])
        return {name: self.metrics[name] for name in names if not math.isnan(self.metrics[name].difference)}


def compare(before: Report, after: Report, *, seed: int = 0, draws: int = 10_000) -> Comparison:
    """How much better or worse `after` answered the questions that both reports hold.

    Questions pair by id, wording and true places, so that line numbers of two files are not taken for one another.
    RecordError where no question pairs; where only some do, the rest are counted and a warning says so.
    """
    pairs = _pair(before.predictions, after.predictions)
    if not pairs:
        raise RecordError(
            f"the two reports share no question: records {_short(before)} (first) and {_short(after)} (second); "
            "evaluate both models on one record file"
        )
    old, new = mark([pair.before for pair in pairs]), mark([pair.after for pair in pairs])
    metrics = _changes(old, new, seed=seed, draws=draws)
    return Comparison(
        metrics=metrics,
        pairs=pairs,
        unmatched_before=len(before.predictions) - len(pairs),
        unmatched_after=len(after.predictions) - len(pairs),
        verdict=_verdict(metrics, pairs),
        warning=_warning(before, after, len(pairs)),
        before=before.name or "before",
        after=after.name or "after",
    )


def _short(report: Report) -> str:
    return report.records_sha256[:12]


# ---- pairing ---------------------------------------------------------------------------------------------------


def _pair(before: Sequence[Prediction], after: Sequence[Prediction]) -> list[Pair]:
    """Predictions of one and the same question, in the order of `before`; exact repeats pair in order."""
    waiting: defaultdict[tuple[object, ...], list[Prediction]] = defaultdict(list)
    for prediction in reversed(after):
        waiting[_identity(prediction)].append(prediction)
    return [Pair(one, waiting[_identity(one)].pop()) for one in before if waiting[_identity(one)]]


def _identity(prediction: Prediction) -> tuple[object, ...]:
    record = prediction.record
    places = sorted(tuple(map(float, target.numbers)) for target in record.targets)
    return record.id, record.question, prediction.original, tuple(places)


def _warning(before: Report, after: Report, paired: int) -> str | None:
    if paired == len(before.predictions) == len(after.predictions):
        return None
    records = f"the reports were made on different records ({_short(before)} and {_short(after)}): "
    return records + f"only the {_count(paired, 'question')} that both hold can be compared"


# ---- the difference --------------------------------------------------------------------------------------------


def _changes(old: Marks, new: Marks, *, seed: int, draws: int) -> dict[str, Change]:
    before, after = old.shares(), new.shares()
    (low, high), p = _difference_interval(old, new, seed, draws), _swap_p(old, new, seed, draws)
    return {
        name: Change(
            before=float(before[column]),
            after=float(after[column]),
            difference=float(after[column] - before[column]),
            ci95=(float(low[column]), float(high[column])),
            p=float(p[column]),
        )
        for column, name in enumerate(METRICS)
    }


class _Sums(NamedTuple):
    """(P, K) sums over the questions of each picture, for the two answers."""

    old_earned: np.ndarray
    old_possible: np.ndarray
    new_earned: np.ndarray
    new_possible: np.ndarray


def _sums(old: Marks, new: Marks) -> _Sums:
    """Both by the pictures of `old`: the questions are the same, in the same order."""
    return _Sums(*(sum_by_picture(values, old) for values in (old.earned, old.possible, new.earned, new.possible)))


def _difference_interval(old: Marks, new: Marks, seed: int, draws: int) -> np.ndarray:
    """(2, K) 95 % percentile bootstrap interval of each metric's difference; NaN for fewer than two pictures."""
    sums = _sums(old, new)
    differences = [
        divide(weights @ sums.new_earned, weights @ sums.new_possible)
        - divide(weights @ sums.old_earned, weights @ sums.old_possible)
        for weights in redraw(len(sums.old_earned), draws, seed)
    ]
    return percentiles(differences, len(METRICS))


def _swap_p(old: Marks, new: Marks, seed: int, draws: int) -> np.ndarray:
    """(K,) two-sided p values: the share of swappings, the real one counted, with a difference at least as large."""
    sums = _sums(old, new)
    pictures = len(sums.old_earned)
    real = np.abs(new.shares() - old.shares())
    generator = np.random.default_rng(seed)
    as_large = np.ones(len(METRICS))
    for rows in blocks(draws, pictures):
        swaps = generator.integers(0, 2, (rows, pictures)).astype(np.float64)
        earned = swaps @ (sums.new_earned - sums.old_earned)  # what moves from after to before
        possible = swaps @ (sums.new_possible - sums.old_possible)
        difference = divide(sums.new_earned.sum(axis=0) - earned, sums.new_possible.sum(axis=0) - possible) - divide(
            sums.old_earned.sum(axis=0) + earned, sums.old_possible.sum(axis=0) + possible
        )
        as_large += (np.abs(difference) >= real - 1e-12).sum(axis=0)  # equal ones, however they were rounded
    return np.where(np.isnan(real), np.nan, as_large / (draws + 1))


def _verdict(metrics: dict[str, Change], pairs: Sequence[Pair]) -> str:
    """One sentence on the headline metric. It is a difference only where the interval and the p value both say so."""
    name = next((name for name in HEADLINES if not math.isnan(metrics[name].difference)), None)
    if name is None:
        return "nothing was measured in both reports"
    change = metrics[name]
    low, high = change.ci95
    interval = "" if math.isnan(low) else f" [{show_change(low, 2)}, {show_change(high, 2)}]"
    p = show_p(change.p)
    numbers = f"{name} {show_change(change.difference, 2)}{interval}, p {p if p.startswith('<') else '= ' + p}"
    if change.p < _SIGNIFICANT and (low > 0 or high < 0):
        return f"{'better' if change.difference > 0 else 'worse'}: {numbers}"
    pictures = len({pair.after.record.image for pair in pairs})
    asked = f"{_count(len(pairs), 'question')} about {_count(pictures, 'picture')}"
    return f"no difference that {asked} can show: {numbers}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---- writing ---------------------------------------------------------------------------------------------------


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """`{metric: {before, after, difference, ci95, p}}`, and beside the metrics what was compared and what it says."""
    value = {name: change._asdict() for name, change in comparison.metrics.items()} | {
        "matched": len(comparison.pairs),
        "unmatched": {"before": comparison.unmatched_before, "after": comparison.unmatched_after},
        "verdict": comparison.verdict,
        "warning": comparison.warning,
    }
    return without_nan(value)


def write_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write `comparison.json` and the self-contained page `comparison.html` into a folder, made where it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(comparison_to_json(comparison), folder / "comparison.json")
    old = mark([pair.before for pair in comparison.pairs])
    new = mark([pair.after for pair in comparison.pairs])
    lines = [
        trace(accuracy_curve(old), comparison.before, "before"),
        trace(accuracy_curve(new), comparison.after, "after"),
    ]
    measured = comparison.shown
    write_page(
        folder / "comparison.html",
        Path(__file__).with_name("compare.html.j2"),
        comparison=comparison,
        words=METRICS,
        metrics=measured,
        reach=_reach(measured),
        pictures=len(set(old.pictures.tolist())),
        lines=[line for line in lines if line],
        axes=AXES,
        parts=_gallery(comparison.pairs, old.standing, new.standing),
    )


def _reach(metrics: dict[str, Change]) -> float:
    """How far from 0 the axis of differences goes: the furthest end of an interval, in steps of 0.05."""
    ends = [abs(end) for change in metrics.values() for end in (*change.ci95, change.difference) if not math.isnan(end)]
    return max(math.ceil(max(ends, default=0) * 20) / 20, 0.05)


class Card(NamedTuple):
    """One picture, its question and both answers."""

    before: View
    after: View
    before_standing: float
    after_standing: float
    pair: Pair


class Part(NamedTuple):
    """Wins, losses or the unchanged: how many there are, and some of them."""

    title: str
    questions: int
    cards: list[Card]


def _gallery(pairs: Sequence[Pair], old: np.ndarray, new: np.ndarray) -> list[Part]:
    """Pairs by the change of their standing, the greatest first. Questions for points are left out."""
    change = (new - old).tolist()
    order = [index for index in np.argsort(-np.abs(new - old), kind="stable").tolist() if not math.isnan(change[index])]
    groups = {
        "Better": [index for index in order if change[index] >= _ALIKE],
        "Worse": [index for index in order if change[index] <= -_ALIKE],
        "Much the same": [index for index in reversed(order) if abs(change[index]) < _ALIKE],
    }
    return [
        Part(
            title,
            len(indices),
            [_card(pairs[index], float(old[index]), float(new[index]), index) for index in indices[:_SHOWN]],
        )
        for title, indices in groups.items()
        if indices
    ]


def _card(pair: Pair, old: float, new: float, number: int) -> Card:
    original = pair.before.original
    image = open_or_none(pair.before.record.image) or open_or_none(pair.after.record.image)
    truth = pair.before.truth
    shown = [truth, pair.before.answer.boxes, pair.after.answer.boxes]
    region = around(shown, original, least=_LEAST_VIEW, aspect=_VIEW_ASPECT)
    true_layer = layer("truth", truth)
    name = f"p{number}"
    return Card(
        before=View(
            name, region, embed(image, region, original), [layer("before", pair.before.answer.boxes), true_layer]
        ),
        after=View(f"{name}-after", region, None, [layer("after", pair.after.answer.boxes), true_layer], same_as=name),
        before_standing=old,
        after_standing=new,
        pair=pair,
    )
