"""Where a difference lies: by the size of the target, and by its class.

Of many groups some differ by chance. So which ones are looked at is settled by how many questions they hold, before
any difference is known, and each one's p value is corrected by Holm's method for their number (`change.holm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from groundling.evaluation.change import Change, changes, holm
from groundling.evaluation.metrics import METRICS, SIZES, Marks, Prediction, have_one_box

MOST_CLASSES = 20  # looked at; with more, the smallest p that 10 000 draws give is soon corrected away
LEAST_PICTURES = (
    6  # of a class; of five, 2 in 32 ways to swap them always give a difference as large, which is p > 0.05
)

_BY_SIZE = "acc@0.5"  # only questions with one target have a size
_BY_CLASS = "f1@0.5"  # or the former, where each question has one target


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


def change_by_size(predictions: Sequence[Prediction], old: Marks, new: Marks, *, seed: int, draws: int) -> Groups:
    """Small, medium and large targets, as far as there are any; `old` and `new` are marks of these questions."""
    shares = np.array([_area_share(prediction) for prediction in predictions])
    members = {name: np.flatnonzero((least <= shares) & (shares < limit)) for name, (least, limit) in SIZES.items()}
    there = {name: places for name, places in members.items() if len(places)}
    return Groups(_BY_SIZE, _look_at(there, _BY_SIZE, old, new, seed, draws), {})


def _area_share(prediction: Prediction) -> float:
    """The one target's area over the picture's; NaN where there is not exactly one."""
    if not prediction.is_single:
        return np.nan
    return prediction.truth.areas()[0] / prediction.original.area


def change_by_class(predictions: Sequence[Prediction], old: Marks, new: Marks, *, seed: int, draws: int) -> Groups:
    """The classes with the most questions, none of too few pictures to show anything.

    A question counts in the class of each label among its targets.
    """
    metric = _BY_SIZE if have_one_box(predictions) else _BY_CLASS
    counted = old.applies(metric) | new.applies(metric)
    members: dict[str, list[int]] = {}
    for place in np.flatnonzero(counted).tolist():
        for label in dict.fromkeys(target.label for target in predictions[place].record.targets if target.label):
            members.setdefault(label, []).append(place)
    order = Counter({label: len(places) for label, places in sorted(members.items())}).most_common()
    can_tell = [label for label, _ in order if _count_pictures(old, members[label]) >= LEAST_PICTURES]
    looked_at = {label: np.array(members[label]) for label in can_tell[:MOST_CLASSES]}
    left_out = {label: count for label, count in order if label not in looked_at}
    return Groups(metric, _look_at(looked_at, metric, old, new, seed, draws), left_out)


def _count_pictures(marks: Marks, places: Sequence[int] | np.ndarray) -> int:
    return len(np.unique(marks.pictures[places]))


def _look_at(
    members: Mapping[str, np.ndarray], metric: str, old: Marks, new: Marks, seed: int, draws: int
) -> list[Group]:
    """The groups by the places of their questions."""
    found = [
        changes(_cut(old, places, metric), _cut(new, places, metric), seed=seed, draws=draws)[0]
        for places in members.values()
    ]
    corrected = holm([change.p for change in found])
    return [
        Group(name, len(places), _count_pictures(old, places), change, p)
        for (name, places), change, p in zip(members.items(), found, corrected, strict=True)
    ]


def _cut(marks: Marks, places: np.ndarray, metric: str) -> Marks:
    """One column of some of the marks, their pictures numbered anew."""
    index = list(METRICS).index(metric)
    _, pictures = np.unique(marks.pictures[places], return_inverse=True)
    return Marks(marks.earned[places, index : index + 1], marks.possible[places, index : index + 1], pictures)
