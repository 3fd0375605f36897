"""Where a difference lies: by the size of the target, and by its class.

Of many groups some differ by chance. So which ones are looked at is settled by how many questions they hold, before
any difference is known, and each one's p value is corrected by Holm's method for their number (`change.holm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundling.evaluation.change import Change, changes, holm
from groundling.evaluation.classes import ANY, name_class
from groundling.evaluation.matching import count_pairs, find_partners, find_pointed
from groundling.evaluation.metrics import METRICS, SIZES, Marks, Prediction, have_one_box, name_all
from groundling.geometry.boxes import iou

MOST_CLASSES = 20  # looked at; with more, the smallest p that 10 000 draws give is soon corrected away
LEAST_PICTURES = (
    6  # of a class; of five, 2 in 32 ways to swap them always give a difference as large, which is p > 0.05
)

_OF_ONE_BOX, _OF_ONE_POINT = "acc@0.5", "point_hit"  # where each question is for one thing, with a size and a class
_BY_SIZE, _BY_CLASS = "recall@0.5", "f1@0.5"  # where some are for several boxes
_OF_POINTS = "point_recall"  # where some are for several things to point at: sizes and classes, each by its own targets


class Group(NamedTuple):
    """Questions that belong together. `p_holm` is the change's p value, corrected for the groups beside it."""

    name: str
    questions: int  # that the metric applies to
    pictures: int
    change: Change
    p_holm: float

    @property
    def differs(self) -> bool:
        """Whether there is a difference that the number of groups does not explain."""
        return self.change.is_seen(self.p_holm)


class Groups(NamedTuple):
    """All that were looked at, by one metric. `left_out` are those that were not, with their numbers of questions."""

    metric: str
    groups: list[Group]
    left_out: dict[str, int]


@dataclass(frozen=True, eq=False)
class Marked:
    """Answers, and what each earned."""

    predictions: Sequence[Prediction]
    marks: Marks

    def about_boxes(self) -> Marked:
        """Those to questions without a point to find."""
        places = np.flatnonzero([not one.has_points for one in self.predictions])
        return Marked([self.predictions[place] for place in places.tolist()], _choose(self.marks, places))


def change_by_size(before: Marked, after: Marked, *, of_points: bool = False, seed: int, draws: int) -> Groups:
    """Small, medium and large targets, as far as there are any; the questions are the same, in the same order.

    `of_points` counts which targets are pointed at, not which boxes are found.
    """
    if not of_points:
        before, after = before.about_boxes(), after.about_boxes()
    metric = _find_metric(before.predictions, of_points, _BY_SIZE)
    sizes = [_name_sizes(one) for one in before.predictions]
    first, second = (_count(side, metric, sizes, SIZES) for side in (before, after))
    shown = {name: _pair_columns(first[name], second[name], before.marks) for name in SIZES if first[name].any()}
    return Groups(metric, _look_at(shown, seed, draws), {})


def change_by_class(
    before: Marked, after: Marked, *, of_points: bool = False, as_said: bool = False, seed: int, draws: int
) -> Groups:
    """The classes that most questions ask for, none of too few pictures to show anything.

    Where questions are for several boxes each class counts by its own: what is to be found and what is answered of it;
    where for several things to point at (`of_points`), by what is to be found of it. Boxes whose labels are taken
    `as_said`, as in `detection`, may be of any class: each counts by its own there, too.
    """
    if not of_points:
        before, after = before.about_boxes(), after.about_boxes()
    metric = _BY_CLASS if as_said and not of_points else _find_metric(before.predictions, of_points, _BY_CLASS)
    if metric == _BY_CLASS:
        labels = [named.true for named in name_all(before.predictions, as_said=as_said)]
    else:
        labels = [[name_class(target.label) for target in one.record.targets] for one in before.predictions]
    shown, left_out = _choose_classes(labels, before.marks.pictures)
    if metric == _BY_CLASS:
        first, second = (_own_f1(side.predictions, shown, as_said) for side in (before, after))
    else:
        first, second = (_count(side, metric, labels, shown) for side in (before, after))
    own = {label: _pair_columns(first[label], second[label], before.marks) for label in shown}
    return Groups(metric, _look_at(own, seed, draws), left_out)


def _find_metric(predictions: Sequence[Prediction], of_points: bool, of_several_boxes: str) -> str:
    """By whether each question is for one thing."""
    if of_points:
        return _OF_ONE_POINT if all(len(one.record.targets) <= 1 for one in predictions) else _OF_POINTS
    return _OF_ONE_BOX if have_one_box(predictions) else of_several_boxes


