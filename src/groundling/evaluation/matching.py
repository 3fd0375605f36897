"""Which answered place is which true one: boxes by overlap, points by distance. Nothing here knows of labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial.distance import cdist

from groundling.data.record import Record
from groundling.dialect.answer import Answer
from groundling.geometry.boxes import Points
from groundling.geometry.frame import Frame

REACH = 0.05
"""How far from a true point an answered one may lie, in shares of the picture's longer side (as PCK with alpha 0.05:
Yang and Ramanan, PAMI 2013). A true box needs no such number: a point lies in it or does not."""


def find_partners(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T, N) which rows have a partner when, at each threshold, as many as can be are paired one to one with columns.

    `overlaps` is (N, M); a pair overlaps by at least the threshold.
    """
    if not overlaps.size:
        return np.zeros((len(thresholds), len(overlaps)), dtype=bool)
    fits: np.ndarray = overlaps >= thresholds[:, None, None]
    has_partner = np.any(fits, axis=2)
    is_disputed = fits.sum(axis=1).max(axis=1) > 1  # a column that fits two rows; then one of them may go without
    for at in np.flatnonzero(is_disputed):
        has_partner[at] = maximum_bipartite_matching(csr_array(fits[at]), perm_type="column") >= 0
    return has_partner


def pair_in_turn(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T, M) which columns have a partner when, at each threshold, they choose one after another, as in COCO.

    `overlaps` is (N, M). A column takes the row that it overlaps most of those that are left, the last of equal ones,
    if that is by at least the threshold.
    """
    rows, columns = overlaps.shape
    has_partner = np.zeros((len(thresholds), columns), dtype=bool)
    is_left = np.ones((len(thresholds), rows), dtype=bool)
    for column in range(columns if rows else 0):
        offered = np.where(is_left, overlaps[:, column], -1.0)[:, ::-1]
        best = rows - 1 - offered.argmax(axis=1)
        has_partner[:, column] = offered.max(axis=1) >= thresholds
        takes = np.flatnonzero(has_partner[:, column])
        is_left[takes, best[takes]] = False
    return has_partner


def count_pairs(overlaps: np.ndarray, threshold: float) -> int:
    """The most pairs, one to one, with an overlap of at least `threshold`; `overlaps` is (N, M)."""
    return int(find_partners(overlaps, np.array([threshold])).sum())


# ---- points ----------------------------------------------------------------------------------------------------


class Pointed(NamedTuple):
    """How many targets there are, how many places were answered, and how many of these hit a target of their own."""

    true: int
    answered: int
    hits: int


def answered_places(answer: Answer) -> Points:
    """Where the answer points: its points; the middles of its boxes where it gives no point."""
    return answer.points if len(answer.points) else answer.boxes.centers()


def match_points(record: Record, answer: Answer, original: Frame) -> Pointed:
    """How many targets are pointed at; see `find_pointed`."""
    hits = int(find_pointed(record, answer, original).sum())
    return Pointed(len(record.targets), len(answered_places(answer)), hits)


def find_pointed(record: Record, answer: Answer, original: Frame) -> np.ndarray:
    """(T,) which targets have an answered place of their own.

    As in Molmo's pointing evaluation (arXiv 2409.17146, its code beside molmo2) places and targets pair one to one with
    the least sum of distances, to the middle of a box; then a pair is a hit where the place lies in its target: in the
    box (half-open), or within REACH of the point.
    """
    places = answered_places(answer).xy
    targets = [target.numbers for target in record.targets]
    is_hit = np.zeros(len(targets), dtype=bool)
    if not len(places) or not targets:
        return is_hit
    middles = [middle_of(numbers) for numbers in targets]
    for place, target in zip(*linear_sum_assignment(cdist(places, middles)), strict=True):
        is_hit[target] = lies_in(places[place], targets[target], original)
    return is_hit


def middle_of(numbers: tuple[float, ...]) -> tuple[float, float]:
    """The middle of a box, or the point itself."""
    return ((numbers[0] + numbers[2]) / 2, (numbers[1] + numbers[3]) / 2) if len(numbers) == 4 else numbers[:2]  # type: ignore[return-value]


def lies_in(place: np.ndarray, numbers: tuple[float, ...], original: Frame) -> bool:
    """Whether a place (x, y) lies in the target: inside a box, or within REACH of a point."""
    x, y = place.tolist()
    if len(numbers) == 4:
        left, top, right, bottom = numbers
        return left <= x < right and top <= y < bottom
    away = np.hypot(x - numbers[0], y - numbers[1])
    return bool(away <= REACH * max(original.size_wh))
