"""What record files hold, counted: records, classes, sizes of pictures, and sizes of boxes as a model will see them.

A box's size is told in visual tokens: its area in the resized picture over the area that one token covers. Below one
token a target shares its token with what surrounds it, and is hard to learn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundling.data.findings import Finding, finding_of
from groundling.data.judge import Case, JudgedBox
from groundling.data.record import Record, Rejected
from groundling.dialect.family import FAMILIES, Budget
from groundling.geometry.frame import Frame

USUAL_BUDGET = Budget(FAMILIES["qwen2_5_vl"], min_pixels=4 * 28**2, max_pixels=1280 * 28**2)
"""What a base model gets without a recipe; box sizes are told at it where no budget is known."""

TOKEN_BINS = (1 / 16, 1 / 4, 1, 4, 16, 64, 256)  # tokens: edges of the histogram, which is open at both ends
_MOST_TOKENS = 16384  # of the budgets that are tried: the vendor's own largest (2025)
_FEW = 0.01  # of the targets
_WORTH = 0.5  # of the small targets: what may be left of them where a larger budget is advised
_LEAST_USES = 5  # of a label on average, for labels to be classes: below they are phrases or texts
_RARE = 10  # targets; a class with fewer, and
_RARE_SHARE = 0.1  # of the middle class's targets, is rare
_FREQUENT = 10  # times the middle class's targets


class FileCount(NamedTuple):
    """What one record file holds."""

    name: str
    records: int
    rejected: int  # lines that are no records
    negatives: int  # records with nothing to find
    texts: int  # general instructions
    boxes: int
    points: int
    pictures: int


class ClassCount(NamedTuple):
    """A label and how often it stands."""

    label: str
    targets: int
    records: int


class Rescue(NamedTuple):
    """A larger budget and the share of targets that would still be smaller than a token."""

    max_tokens: int
    small: float


@dataclass(frozen=True)
class BoxSizes:
    """Sizes of the sound boxes, in visual tokens at a budget."""

    budget: Budget
    is_usual: bool  # whether no budget was given, and USUAL_BUDGET stands in
    count: int
    bins: tuple[int, ...]  # boxes below TOKEN_BINS[0], between it and the next, ..., above the last
    small: float  # share below one token
    rescues: tuple[Rescue, ...]  # larger budgets, up to the first that leaves few small

    @property
    def advice(self) -> str | None:
        """What a larger budget would do; None where hardly any target is small."""
        if self.small < _FEW:
            return None
        start = f"{show_percent(self.small)} of targets are under 1 token at images.max_tokens={self.budget.max_tokens}"
        if not self.rescues:
            return f"{start}, and no larger budget helps: the pictures themselves are small"
        best = next((rescue for rescue in self.rescues if rescue.small <= _WORTH * self.small), None)
        if best is None:
            last = self.rescues[-1]
            return f"{start}, and larger budgets hardly help: {show_percent(last.small)} are at {last.max_tokens}"
        return f"{start}; images.max_tokens={best.max_tokens} would bring it to {show_percent(best.small)}"


@dataclass(frozen=True)
class PictureSizes:
    """Upright sizes of the pictures that could be read, each counted once."""

    count: int
    smallest: Frame  # by area
    median: Frame
    largest: Frame
    shrunk: float  # share with more pixels than the budget, which are made smaller for the model


class Lengths(NamedTuple):
    """Tokens of the samples that training would make of the records, at the model's budget."""

    samples: int
    median: int
    longest: int
    limit: int | None  # what the recipe takes; None without one
    too_long: int  # samples beyond it
    longest_answer: int  # its end token counted
    max_new_tokens: int | None  # what an evaluation lets the model write; None without a recipe

    @property
    def advice(self) -> str | None:
        """What to change; None where everything fits."""
        if self.max_new_tokens is not None and self.longest_answer > self.max_new_tokens:
            return (
                f"the longest true answer has {self.longest_answer} tokens, and evaluations stop after"
                f" {self.max_new_tokens}: set evaluate.max_new_tokens={self.longest_answer}"
            )
        if self.limit is not None and self.too_long:
            share = show_percent(self.too_long / self.samples)
            return f"{share} of samples have more than the {self.limit} tokens of the recipe, up to {self.longest}"
        return None


@dataclass(frozen=True)
class Census:
    """What the records hold, beside what is wrong with them."""

    files: tuple[FileCount, ...]
    classes: tuple[ClassCount, ...]  # the most frequent first
    has_classes: bool  # labels repeat; else they are phrases, each its own
    box_sizes: BoxSizes | None  # None without sound boxes
    picture_sizes: PictureSizes | None  # None where no picture could be read
    lengths: Lengths | None = None  # None where no tokenizer was at hand

    @property
    def advice(self) -> list[str]:
        """What to change in the recipe."""
        found = (self.box_sizes.advice if self.box_sizes else None, self.lengths.advice if self.lengths else None)
        return [words for words in found if words is not None]


def show_percent(share: float) -> str:
    """`12 %`; `< 1 %` for less, and `0 %` for nothing."""
    return "< 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def take_census(
    cases: Sequence[Case], boxes: Iterable[JudgedBox], rejected: Iterable[Rejected], budget: Budget | None
) -> Census:
    """Count everything."""
    classes = _count_classes(case.record for case in cases)
    targets = sum(count.targets for count in classes)
    used = budget or USUAL_BUDGET
    return Census(
        files=tuple(_count_files(cases, rejected)),
        classes=classes,
        has_classes=len(classes) > 1 and targets >= _LEAST_USES * len(classes),
        box_sizes=_measure_boxes(boxes, used, is_usual=budget is None),
        picture_sizes=_measure_pictures(cases, used),
    )