def _count(side: Marked, metric: str, names: Sequence[Sequence[str]], shown: Iterable[str]) -> dict[str, np.ndarray]:
    """By size or class (2, N): what each answer earned of the metric, and what it could; `names` are of its targets."""
    if metric in (_OF_ONE_BOX, _OF_ONE_POINT):
        return _of_one(side.marks, metric, names, shown)
    count = _point_recall if metric == _OF_POINTS else _recall
    return count(side.predictions, names, shown)


def _of_one(marks: Marks, metric: str, names: Sequence[Sequence[str]], shown: Iterable[str]) -> dict[str, np.ndarray]:
    column = list(METRICS).index(metric)
    sums = np.stack([marks.earned[:, column], marks.possible[:, column]])
    return {name: sums * [[*own] == [name] for own in names] for name in shown}


def _name_sizes(one: Prediction) -> list[str]:
    """The size of each target; ANY of a point."""
    shares = iter((one.truth.areas() / one.original.area).tolist())
    return [ANY if target.box is None else _name_size(next(shares)) for target in one.record.targets]


def _name_size(share: float) -> str:
    return next(name for name, (least, limit) in SIZES.items() if least <= share < limit)


def _recall(
    predictions: Sequence[Prediction], names: Sequence[Sequence[str]], shown: Iterable[str]
) -> dict[str, np.ndarray]:
    """How many of its targets each prediction finds, of how many."""
    counts = {name: np.zeros((2, len(predictions))) for name in shown}
    for place, one in enumerate(predictions):
        is_found = find_partners(iou(one.truth, one.answer.boxes), np.array([0.5]))[0]
        for name in {*names[place]}:
            is_own = np.array(names[place]) == name
            counts[name][:, place] = (is_own & is_found).sum(), is_own.sum()
    return counts


def _point_recall(
    predictions: Sequence[Prediction], names: Sequence[Sequence[str]], shown: Iterable[str]
) -> dict[str, np.ndarray]:
    """The share of its targets that each prediction points at, of 1 where there are any."""
    shares = {name: np.zeros((2, len(predictions))) for name in shown}
    for place, one in enumerate(predictions):
        is_found = find_pointed(one.record, one.answer, one.original)
        for name in shares.keys() & {*names[place]}:
            shares[name][:, place] = is_found[np.array(names[place]) == name].mean(), 1
    return shares


def _own_f1(predictions: Sequence[Prediction], labels: Iterable[str], as_said: bool) -> dict[str, np.ndarray]:
    """By class (2, N): what each prediction earns of F1 at IoU 0.5, and what it could, with its boxes of that class."""
    counts = {label: np.zeros((2, len(predictions))) for label in labels}
    for place, (one, named) in enumerate(zip(predictions, name_all(predictions, as_said=as_said), strict=True)):
        overlaps = iou(one.truth, one.answer.boxes) * named.agree()
        for label in counts.keys() & {*named.true, *named.answered}:
            own = np.array([other == label for other in named.true], dtype=bool)
            both = own.sum() + named.answered.count(label)
            counts[label][:, place] = 2 * count_pairs(overlaps[own], 0.5), both
    return counts


def _choose_classes(labels: Sequence[Sequence[str]], pictures: np.ndarray) -> tuple[list[str], dict[str, int]]:
    """The classes that are looked at, and how many questions ask for each of the others."""
    asked: dict[str, list[int]] = {}
    for place, own in enumerate(labels):
        for label in dict.fromkeys(own):
            asked.setdefault(label, []).append(place)
    asked.pop(ANY, None)
    order = Counter({label: len(places) for label, places in sorted(asked.items())}).most_common()
    can_tell = [label for label, _ in order if len(np.unique(pictures[asked[label]])) >= LEAST_PICTURES]
    shown = can_tell[:MOST_CLASSES]
    return shown, {label: count for label, count in order if label not in shown}


def _pair_columns(first: np.ndarray, second: np.ndarray, marks: Marks) -> tuple[Marks, Marks]:
    """Marks of one column, before and after, of the questions to which either applies."""
    places = np.flatnonzero(first[1] + second[1])
    before, after = (Marks(each[0][:, None], each[1][:, None], marks.pictures) for each in (first, second))
    return _choose(before, places), _choose(after, places)


def _look_at(members: Mapping[str, tuple[Marks, Marks]], seed: int, draws: int) -> list[Group]:
    """The groups by the marks, of one column, of their questions before and after."""
    found = [changes(old, new, seed=seed, draws=draws)[0] for old, new in members.values()]
    corrected = holm([change.p for change in found])
    return [
        Group(name, len(old.pictures), len(np.unique(old.pictures)), change, p)
        for (name, (old, _)), change, p in zip(members.items(), found, corrected, strict=True)
    ]


def _choose(marks: Marks, places: np.ndarray) -> Marks:
    """Some of the marks, their pictures numbered anew."""
    _, pictures = np.unique(marks.pictures[places], return_inverse=True)
    return Marks(marks.earned[places], marks.possible[places], pictures)
