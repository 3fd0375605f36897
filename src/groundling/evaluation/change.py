"""How far two lots of answers to the same questions differ, and what can be said about the difference.

Interval and p value both go by picture, as in `metrics.intervals`. The interval draws pictures again, each with both of
its answers. The p value asks how often a difference as large would come about if it did not matter which answers came
first: it swaps before and after within pictures, at random. For a mean this is the sign-flip test (P. Good, Permutation
Tests, 2000).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from groundling.evaluation.metrics import Marks, blocks, divide, percentiles, redraw, sum_by_picture

SIGNIFICANT = 0.05


class Change(NamedTuple):
    """One number, twice. `ci95` is the interval of the difference; all NaN where it applies to no question."""

    before: float
    after: float
    difference: float
    ci95: tuple[float, float]
    p: float

    def is_seen(self, p: float | None = None) -> bool:
        """Whether interval and p value both say that there is a difference; `p` stands in for its own, if corrected."""
        low, high = self.ci95
        return (self.p if p is None else p) < SIGNIFICANT and (low > 0 or high < 0)


def changes(old: Marks, new: Marks, *, seed: int = 0, draws: int = 10_000) -> list[Change]:
    """The change of each column of two marks of the same questions, in the same order."""
    before, after = old.shares(), new.shares()
    sums = _sums(old, new)
    (low, high), p = _difference_interval(sums, seed, draws), _swap_p(sums, np.abs(after - before), seed, draws)
    return [
        Change(
            before=float(before[column]),
            after=float(after[column]),
            difference=float(after[column] - before[column]),
            ci95=(float(low[column]), float(high[column])),
            p=float(p[column]),
        )
        for column in range(len(before))
    ]


class _Sums(NamedTuple):
    """(P, K) sums over the questions of each picture, for the two answers."""

    old_earned: np.ndarray
    old_possible: np.ndarray
    new_earned: np.ndarray
    new_possible: np.ndarray


def _sums(old: Marks, new: Marks) -> _Sums:
    """Both by the pictures of `old`: the questions are the same, in the same order."""
    return _Sums(*(sum_by_picture(values, old) for values in (old.earned, old.possible, new.earned, new.possible)))


def _difference_interval(sums: _Sums, seed: int, draws: int) -> np.ndarray:
    """(2, K) 95 % percentile bootstrap interval of each difference; NaN where either is of fewer than two pictures."""
    differences = [
        divide(weights @ sums.new_earned, weights @ sums.new_possible)
        - divide(weights @ sums.old_earned, weights @ sums.old_possible)
        for weights in redraw(len(sums.old_earned), draws, seed)
    ]
    applies = [(possible > 0).sum(axis=0) for possible in (sums.old_possible, sums.new_possible)]
    return percentiles(differences, np.minimum(*applies))


def _swap_p(sums: _Sums, real: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """(K,) two-sided p values: the share of swappings, the real one counted, with a difference at least as large.

    Swappings after which a metric applies to one side alone have no difference, and count for nothing.
    """
    as_large, drawn = np.ones(len(real)), np.ones(len(real))
    for swapped in swaps(len(sums.old_earned), draws, seed):
        earned = swapped @ (sums.new_earned - sums.old_earned)  # what moves from after to before
        possible = swapped @ (sums.new_possible - sums.old_possible)
        difference = divide(sums.new_earned.sum(axis=0) - earned, sums.new_possible.sum(axis=0) - possible) - divide(
            sums.old_earned.sum(axis=0) + earned, sums.old_possible.sum(axis=0) + possible
        )
        as_large += (np.abs(difference) >= real - 1e-12).sum(axis=0)  # equal ones, however they were rounded
        drawn += (~np.isnan(difference)).sum(axis=0)
    return np.where(np.isnan(real), np.nan, as_large / drawn)


def swaps(pictures: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """(rows, P) 1 where before and after of a picture change places, else 0, in blocks that make up `draws` rows."""
    generator = np.random.default_rng(seed)
    for rows in blocks(draws, pictures):
        yield generator.integers(0, 2, (rows, pictures)).astype(np.float64)


def holm(p: Sequence[float]) -> list[float]:
    """p values as they are once it counts how many were looked at (S. Holm, Scand. J. Statist. 6, 1979, 65-70).

    The smallest is multiplied by their number, the next by one less, and so on, none falling below one before it or
    rising above 1. NaN, where there was nothing to look at, counts for nothing and stays.
    """
    looked_at = sorted((value, place) for place, value in enumerate(p) if value == value)
    corrected, least = list(p), 0.0
    for rank, (value, place) in enumerate(looked_at):
        least = max(least, min(1.0, value * (len(looked_at) - rank)))
        corrected[place] = least
    return corrected
