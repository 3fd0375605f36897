"""An examination in words, for a terminal: what the files hold, what is wrong with them, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from groundling.data.census import BoxSizes, Census, ClassCount, FileCount, Lengths, PictureSizes, show_percent
from groundling.data.check import Examination, summarize
from groundling.data.formats.chat import Unplaced
from groundling.data.frame_proof import possible_frames
from groundling.data.judge import JudgedBox
from groundling.dialect.answer import Item

BIN_NAMES = ("< 1/16", "1/16 - 1/4", "1/4 - 1", "1 - 4", "4 - 16", "16 - 64", "64 - 256", "> 256")
"""The bins of `BoxSizes.bins`, in visual tokens."""

_BAR = 30  # characters of the longest bar
_SHOWN = 5  # classes at either end
_FEWEST, _STRAY = 3, 0.05  # boxes of a file, and their share, that leave their pictures by more than mistakes
_HELD = 5000  # boxes of a file that are held against every frame


def describe(examination: Examination) -> str:
    """The census, then the findings by code, then what to change in the recipe."""
    census = examination.census
    advice = [f"-> {words}" for words in census.advice]
    frames = describe_frames(examination.judgement.boxes)
    return "\n".join([*_describe_census(census), "", summarize(examination.findings), *advice, *frames])


def describe_frames(boxes: Sequence[JudgedBox]) -> Iterator[str]:
    """Where many boxes of a file leave their pictures: which frames its numbers could count in, and which not."""
    for file, own in _group_by_file(boxes).items():
        outside = sum(box.code == "outside" for box in own)
        if outside < max(_FEWEST, _STRAY * len(own)):
            continue
        known = [(box.box, box.case.frame) for box in own if box.case.frame is not None]
        named = [Unplaced([Item(numbers, None)], frame, file or Path(), 0) for numbers, frame in known[:_HELD]]
        share = f"{outside} of {len(own)} boxes of {file or 'the records'}"
        yield f"-> {share} leave their pictures; their numbers could count:"
        yield from (f"     {line}" for line in possible_frames(named).as_lines())


def _group_by_file(boxes: Sequence[JudgedBox]) -> dict[Path | None, list[JudgedBox]]:
    groups: dict[Path | None, list[JudgedBox]] = {}
    for box in boxes:
        groups.setdefault(box.case.record.file, []).append(box)
    return groups


def _describe_census(census: Census) -> Iterator[str]:
    for file in census.files:
        yield describe_file(file)
    if census.picture_sizes is not None:
        yield describe_pictures(census.picture_sizes)
    if census.has_classes:
        yield _describe_classes(census.classes)
    if census.lengths is not None:
        yield describe_lengths(census.lengths)
    if census.box_sizes is not None:
        yield from _describe_box_sizes(census.box_sizes)


def describe_file(file: FileCount) -> str:
    """One line about a file; counts of nothing are left out."""
    counts = {
        "pictures": file.pictures,
        "boxes": file.boxes,
        "points": file.points,
        "with nothing to find": file.negatives,
        "general instructions": file.texts,
        "unreadable lines": file.rejected,
    }
    told = "".join(f", {count} {what}" for what, count in counts.items() if count)
    return f"{file.name or 'records'}: {file.records} records{told}"


def describe_pictures(sizes: PictureSizes) -> str:
    """One line about the sizes of pictures."""
    span = f"{sizes.smallest} to {sizes.largest}, the middle one {sizes.median}"
    return (
        f"{sizes.count} pictures that can be read: {span}; {show_percent(sizes.shrunk)} are made smaller for the model"
    )


def describe_lengths(lengths: Lengths) -> str:
    """One line about the tokens of samples."""
    limit = "" if lengths.limit is None else f" (the recipe takes {lengths.limit})"
    return (
        f"{lengths.samples} samples: {lengths.median} tokens in the middle, {lengths.longest} at most{limit};"
        f" answers of up to {lengths.longest_answer}"
    )


def describe_budget(sizes: BoxSizes) -> str:
    """At which budget box sizes are told."""
    side = sizes.budget.family.token_side
    usual = ", the usual budget (--recipe or --model for another)" if sizes.is_usual else ""
    return f"visual tokens of {side}x{side} pixels at images.max_tokens={sizes.budget.max_tokens}{usual}"


def _describe_classes(classes: tuple[ClassCount, ...]) -> str:
    def name(counts: tuple[ClassCount, ...]) -> str:
        return ", ".join(f"{count.label} {count.targets}" for count in counts)

    if len(classes) <= 2 * _SHOWN:
        return f"{len(classes)} classes: {name(classes)}"
    return f"{len(classes)} classes: {name(classes[:_SHOWN])}, ... {name(classes[-_SHOWN:])}"


def _describe_box_sizes(sizes: BoxSizes) -> Iterator[str]:
    yield f"{sizes.count} boxes in {describe_budget(sizes)}"
    most = max(sizes.bins)
    for name, count in zip(BIN_NAMES, sizes.bins, strict=True):
        yield f"  {name:>10} {count:>7}  {'#' * round(_BAR * count / most)}".rstrip()
