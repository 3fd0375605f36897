"""Which records stand together: in a row, which goes through the model at once, and in a step of several rows.

Questions about one picture stand side by side, where they share it (`pack_row`). A row holds either so many records
or, from lengths that are known before a picture is opened, as many as its budget of tokens has room for. The rows of an
epoch depend on its number and a seed alone, so a run that goes on from a checkpoint goes on with the same ones.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count, islice
from typing import NamedTuple, overload

import numpy as np
from torch.utils.data import Sampler

MOST_OF_A_STEP = 0.25  # of its questions are about one picture, so that none owns the step while there are others
LOOK_AHEAD = 64  # groups among which one is looked for that still fits a row
SPARE_ROWS = 0.01  # of an epoch's, since other epochs' records need a few more or less


Windows = Callable[[np.random.Generator], Sequence[np.ndarray]]


class Length(NamedTuple):
    """Tokens of a sample: all of them, and those up to its picture's end, which its picture's questions share."""

    tokens: int
    shared: int


class Lengths(Sequence[Length]):
    """Many lengths, in 8 bytes each: `tokens_shared` is (N, 2) int32."""

    def __init__(self, tokens_shared: np.ndarray) -> None:
        self._tokens_shared = tokens_shared

    def __len__(self) -> int:
        return len(self._tokens_shared)

    @overload
    def __getitem__(self, number: int) -> Length: ...
    @overload
    def __getitem__(self, number: slice) -> Lengths: ...
    def __getitem__(self, number: int | slice) -> Length | Lengths:
        found = self._tokens_shared[number]
        return Lengths(found) if isinstance(number, slice) else Length(*found.tolist())


class Row(NamedTuple):
    """Numbers of records that stand together, and the epoch and attempt that their pictures' changes depend on.

    They travel with it, since whoever loads pictures ahead lives longer than an epoch. Where a step has fewer records
    than there are processes, some of them get a row of none: they keep in step, and nothing is learned twice.
    """

    numbers: list[int]
    epoch: int = 0
    attempt: int = 0


class Group(NamedTuple):
    """Numbers of records about one picture, and what they take of a row: their count, or their tokens."""

    members: list[int]
    size: int


class Quota:
    """How many questions about one picture may stand together: in a step, and therefore in a row too."""

    def __init__(self, images: Sequence[Hashable | None], most: int) -> None:
        self._images = images
        self._most = most
        asked = Counter(image for image in images if image is not None)
        self._busy = {image for image, times in asked.items() if times > most}  # no other picture can have too many

    def count(self, members: Sequence[int]) -> Counter[Hashable]:
        """Questions about each picture that is asked about too often for one step."""
        if not self._busy:
            return Counter()
        images = (self._images[number] for number in members)
        return Counter(image for image in images if image in self._busy)

    def allows(self, members: Sequence[int], held: Mapping[Hashable, int]) -> bool:
        """Whether these may stand beside what is `held`, in questions about each picture."""
        return not held or all(held.get(image, 0) + more <= self._most for image, more in self.count(members).items())

    def busiest(self, members: Sequence[int]) -> Hashable | None:
        """The one of their pictures that is asked about too often, most of all here; None where none is."""
        return next((image for image, _ in self.count(members).most_common(1)), None)


@dataclass(frozen=True)
class RowPlan:
    """How large rows and steps are. `pack_tokens`, where it is set, stands in for `batch_size`."""

    batch_size: int  # records a row
    pack_tokens: int | None  # tokens a row, at most
    accumulate: int  # rows a step, for each process
    processes: int
    share_pictures: bool

    @property
    def rows_a_step(self) -> int:
        """Over all processes."""
        return self.accumulate * self.processes


class RowSampler(Sampler[Row]):
    """Rows of records: every record once an epoch, as many rows in each epoch, and for each process."""

    batch_size = None  # for accelerate: rows differ in length,
    drop_last = False  # and none of them is left out

    def __init__(
        self,
        images: Sequence[Hashable | None],
        lengths: Sequence[Length],
        plan: RowPlan,
        *,
        seed: int,
        changed: Callable[[int, int], Sequence[Length]] | None = None,
        windows: Windows | None = None,
    ) -> None:
        """`images` are equal for records about one picture.

        `changed` gives the lengths that samples have in an epoch's attempt, where their pictures are changed. `windows`
        gives the numbers of all records in parts, each with whole pictures, that an epoch goes through one by one.
        """
        self.images = images
        self.lengths = lengths
        self.changed = None if changed is None else lru_cache(maxsize=1)(changed)  # a start draws its rows thrice
        self.windows = windows or (lambda _: [np.arange(len(images))])
        self.plan = plan
        self.seed = seed
        self.epoch: Callable[[], int] = lambda: 0  # asked when rows are drawn; the trainer, who counts, sets it
        most = self._most_of_a_picture(plan.accumulate)
        self.most = most if plan.share_pictures else 1
        self._quota = Quota(images, most)
        self._count = 0
        drawn = self._draw(0, 0)
        self._count = len(drawn)
        if plan.pack_tokens is not None:
            needed = sum(1 for row in drawn if row.numbers)
            steps = math.ceil(min(needed + int(needed * SPARE_ROWS), len(images)) / plan.rows_a_step)
            most = min(steps * plan.rows_a_step, len(images))  # whole steps, however they are dealt to processes
            self._count = self._whole_rounds(most)

    def __len__(self) -> int:
        return self._count

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch, the last perhaps of fewer rows."""
        return -(-len(self) // self.plan.rows_a_step)

    def __iter__(self) -> Iterator[Row]:
        yield from self._draw_epoch(self.epoch())

    def draw_step(self, step: int) -> list[Row]:
        """The rows of one optimizer step, counted from 0 over all epochs, of all processes in turn."""
        epoch, place = divmod(step, self.steps)
        size = self.plan.rows_a_step
        return self._draw_epoch(epoch)[place * size : (place + 1) * size]

    def lengths_in(self, epoch: int, attempt: int) -> Sequence[Length]:
        """The lengths of all samples as they are in an epoch's attempt."""
        return self.lengths if self.changed is None else self.changed(epoch, attempt)

    def describe(self) -> str:
        """How many rows an epoch has, and how often its pictures are seen; what would make that less."""
        rows = [row for row in self if row.numbers]
        seen = sum(len({self.images[number] for number in row.numbers} - {None}) for row in rows)
        asked = [image for image in self.images if image is not None]
        told = f"{len(rows)} rows an epoch, of {len(self.images) / max(1, len(rows)):.1f} records"
        if not asked or not self.plan.share_pictures:
            return told
        pictures = len(set(asked))
        told += f"; a picture is seen {seen / pictures:.1f} times for {len(asked) / pictures:.1f} questions"
        cure = self._name_cure(-(-len(asked) // pictures))
        return told if cure is None else f"{told} ({cure} would share more)"

    def _name_cure(self, questions: int) -> str | None:
        """What would let a picture's questions, so many of them on average, stand together; None where they may."""
        if questions == 1:
            return None
        if self.plan.pack_tokens is None and self.plan.batch_size == 1:
            return "rows of several records"
        enough = next(number for number in count(self.plan.accumulate) if self._most_of_a_picture(number) >= questions)
        return f"train.accumulate={enough}" if enough > self.plan.accumulate else None

    def _draw_epoch(self, epoch: int) -> list[Row]:
        """By tokens it may take several attempts, other changes with each, until an epoch needs no more rows than 0.

        That is soon: all attempts are draws from one urn, of which epoch 0 had the first.
        """
        draws = (self._draw(epoch, attempt) for attempt in count())
        return next(rows for rows in draws if len(rows) == self._count)

    def _draw(self, epoch: int, attempt: int) -> list[Row]:
        """One attempt at the rows of an epoch."""
        rng = np.random.default_rng([self.seed, epoch, attempt])
        windows = self.windows(rng.spawn(1)[0])  # by dice of its own: the rows of one window are those of none
        groups = [group for window in windows for group in group_questions(self.images, self.most, rng, window)]
        if self.plan.pack_tokens is None:
            return [Row(numbers, epoch, attempt) for numbers in self._draw_by_records(groups)]
        lengths = self.lengths_in(epoch, attempt)
        measured = [part for members in groups for part in fit(members, lengths, self.plan.pack_tokens)]
        rows = join_members(fill(measured, self.plan.pack_tokens, cut=False, quota=self._quota))
        rows = split_rows(rows, self._count)
        shuffled = [Group(row, 1) for own in part_rows(rows, windows) for row in self._shuffle(own, rng)]
        steps = fill(shuffled, self.plan.rows_a_step, cut=False, quota=self._quota)
        filled = self._fill_round([row.members for step in steps for row in step])
        return [Row(numbers, epoch, attempt) for numbers in filled]

    def _shuffle(self, rows: Sequence[list[int]], rng: np.random.Generator) -> list[list[int]]:
        return [rows[place] for place in spread_out([self._quota.busiest(row) for row in rows], rng)]

    def _draw_by_records(self, groups: Sequence[list[int]]) -> list[list[int]]:
        """A step holds the same records however many rows and processes it is cut into."""
        size = self.plan.batch_size
        rows: list[list[int]] = []
        counted = [Group(members, len(members)) for members in groups]
        for step in fill(counted, size * self.plan.rows_a_step, cut=True, quota=self._quota):
            largest_first = sorted(step, key=lambda group: group.size, reverse=True)  # so that few have to be cut
            own = join_members(fill(largest_first, size, cut=True))
            rows += self._fill_round(split_rows(own, self._whole_rounds(len(own))))
        return rows

    def _whole_rounds(self, rows: int) -> int:
        return -(-rows // self.plan.processes) * self.plan.processes

    def _fill_round(self, rows: list[list[int]]) -> list[list[int]]:
        """The rows, and as many of no records behind them as give every process one."""
        return rows + [[] for _ in range(self._whole_rounds(len(rows)) - len(rows))]

    def _most_of_a_picture(self, accumulate: int) -> int:
        """How many questions about one picture may be in a step, from how many a step of so many rows holds."""
        plan = replace(self.plan, accumulate=accumulate)
        questions: float = plan.batch_size * plan.rows_a_step
        if plan.pack_tokens is not None and self.images:
            pictures = dict(zip(self.images, self.lengths, strict=True))
            shared = sum(length.shared for length in pictures.values())
            own = sum(length.tokens - length.shared for length in self.lengths)
            tokens = plan.pack_tokens * plan.rows_a_step
            questions = len(self.images) * tokens / (shared + own)
            # questions about as many pictures as there have to be, if that leaves their share of the room to words
            apart = (tokens - shared / len(pictures) / MOST_OF_A_STEP) * len(self.images) / max(1, own)
            questions = min(questions, apart) if apart >= questions / 2 else questions
        return max(1, int(questions * MOST_OF_A_STEP))


def group_questions(
    images: Sequence[Hashable | None], most: int, rng: np.random.Generator, numbers: np.ndarray | None = None
) -> list[list[int]]:
    """The numbers, or all, in random groups of up to `most` about one picture, in random order (`spread_out`)."""
    by_image: dict[Hashable, list[int]] = {}
    groups: list[list[int]] = []
    for number in rng.permutation(len(images) if numbers is None else numbers).tolist():
        image = images[number]
        if image is None:
            groups.append([number])
        else:
            by_image.setdefault(image, []).append(number)
    groups += [found[start : start + most] for found in by_image.values() for start in range(0, len(found), most)]
    return [groups[place] for place in spread_out([images[group[0]] for group in groups], rng)]


def part_rows(rows: Sequence[list[int]], windows: Sequence[np.ndarray]) -> list[list[list[int]]]:
    """The rows by the window of their first number."""
    window_of = np.empty(sum(map(len, windows)), dtype=np.int32)
    for place, numbers in enumerate(windows):
        window_of[numbers] = place
    parts: list[list[list[int]]] = [[] for _ in windows]
    for row in rows:
        parts[window_of[row[0]]].append(row)
    return parts


def spread_out(kinds: Sequence[Hashable | None], rng: np.random.Generator) -> list[int]:
    """Places in random order, but those of one kind an even distance apart; None is of no kind."""
    together: dict[Hashable, list[int]] = {}
    for place in rng.permutation(len(kinds)).tolist():
        kind = kinds[place]
        together.setdefault((place,) if kind is None else kind, []).append(place)
    begins = rng.random(len(together)).tolist()
    at = [
        ((number + begin) / len(places), place)
        for begin, places in zip(begins, together.values(), strict=True)
        for number, place in enumerate(places)
    ]
    return [place for _, place in sorted(at)]


def fit(members: Sequence[int], lengths: Sequence[Length], budget: int) -> list[Group]:
    """Questions about one picture in groups of up to `budget` tokens, the picture counted once in each."""
    groups: list[Group] = []
    for number in members:
        tokens, shared = lengths[number]
        added = groups[-1].size + tokens - shared if groups else 0
        if groups and added <= budget:
            groups[-1] = Group([*groups[-1].members, number], added)
        else:
            groups.append(Group([number], tokens))
    return groups


def fill(groups: Sequence[Group], size: int, *, cut: bool, quota: Quota | None = None) -> list[list[Group]]:
    """The groups in bins of `size`, the last of what is left.

    A group that does not fit waits, if one a little further on does. Where none does it is cut, if it is of records
    that each take 1, or a new bin begun. One whose picture has its quota of the bin waits as long as there are others.
    """
    quota = quota or Quota([], 0)
    waiting, bins, room, held = deque(groups), list[list[Group]](), 0, Counter[Hashable]()
    while waiting:
        place = _choose(list(islice(waiting, LOOK_AHEAD)), room, partial(quota.allows, held=held), can_cut=cut)
        if place is None:
            bins.append([])
            room, held = max(size, waiting[0].size if not cut else 0), Counter()
            continue
        group = waiting[place]
        del waiting[place]
        if group.size > room:
            waiting.appendleft(Group(group.members[room:], group.size - room))
            group = Group(group.members[:room], room)
        bins[-1].append(group)
        room -= group.size
        held += quota.count(group.members)
    return bins


def _choose(
    ahead: Sequence[Group], room: int, is_allowed: Callable[[Sequence[int]], bool], *, can_cut: bool
) -> int | None:
    """Which of the groups goes into a bin with that much room next; None: a new bin is begun."""
    fitting = [place for place, group in enumerate(ahead) if group.size <= room]
    found = next((place for place in fitting if is_allowed(ahead[place].members)), None)
    if found is not None or not room:
        return found
    other = next((place for place, group in enumerate(ahead) if is_allowed(group.members)), None)
    if other is not None:
        return other if can_cut else None
    return next(iter(fitting), 0 if can_cut else None)


def join_members(rows: Sequence[Sequence[Group]]) -> list[list[int]]:
    """The numbers in each row, group by group."""
    return [[number for group in row for number in group.members] for row in rows]


def split_rows(rows: Sequence[list[int]], wanted: int) -> list[list[int]]:
    """The rows, the longest of them halved until they are `wanted`, or none has two members any more."""
    longest = [(-len(row), place) for place, row in enumerate(rows)]
    heapq.heapify(longest)
    halves = list(rows)
    while len(halves) < wanted and longest and -longest[0][0] > 1:
        _, place = heapq.heappop(longest)
        middle = len(halves[place]) // 2
        halves.append(halves[place][middle:])
        halves[place] = halves[place][:middle]
        for half in (place, len(halves) - 1):
            heapq.heappush(longest, (-len(halves[half]), half))
    return halves
