"""Answers as arrays: what each box is held against, and what an answer is worth.

Overlaps are told on the picture's unit square, for stretching a picture changes no IoU. An answer's value is the
sum, over its targets, of the best overlap with any of its boxes, by the number of boxes that could be right: what is
missing is no matter of frames. With one target it is the first box that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from groundling.data.formats.found import TextFrame
from groundling.evaluation.cases import Case
from groundling.geometry.frame import Frame

UNIT = Frame(1, 1)
_MOST_BOXES = 60  # of one answer, or of one record, that are looked at


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
        return _sides([frame_of(size) for size in sizes])[places]

    @cached_property
    def _sizes(self) -> tuple[list[Frame], np.ndarray]:
        """The sizes of pictures that there are, and (N,) which of them each has."""
        numbers = {size: number for number, size in enumerate(dict.fromkeys(case.original for case in self.cases))}
        return list(numbers), np.array([numbers[case.original] for case in self.cases], dtype=int)

    @cached_property
    def originals(self) -> np.ndarray:
        """(N, 2) sides of the pictures."""
        return _sides([case.original for case in self.cases])

    @cached_property
    def reads(self) -> np.ndarray:
        """(N, 2) sides of the frames that the numbers were read in."""
        return _sides([case.read for case in self.cases])

    @cached_property
    def seens(self) -> np.ndarray:
        """(N, 2) sides of the pictures as the model saw them; the pictures' own where that is not told."""
        return _sides([case.seen or case.original for case in self.cases])

    @cached_property
    def orientations(self) -> np.ndarray:
        """(N,) orientation of each picture's file."""
        return np.array([case.orientation for case in self.cases], dtype=int)

    @property
    def is_raw(self) -> bool:
        """Whether most numbers are those of the texts."""
        return sum(case.is_raw for case in self.cases) > len(self) / 2

    def per_box(self, sides: np.ndarray) -> np.ndarray:
        """(..., B, 4) what each number of a box is measured by, of (..., N, 2) along x and y of each picture."""
        return np.tile(sides, 2)[..., self.owner, :]

    def per_pair(self, sides: np.ndarray) -> np.ndarray:
        """(K, 2) likewise for each pair, of (N, 2)."""
        return sides[self.true_owner[self.pairs.truths]]

    @cached_property
    def paired_truth(self) -> np.ndarray:
        """(K, 4) the true box of each pair."""
        return self.truth[self.pairs.truths]

    def values(self, placed: np.ndarray) -> np.ndarray:
        """(N,) what each answer is worth with its boxes placed so: (B, 4) on the unit square."""
        best = self._best(placed)
        return np.minimum(np.bincount(self.true_owner, weights=best * self._shares, minlength=len(self)), 1.0)

    def size_values(self, placed: np.ndarray) -> np.ndarray:
        """(N,) what each answer would be worth if only the sizes of its boxes, (B, 4), counted, not their places."""
        return self._centered.values(_about_nought(placed))

    @cached_property
    def _centered(self) -> Sheet:
        return replace(self, truth=_about_nought(self.truth))

    def worth(self, placed: np.ndarray) -> np.ndarray:
        """(S,) mean values of the answers for S ways to place their boxes: (S, B, 4)."""
        return self._best(placed) @ self._shares / max(len(self), 1)

    def overlaps(self, placed: np.ndarray) -> np.ndarray:
        """(..., K) overlaps of all pairs."""
        return overlaps(placed[..., self.pairs.boxes, :], self.paired_truth)

    def _best(self, placed: np.ndarray) -> np.ndarray:
        """(..., T) the best overlap of each true box with the boxes it is held against."""
        if not len(self):
            return np.empty((*placed.shape[:-2], 0))
        return np.maximum.reduceat(self.overlaps(placed), self._starts, axis=-1)

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
    truths = [case.truth.to(UNIT).xyxy[:_MOST_BOXES] for case in kept]
    return Sheet(
        cases=kept,
        numbers=np.concatenate([np.empty((0, 4)), *numbers]),
        owner=_owners([len(rows) for rows in numbers]),
        truth=np.concatenate([np.empty((0, 4)), *truths]),
        true_owner=_owners([len(rows) for rows in truths]),
        pairs=_pair(numbers, truths, [case.is_single for case in kept], range(len(kept))),
    )


def shuffled(sheet: Sheet, seed: int) -> Sheet:
    """The same answers, each held against the truth of another: what chance alone is worth."""
    count = len(sheet)
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=int)
    partners[order] = np.roll(order, 1)  # one round of all, so nobody keeps its own
    numbers, truths = _split(sheet.numbers, sheet.owner, count), _split(sheet.truth, sheet.true_owner, count)
    return replace(sheet, pairs=_pair(numbers, truths, [case.is_single for case in sheet.cases], partners.tolist()))


def _pair(
    numbers: Sequence[np.ndarray], truths: Sequence[np.ndarray], is_single: Sequence[bool], partners: Sequence[int]
) -> Pairs:
    """Each truth against all boxes of its partner among the answers; against the first where it is the only one."""
    starts = np.cumsum([0, *(len(rows) for rows in numbers)])
    boxes: list[np.ndarray] = []
    for place, partner in enumerate(partners):
        rows = np.arange(starts[partner], starts[partner + 1])[: 1 if is_single[place] else None]
        boxes += [rows] * len(truths[place])
    return Pairs(np.concatenate([np.empty(0, dtype=int), *boxes]), _owners([len(rows) for rows in boxes]))


def _owners(counts: Sequence[int]) -> np.ndarray:
    """Whose each row is, where the first has so many, and so on."""
    return np.repeat(np.arange(len(counts)), counts)


def _split(rows: np.ndarray, owner: np.ndarray, count: int) -> list[np.ndarray]:
    """The rows of each of `count` owners."""
    return np.split(rows, np.searchsorted(owner, np.arange(1, count)))


def _sides(frames: Sequence[Frame]) -> np.ndarray:
    """(N, 2) of N frames."""
    return np.array([frame.size_wh for frame in frames], dtype=np.float64).reshape(-1, 2)


# ---- boxes one by one ------------------------------------------------------------------------------------------


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) IoU of the boxes of two (..., 4) arrays, one by one; 0 where either has no area."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)
    areas = _areas(a) + _areas(b) - shared
    return np.divide(shared, areas, out=np.zeros(shared.shape), where=shared > 0)


def _about_nought(rows: np.ndarray) -> np.ndarray:
    """(..., 4) boxes of the same sizes, all with their middle at 0, 0."""
    half = (rows[..., 2:] - rows[..., :2]) / 2
    return np.concatenate([-half, half], axis=-1)


def _areas(rows: np.ndarray) -> np.ndarray:
    return (rows[..., 2] - rows[..., 0]) * (rows[..., 3] - rows[..., 1])


def settle(unit: np.ndarray) -> np.ndarray:
    """(..., 4) boxes with their corners in order, cut off at the border of the unit square; as a reader does."""
    low, high = np.minimum(unit[..., :2], unit[..., 2:]), np.maximum(unit[..., :2], unit[..., 2:])
    return np.clip(np.concatenate([low, high], axis=-1), 0, 1)
