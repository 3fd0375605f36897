"""The data doctor: what is wrong with records, found before a model learns it.

`check` gives the findings; `examine` gives them with all that was seen on the way, for a page or for mending. What can
be found is the table CODES (`findings`); boxes are judged in `judge`, classes and sizes counted in `census`, and
pictures are looked at once (`look`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from groundling.data.census import Census, find_class_faults, take_census
from groundling.data.findings import (
    CODES,
    Finding,
    finding_of,
    finding_of_line,
    sort_findings,
    summarize,
    usable,
    write_findings,
)
from groundling.data.judge import (
    Case,
    Judgement,
    find_box_faults,
    find_misread_boxes,
    find_point_faults,
    find_tiny_boxes,
    find_twin_targets,
    find_whole_pictures,
    judge_alone,
    judge_boxes,
)
from groundling.data.likeness import SIDE, match
from groundling.data.look import Look, look_at_pictures
from groundling.data.record import Record, Rejected
from groundling.dialect.family import Budget
from groundling.geometry.images import MAX_PIXELS

__all__ = ["CODES", "Examination", "Finding", "check", "examine", "summarize", "usable", "write_findings"]

_SMALLEST_PICTURE = 16  # pixels of the shorter side: a patch of the families has 14 or 16
_LONGEST_QUESTION = 1000  # characters
_LONGEST_LABEL = 200
_TURNED_CURE = (
    "size and boxes were taken before the picture was turned by its EXIF orientation: convert the source again, "
    "or turn the boxes; groundling sees pictures upright"
)
_CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")


@dataclass(frozen=True)
class Examination:
    """All that was found, and what it was found in."""

    findings: list[Finding]  # by file and line
    census: Census
    cases: list[Case]  # every record, in order
    judgement: Judgement  # of every box
    pairs: list[Pair]  # pictures that are, or look like, another record's
    rejected: list[Rejected]
    seconds: float


def check(
    records: Sequence[Record],
    *,
    rejected: Iterable[Rejected] = (),
    budget: Budget | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """All that is wrong or odd with the records, ordered by file and line; the options are those of `examine`."""
    return examine(records, rejected=rejected, budget=budget, max_pixels=max_pixels, progress=progress).findings


def examine(
    records: Sequence[Record],
    *,
    rejected: Iterable[Rejected] = (),
    budget: Budget | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
    looks: Mapping[Path, Look] | None = None,
) -> Examination:
    """What is wrong or odd with the records, and what they hold.

    `records` may come from several files: pictures that two of them share are found. `rejected` are the lines that
    `scan_records` passed over. With `budget`, boxes too small to be seen after resizing are found. Each picture is
    opened once; `progress` is told (pictures done, pictures in all) after each. `looks` are what the pictures showed,
    where they have been looked at already.
    """
    start = time.monotonic()
    if looks is None:
        paths = (record.image for record in records if record.image is not None)
        looks = look_at_pictures(paths, max_pixels=max_pixels, progress=progress)
    cases = [Case.of(record, _look_of(record, looks)) for record in records]
    judgement = judge_boxes(cases)
    rejected = list(rejected)
    pairs = [*pair_leaks(cases), *pair_lookalikes(cases)]
    census = take_census(cases, judgement.boxes, rejected, budget)
    findings = [
        *map(finding_of_line, rejected),
        *find_picture_faults(cases),
        *find_wrong_sizes(cases),
        *find_misread_boxes(judgement),
        *find_box_faults(judgement.boxes),
        *find_tiny_boxes(judgement.boxes, budget),
        *find_whole_pictures(judgement.boxes),
        *find_point_faults(cases),
        *find_twin_targets(cases),
        *find_text_faults(records),
        *find_doubts(records),
        *find_duplicate_ids(records),
        *find_repeated_questions(cases),
        *map(finding_of_pair, pairs),
        *find_class_faults(census, records),
    ]
    return Examination(sort_findings(findings), census, cases, judgement, pairs, rejected, time.monotonic() - start)


def find_own_errors(records: Iterable[Record], looks: Mapping[Path, Look], max_pixels: int) -> Iterator[Finding]:
    """The errors that each record shows by itself, its declared size taken as its picture's; no picture is opened.

    `looks` are what bad pictures have shown.
    """
    for record in records:
        frame = record.declared
        look = None if record.image is None else looks.get(record.image, Look(frame))
        if frame is not None and frame.area > max_pixels:
            look = Look(fault="unfit_size", reason=f"{record.image} has {frame.area} pixels; {max_pixels} are allowed")
        case = Case.of(record, look)
        boxes = judge_alone(case)
        found = [
            *find_picture_faults([case]),
            *find_misread_boxes(Judgement(boxes, {})),
            *find_box_faults(boxes),
            *find_point_faults([case]),
            *find_text_faults([record]),
        ]
        yield from (finding for finding in found if finding.level == "error")


# ---- pictures --------------------------------------------------------------------------------------------------


def _look_of(record: Record, looks: Mapping[Path, Look]) -> Look | None:
    if record.image is not None:
        return looks[record.image]
    return None if record.answer is not None else Look(fault="missing_picture", reason="the record names no picture")


def find_picture_faults(cases: Iterable[Case]) -> Iterator[Finding]:
    """Pictures that are missing or cannot be read, once for each of their records; odd ones once."""
    odd: set[Path | None] = set()
    for record, look, _ in cases:
        if look is None or record.image in odd:
            continue
        if look.fault is not None:
            yield finding_of(look.fault, record, look.reason)
            continue
        odd.add(record.image)
        if look.frame is not None and min(look.frame.size_wh) < _SMALLEST_PICTURE:
            yield finding_of("small_picture", record, f"{record.image} has {look.frame} pixels")
        if look.has_more_frames:
            yield finding_of("more_frames", record, f"{record.image} has several frames; the first is taken")


def find_wrong_sizes(cases: Iterable[Case]) -> Iterator[Finding]:
    """Records whose width or height is not that of their upright picture."""
    for record, look, _ in cases:
        if look is None or look.frame is None:
            continue
        real = look.frame
        if (record.width or real.width, record.height or real.height) == real.size_wh:
            continue
        declared = f"declared {record.width or '?'}x{record.height or '?'}, but the upright picture is {real}"
        if (record.height, record.width) == real.size_wh:
            yield finding_of("wrong_size", record, f"{declared}: width and height are swapped", cure=_TURNED_CURE)
        else:
            yield finding_of("wrong_size", record, declared)


# ---- words -----------------------------------------------------------------------------------------------------


def find_text_faults(records: Iterable[Record]) -> Iterator[Finding]:
    """Questions without words, texts of unusual length, and anything like <|im_end|>, each once a record."""
    for record in records:
        labels = [target.label for target in record.targets if target.label]
        if not record.question.strip():
            yield finding_of("empty_question", record, f"the question is {record.question!r}")
        longest = max(map(len, labels), default=0)
        if record.answer is None and len(record.question) > _LONGEST_QUESTION:
            message = f"the question has {len(record.question)} characters: {record.question[:60]!r}..."
            yield finding_of("long_text", record, message)
        elif longest > _LONGEST_LABEL:
            yield finding_of("long_text", record, f"a label has {longest} characters: {max(labels, key=len)[:60]!r}...")
        text = "\n".join([record.question, record.answer or "", *labels])
        if "<|" in text and (tokens := list(dict.fromkeys(_CONTROL_TOKEN.findall(text)))):
            yield finding_of("control_tokens", record, f"the text holds {', '.join(tokens)}")


def find_doubts(records: Iterable[Record]) -> Iterator[Finding]:
    """Records whose converter left a doubt: the text of their key `doubt`."""
    for record in records:
        doubt = record.extra.get("doubt")
        if doubt:
            yield finding_of("doubtful", record, doubt if isinstance(doubt, str) else repr(doubt))


# ---- repetitions -----------------------------------------------------------------------------------------------


def find_duplicate_ids(records: Iterable[Record]) -> Iterator[Finding]:
    """Records whose id an earlier record of their file has; no id is no duplicate."""
    first: dict[tuple[Path | None, str], Record] = {}
    for record in records:
        earlier = first.setdefault((record.file, record.id), record)
        if earlier is not record and record.id:
            yield finding_of("duplicate_id", record, f"the id {record.id!r} is also that of {earlier.place}")


def find_repeated_questions(cases: Iterable[Case]) -> Iterator[Finding]:
    """Records that ask what an earlier one of their file asked about the same picture, answered alike or not."""
    first: dict[Hashable, Record] = {}
    for case in cases:
        record = case.record
        earlier = first.setdefault((record.file, _picture_key(case), record.question.strip()), record)
        if earlier is record:
            continue
        code = "duplicate_record" if _right_answer(record) == _right_answer(earlier) else "ambiguous"
        yield finding_of(code, record, f"{record.question!r} is asked about the same picture at {earlier.place}")


def _picture_key(case: Case) -> Hashable:
    """Equal for equal pictures: by pixels, by path where they cannot be read."""
    return (case.look.digest if case.look else None) or case.record.image


def _right_answer(record: Record) -> Hashable:
    """What the record teaches, whatever the order of its targets."""
    return record.answer, frozenset((target.numbers, target.label) for target in record.targets)


class Pair(NamedTuple):
    """A record whose picture is, or looks like, that of an earlier one."""

    code: str  # leak, near_leak or near_duplicate
    record: Record
    earlier: Record


def pair_leaks(cases: Sequence[Case]) -> Iterator[Pair]:
    """Records whose picture, by its pixels, an earlier file has."""
    first: dict[Hashable, Record] = {}
    for case in cases:
        if case.record.image is None:
            continue
        earlier = first.setdefault(_picture_key(case), case.record)
        if earlier.file != case.record.file:
            yield Pair("leak", case.record, earlier)


def pair_lookalikes(cases: Sequence[Case]) -> Iterator[Pair]:
    """Records whose picture looks like one of an earlier file; pictures that look like another of their file, once."""
    by_digest: dict[str, list[Record]] = {}
    sketches: dict[str, bytes] = {}
    for record, look, _ in cases:
        if look is not None and look.digest is not None and look.sketch is not None:
            by_digest.setdefault(look.digest, []).append(record)
            sketches[look.digest] = look.sketch
    groups = list(by_digest.values())
    levels = np.frombuffer(b"".join(sketches.values()), dtype=np.uint8).reshape(-1, SIDE, SIDE)
    numbers = {file: number for number, file in enumerate(dict.fromkeys(case.record.file for case in cases))}
    files = np.array([numbers[group[0].file] for group in groups], dtype=np.int64)
    found = match(levels, files)
    for number in np.flatnonzero(found.other_file >= 0).tolist():
        for record in groups[number]:
            yield Pair("near_leak", record, groups[found.other_file[number]][0])
    for number in np.flatnonzero(found.same_file >= 0).tolist():
        yield Pair("near_duplicate", groups[number][0], groups[found.same_file[number]][0])


def finding_of_pair(pair: Pair) -> Finding:
    """The finding about the later of two records."""
    how = "is" if pair.code == "leak" else "looks like"
    message = f"{pair.record.image} {how} the picture of {pair.earlier.place} ({pair.earlier.image})"
    return finding_of(pair.code, pair.record, message)
