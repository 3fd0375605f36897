"""Where a difference lies: by the size of the target, and by its class.

Of many groups some differ by chance. So which ones are looked at is settled by how many questions they hold, before
any difference is known, and each one's p value is corrected by Holm's method for their number (`change.holm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from groundling.evaluation.change import Change, changes, holm
from groundling.evaluation.classes import ANY, name_class
from groundling.evaluation.matching import count_pairs, find_partners
from groundling.evaluation.metrics import METRICS, SIZES, Marks, Prediction, have_one_box, name_all
from groundling.geometry.boxes import iou

MOST_CLASSES = 20  # looked at; with more, the smallest p that 10 000 draws give is soon corrected away
LEAST_PICTURES = (
    6  # of a class; of five, 2 in 32 ways to swap them always give a difference as large, which is p > 0.05
)

_OF_ONE = "acc@0.5"  # where each question is for one box: it has its size, and its class
_BY_SIZE, _BY_CLASS = "recall@0.5", "f1@0.5"  # where some are for several


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


def change_by_size(
    before: Sequence[Prediction], after: Sequence[Prediction], old: Marks, new: Marks, *, seed: int, draws: int
) -> Groups:
    """Small, medium and large targets, as far as there are any; `old` and `new` are marks of these predictions."""
    if have_one_box(before):
        shares = np.array([one.truth.areas()[0] / one.original.area if one.is_single else np.nan for one in before])
        members = {name: np.flatnonzero((least <= shares) & (shares < limit)) for name, (least, limit) in SIZES.items()}
        cut = {name: (_cut(old, at, _OF_ONE), _cut(new, at, _OF_ONE)) for name, at in members.items() if len(at)}
        return Groups(_OF_ONE, _look_at(cut, seed, draws), {})
    first, second = _recall(before, old), _recall(after, new)
    there = {name: (first[name], second[name]) for name in SIZES if len(first[name].possible)}
    return Groups(_BY_SIZE, _look_at(there, seed, draws), {})


def _recall(predictions: Sequence[Prediction], marks: Marks) -> dict[str, Marks]:
    """By size, one column of the questions with such targets: how many of these are found, of how many."""
    limits = np.array(list(SIZES.values()))
    counts = np.zeros((2, len(SIZES), len(predictions)))  # found, and to be found
    for place, one in enumerate(predictions):
        shares = one.truth.areas() / one.original.area
        own = (limits[:, :1] <= shares) & (shares < limits[:, 1:]) & (not one.has_points)
        is_found = find_partners(iou(one.truth, one.answer.boxes), np.array([0.5]))[0]
        counts[:, :, place] = (own & is_found).sum(axis=1), own.sum(axis=1)
    return {
        name: _choose(Marks(earned[:, None], possible[:, None], marks.pictures), np.flatnonzero(possible))
        for name, earned, possible in zip(SIZES, *counts, strict=True)
    }


def change_by_class(
    before: Sequence[Prediction], after: Sequence[Prediction], old: Marks, new: Marks, *, seed: int, draws: int
) -> Groups:
    """The classes that most questions ask for, none of too few pictures to show anything.

    Where questions are for several boxes each class counts by its own: what is to be found and what is answered of it.
    """
    if have_one_box(before):
        is_counted = old.applies(_OF_ONE) | new.applies(_OF_ONE)
        labels = [[name_class(each.label) for each in one.record.targets] for one in before]
        shown, left_out = _choose_classes(labels, is_counted, old)
        cut = {label: (_cut(old, at, _OF_ONE), _cut(new, at, _OF_ONE)) for label, at in shown.items()}
        return Groups(_OF_ONE, _look_at(cut, seed, draws), left_out)
    is_counted = np.array([not one.has_points for one in before])
    shown, left_out = _choose_classes([named.true for named in name_all(before)], is_counted, old)
    first, second = _own_f1(before, shown), _own_f1(after, shown)
    own = {label: _pair_columns(first[label], second[label], old) for label in shown}
    return Groups(_BY_CLASS, _look_at(own, seed, draws), left_out)


def _choose_classes(
    labels: Sequence[Sequence[str]], is_counted: np.ndarray, marks: Marks
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The classes that are looked at with the questions that ask for them, and how many ask for each of the others."""
    asked: dict[str, list[int]] = {}
    for place in np.flatnonzero(is_counted).tolist():
        for label in dict.fromkeys(labels[place]):
            asked.setdefault(label, []).append(place)
    asked.pop(ANY, None)
    order = Counter({label: len(places) for label, places in sorted(asked.items())}).most_common()
    can_tell = [label for label, _ in order if len(np.unique(marks.pictures[asked[label]])) >= LEAST_PICTURES]
    shown = {label: np.array(asked[label]) for label in can_tell[:MOST_CLASSES]}
    return shown, {label: count for label, count in order if label not in shown}


def _own_f1(predictions: Sequence[Prediction], labels: Iterable[str]) -> dict[str, np.ndarray]:
    """By class (2, N): what each prediction earns of F1 at IoU 0.5, and what it could, with its boxes of that class."""
    counts = {label: np.zeros((2, len(predictions))) for label in labels}
    for place, (one, named) in enumerate(zip(predictions, name_all(predictions), strict=True)):
        overlaps = iou(one.truth, one.answer.boxes) * named.agree()
        for label in counts.keys() & {*named.true, *named.answered}:
            own = np.array([other == label for other in named.true], dtype=bool)
            both = own.sum() + named.answered.count(label)
            counts[label][:, place] = 2 * count_pairs(overlaps[own], 0.5), both
    return counts


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


def _cut(marks: Marks, places: np.ndarray, metric: str) -> Marks:
    """One column of some of the marks."""
    index = list(METRICS).index(metric)
    return _choose(Marks(marks.earned[:, [index]], marks.possible[:, [index]], marks.pictures), places)


def _choose(marks: Marks, places: np.ndarray) -> Marks:
    """Some of the marks, their pictures numbered anew."""
    _, pictures = np.unique(marks.pictures[places], return_inverse=True)
    return Marks(marks.earned[places], marks.possible[places], pictures)