# ---- counts ----------------------------------------------------------------------------------------------------


def _count_files(cases: Sequence[Case], rejected: Iterable[Rejected]) -> Iterator[FileCount]:
    bad = Counter(line.file for line in rejected)
    by_file: dict[str, list[Record]] = {name: [] for name in bad}
    for case in cases:
        by_file.setdefault(str(case.record.file or ""), []).append(case.record)
    for name, records in by_file.items():
        targets = [target for record in records for target in record.targets]
        boxes = sum(target.box is not None for target in targets)
        yield FileCount(
            name=name,
            records=len(records),
            rejected=bad[name],
            negatives=sum(record.is_negative for record in records),
            texts=sum(record.answer is not None for record in records),
            boxes=boxes,
            points=len(targets) - boxes,
            pictures=len({record.image for record in records if record.image is not None}),
        )


def _count_classes(records: Iterable[Record]) -> tuple[ClassCount, ...]:
    targets: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    for record in records:
        labels = [target.label for target in record.targets if target.label is not None]
        targets.update(labels)
        holders.update(set(labels))
    return tuple(ClassCount(label, count, holders[label]) for label, count in targets.most_common())


# ---- sizes -----------------------------------------------------------------------------------------------------


def _measure_boxes(boxes: Iterable[JudgedBox], budget: Budget, *, is_usual: bool) -> BoxSizes | None:
    sound = [(found.box, frame) for found in boxes if found.is_sound and (frame := found.case.frame)]
    if not sound:
        return None
    corners = np.array([box for box, _ in sound])
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    originals = np.array([frame.area for _, frame in sound], dtype=np.float64)
    tokens = _in_tokens(areas, originals, budget)
    edges = [0, *TOKEN_BINS, np.inf]
    return BoxSizes(
        budget=budget,
        is_usual=is_usual,
        count=len(sound),
        bins=tuple(np.histogram(tokens, bins=edges)[0].tolist()),
        small=float((tokens < 1).mean()),
        rescues=tuple(_find_rescues(areas, originals, budget)),
    )


def _in_tokens(areas: np.ndarray, originals: np.ndarray, budget: Budget) -> np.ndarray:
    """Box areas in visual tokens, in pictures of so many original pixels; an estimate as `Budget.estimate_scale` is."""
    seen = np.clip(originals, budget.min_pixels, budget.max_pixels)
    return areas * seen / originals / budget.family.token_side**2


def _find_rescues(areas: np.ndarray, originals: np.ndarray, budget: Budget) -> Iterator[Rescue]:
    """Budgets doubled again and again, as long as that helps and many targets are still small."""
    small = float((_in_tokens(areas, originals, budget) < 1).mean())
    larger = budget
    while small >= _FEW and larger.max_tokens < _MOST_TOKENS:
        larger = Budget(budget.family, budget.min_pixels, larger.max_pixels * 2)
        left = float((_in_tokens(areas, originals, larger) < 1).mean())
        if left >= small and larger.max_pixels > originals.max():
            return
        small = left
        yield Rescue(larger.max_tokens, left)


def _measure_pictures(cases: Iterable[Case], budget: Budget) -> PictureSizes | None:
    looks = {case.record.image: case.look for case in cases if case.look is not None}
    frames = sorted((look.frame for look in looks.values() if look.frame), key=lambda frame: (frame.area, frame.width))
    if not frames:
        return None
    shrunk = sum(frame.area > budget.max_pixels for frame in frames) / len(frames)
    return PictureSizes(len(frames), frames[0], frames[len(frames) // 2], frames[-1], shrunk)


# ---- findings about classes ------------------------------------------------------------------------------------


def find_class_faults(census: Census, records: Sequence[Record]) -> Iterator[Finding]:
    """Classes written in several ways, rare ones, and far too frequent ones, each once; none where labels are phrases.

    Each is told at the first record that holds it.
    """
    if not census.has_classes:
        return
    first = _first_records(records)
    counts = {count.label: count.targets for count in census.classes}
    variants = _find_variants(counts)
    for label, usual in variants.items():
        message = f"{label!r} ({counts[label]} targets) is {usual!r} ({counts[usual]} targets) but for case or spaces"
        yield finding_of("label_variants", first[label], message)
    middle = float(np.median(list(counts.values())))
    for label, count in counts.items():
        message = f"{label!r} has {count} targets, the middle one of {len(counts)} classes has {middle:g}"
        if count < _RARE and count < _RARE_SHARE * middle and label not in variants:
            yield finding_of("rare_class", first[label], message)
        if count > _FREQUENT * middle and len(counts) > 2:
            yield finding_of("unbalanced", first[label], message)


def _first_records(records: Iterable[Record]) -> dict[str, Record]:
    first: dict[str, Record] = {}
    for record in records:
        for target in record.targets:
            if target.label is not None:
                first.setdefault(target.label, record)
    return first


def _find_variants(counts: Mapping[str, int]) -> dict[str, str]:
    """Labels that differ in case or spaces only from a more frequent one, with that one."""
    usual: dict[str, str] = {}
    variants: dict[str, str] = {}
    for label in counts:  # the most frequent first
        spelling = " ".join(label.casefold().split())
        if usual.setdefault(spelling, label) != label:
            variants[label] = usual[spelling]
    return variants
