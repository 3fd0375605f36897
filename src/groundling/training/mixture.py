"""What a run trains on where some of it lies in shards: records that are read when they are asked for.

An epoch goes through them in windows, so that each row group is read about once: the shards are shuffled, and in each
its row groups; so many of these at a time are a window, within which the records are shuffled (`rows`). What is no
shard is dealt over the windows picture by picture.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from groundling.data.record import Record
from groundling.data.shards import KEPT_GROUPS, LazyRecords, Shards

WINDOW_GROUPS = KEPT_GROUPS * 2 // 3  # so that what is kept holds a window, and the beginning of the next


class Part(NamedTuple):
    """A source, and the numbers of those of its records that are trained on, each as often as it comes up."""

    records: Sequence[Record]
    numbers: np.ndarray  # (N,) int64


class Mixture(LazyRecords):
    """The records of several sources, one after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part.numbers) for part in parts)])
        self._blocks = [_blocks_of(part) for part in parts]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, place: int) -> Record:
        """The record at a place from 0."""
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        records, numbers = self.parts[part]
        return records[int(numbers[place - self._starts[part]])]

    def __iter__(self) -> Iterator[Record]:
        for records, numbers in self.parts:
            yield from (
                records.read_in_turn(numbers)
                if isinstance(records, Shards)
                else map(records.__getitem__, numbers.tolist())
            )

    def pictures(self) -> list[Hashable | None]:
        """Something for each record that is the same for those about one picture; None without one."""
        return [picture for place, part in enumerate(self.parts) for picture in _pictures_of(part, place)]

    def windows(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The numbers of all records, in the parts that an epoch goes through one after the other."""
        count = max(-(-blocks.size // WINDOW_GROUPS) for blocks in self._blocks if blocks.files is not None)
        windows = np.concatenate([blocks.deal(count, rng) for blocks in self._blocks])
        order = np.argsort(windows, kind="stable")
        return np.split(order, np.cumsum(np.bincount(windows, minlength=count))[:-1])


class _Blocks(NamedTuple):
    """What is never torn apart: the row groups of shards, or pictures."""

    of_record: np.ndarray  # (N,): in which block each record is
    size: int
    files: np.ndarray | None  # (size,): in which shard each row group is; None for pictures

    def deal(self, windows: int, rng: np.random.Generator) -> np.ndarray:
        """(N,): the window of each record, from 0, the blocks being shuffled: within their shards, and these."""
        order = rng.permutation(self.size)
        if self.files is not None:
            rank_of_file = rng.permutation(int(self.files[-1]) + 1)
            order = order[np.argsort(rank_of_file[self.files[order]], kind="stable")]
        window = np.empty(self.size, dtype=np.int64)
        window[order] = np.arange(self.size) * windows // max(1, self.size)
        return window[self.of_record]


def _blocks_of(part: Part) -> _Blocks:
    records, numbers = part
    if isinstance(records, Shards):
        groups = records.groups_of(records.rows_of(numbers))
        return _Blocks(groups.astype(np.int32), len(records.group_files), records.group_files)
    known: dict[Hashable, int] = {}
    pictures = (number if picture is None else picture for number, picture in enumerate(_pictures_of(part, 0)))
    of_record = [known.setdefault(picture, len(known)) for picture in pictures]
    return _Blocks(np.array(of_record, dtype=np.int32), len(known), None)


def _pictures_of(part: Part, place: int) -> list[Hashable | None]:
    """As `Mixture.pictures`, of the source in that place."""
    records, numbers = part
    if not isinstance(records, Shards):
        return [records[number].image for number in numbers.tolist()]
    rows = records.rows_of(numbers)
    names = np.where(records.has_picture[rows], rows + (place << 40), -1)  # no shards have so many rows
    return [None if name < 0 else name for name in names.tolist()]
