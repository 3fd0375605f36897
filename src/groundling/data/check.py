"""The data doctor: what is wrong with records, found before a model learns it.

Each finding has a code of `CODES`, a level, a place and a cure. Errors teach something false, or stop training;
warnings may be meant; notes are for knowing. One line of `findings.jsonl` (made by hand):

    {"code": "outside", "level": "error", "record": "7", "file": "train.jsonl", "line": 3,
     "message": "target 0: box [460, 635, 1200, 669] leaves its 1024x681 picture by 176 pixels", "cure": "..."}
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from groundling.data.record import Record, Rejected
from groundling.dialect.family import Budget
from groundling.errors import ImageError
from groundling.geometry.frame import Frame
from groundling.geometry.images import MAX_PIXELS, open_image, pixel_digest

Level = Literal["error", "warning", "note"]


class Code(NamedTuple):
    """What a kind of finding means, and what usually helps."""

    level: Level
    meaning: str
    cure: str


CODES: dict[str, Code] = {
    "unreadable_record": Code("error", "a line that is no record", "mend the line, or convert the source again"),
    "missing_picture": Code("error", "a record without its picture", "put the picture where the record says it is"),
    "unreadable_picture": Code("error", "a picture that cannot be read", "replace the picture, or drop its records"),
    "wrong_size": Code(
        "error",
        "a declared size that is not the picture's",
        "if the boxes were drawn on a resized copy, convert the source again with --frame; else correct the size",
    ),
    "looks_like_xywh": Code(
        "error",
        "a box that fits its picture only as x, y, width, height",
        "boxes are left, top, right, bottom: convert them, or swap the corners if they were mixed up",
    ),
    "looks_normalized": Code(
        "error",
        "a box of fractions of the picture",
        "boxes are in pixels: multiply by the picture's width and height",
    ),
    "inverted": Code("error", "a box whose right or bottom comes before its left or top", "put the corners in order"),
    "empty": Code("error", "a box without area", "draw it again, or use a point"),
    "outside": Code(
        "error",
        "a box that leaves its picture by more than a pixel and a hundredth of the side",
        "check which picture, and which size of it, the box was drawn on",
    ),
    "point_outside": Code(
        "error", "a point that lies outside its picture", "check which picture, and which size of it, it was set on"
    ),
    "empty_question": Code("error", "a question without words", "write what to look for"),
    "clipped": Code("warning", "a box or point that leaves its picture a little", "nothing: it is clipped in training"),
    "tiny": Code(
        "warning",
        "a box that is hardly seen after resizing",
        "allow more visual tokens (images.max_tokens), or cut the picture into pieces",
    ),
    "duplicate_id": Code("warning", "an id that another record of the file has", "give each record an id of its own"),
    "duplicate_record": Code("warning", "the same question about the same picture, answered alike", "drop one of them"),
    "ambiguous": Code(
        "warning",
        "the same question about the same picture, answered differently",
        "put all targets into one record, or ask more precisely",
    ),
    "leak": Code(
        "warning",
        "a picture that stands in another file too",
        "split by picture (`groundling convert --split` does), or the test measures what was learned by heart",
    ),
    "whole_picture": Code("note", "a box around the whole picture", "nothing, if the thing fills the picture"),
    "control_tokens": Code("note", "text like a control token", "nothing: it is read as plain text, not as the token"),
}
"""Every code of a finding: its level, meaning, and usual cure."""

SMALLEST_SIDE = 4  # seen pixels: rounding alone then moves an edge by up to an eighth of the box
_WHOLE = 0.99  # share of the picture's area
_TURNED_CURE = (
    "size and boxes were taken before the picture was turned by its EXIF orientation: convert the source again, "
    "or turn the boxes; groundling sees pictures upright"
)
_XYWH_FILE_CURE = "the whole file is x, y, width, height: convert it again from the format it came in"
_CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")
_READERS = 4  # threads that decode pictures, each holding one


@dataclass(frozen=True)
class Finding:
    """One thing found. `record` is the record's id; `file` and `line` are where it was read, if it was."""

    code: str
    level: Level
    record: str | None
    file: str | None
    line: int | None
    message: str
    cure: str


class Picture(NamedTuple):
    """What looking at a picture showed: its upright frame and pixel digest, or a fault (a code) and the reason."""

    frame: Frame | None = None
    digest: str | None = None
    fault: str | None = None
    reason: str = ""


class Case(NamedTuple):
    """A record and what is known about its picture (None: a text without one)."""

    record: Record
    picture: Picture | None

    @property
    def frame(self) -> Frame | None:
        """What its boxes count in: the declared size, else the picture's own."""
        return self.record.declared or (self.picture.frame if self.picture else None)

    @property
    def picture_key(self) -> Hashable:
        """Equal for equal pictures: by pixels, by path where they cannot be read."""
        return (self.picture.digest if self.picture else None) or self.record.image


class JudgedBox(NamedTuple):
    """Target `number` of a record, a box, and the code of what is wrong with it, if anything."""

    case: Case
    number: int
    box: tuple[float, float, float, float]
    code: str | None


def check(
    records: Sequence[Record],
    *,
    rejected: Iterable[Rejected] = (),
    budget: Budget | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """All that is wrong or odd with the records, ordered by file and line.

    `records` may come from several files: pictures that two of them share are found. `rejected` are the lines that
    `scan_records` passed over. With `budget`, boxes too small to be seen after resizing are found. Each picture is
    opened once; `progress` is told (pictures done, pictures in all) after each.
    """
    pictures = look_at_pictures(records, max_pixels=max_pixels, progress=progress)
    cases = [Case(record, _picture_of(record, pictures)) for record in records]
    boxes = judge_boxes(cases)
    findings = [
        *find_rejected_lines(rejected),
        *find_picture_faults(cases),
        *find_wrong_sizes(cases),
        *find_xywh_boxes(boxes),
        *find_box_faults(boxes),
        *find_tiny_boxes(boxes, budget),
        *find_whole_pictures(boxes),
        *find_point_faults(cases),
        *find_empty_questions(records),
        *find_control_tokens(records),
        *find_duplicate_ids(records),
        *find_repeated_questions(cases),
        *find_leaks(cases),
    ]
    return sorted(findings, key=lambda finding: (finding.file or "", finding.line or 0))


def usable(records: Iterable[Record], findings: Iterable[Finding]) -> list[Record]:
    """The records without an error-level finding. Those that came from no file are told apart by their ids."""
    bad = {(finding.file, finding.line, finding.record) for finding in findings if finding.level == "error"}
    return [record for record in records if (*_origin(record), record.id) not in bad]


def write_findings(findings: Iterable[Finding], folder: str | Path) -> Path:
    """Writes `findings.jsonl`, one finding a line, into a folder that is made if need be; returns the file's path."""
    path = Path(folder) / "findings.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(finding), ensure_ascii=False) + "\n" for finding in findings]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


def summarize(findings: Sequence[Finding]) -> str:
    """A table for a terminal: one block a code, worst first, with its count, first place, meaning and cures."""
    by_code: dict[str, list[Finding]] = {code: [] for code in CODES}
    for finding in findings:
        by_code[finding.code].append(finding)
    blocks = [_summary_block(code, found) for code, found in by_code.items() if found]
    levels = Counter(finding.level for finding in findings)
    totals = f"errors: {levels['error']}, warnings: {levels['warning']}, notes: {levels['note']}"
    return "\n".join([*blocks, totals])


def _summary_block(code: str, found: Sequence[Finding]) -> str:
    first = found[0]
    place = f"{first.file}:{first.line}" if first.file else f"record {first.record!r}"
    cures = sorted({finding.cure for finding in found})
    head = f"{CODES[code].level:<8} {code:<18} {len(found):>7}  first: {place}"
    return "\n".join([head, f"{'':9}{CODES[code].meaning}", *(f"{'':9}-> {cure}" for cure in cures)])


# ---- pictures --------------------------------------------------------------------------------------------------


def look_at_pictures(
    records: Iterable[Record], *, max_pixels: int = MAX_PIXELS, progress: Callable[[int, int], None] | None = None
) -> dict[Path, Picture]:
    """Each picture of the records, opened once."""
    paths = list(dict.fromkeys(record.image for record in records if record.image is not None))
    pictures: dict[Path, Picture] = {}
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as readers:
        for path, picture in zip(paths, readers.map(lambda path: _look_at(path, max_pixels), paths), strict=True):
            pictures[path] = picture
            if progress is not None:
                progress(len(pictures), len(paths))
    return pictures


def _look_at(path: Path, max_pixels: int) -> Picture:
    if not os.path.isfile(path):  # unlike Path.is_file, also for names that no file can have
        return Picture(fault="missing_picture", reason=f"there is no picture {path}")
    try:
        image = open_image(path, max_pixels=max_pixels)
    except ImageError as error:
        return Picture(fault="unreadable_picture", reason=str(error))
    return Picture(Frame(*image.size), pixel_digest(image))


def _picture_of(record: Record, pictures: dict[Path, Picture]) -> Picture | None:
    if record.image is not None:
        return pictures[record.image]
    return None if record.answer is not None else Picture(fault="missing_picture", reason="the record names no picture")


def find_picture_faults(cases: Iterable[Case]) -> Iterator[Finding]:
    """Pictures that are missing or cannot be read, once for each of their records."""
    for record, picture in cases:
        if picture is not None and picture.fault is not None:
            yield _finding(picture.fault, record, picture.reason)


def find_wrong_sizes(cases: Iterable[Case]) -> Iterator[Finding]:
    """Records whose width or height is not that of their upright picture."""
    for record, picture in cases:
        if picture is None or picture.frame is None:
            continue
        real = picture.frame
        if (record.width or real.width, record.height or real.height) == real.size_wh:
            continue
        declared = f"declared {record.width or '?'}x{record.height or '?'}, but the upright picture is {real}"
        if (record.height, record.width) == real.size_wh:
            yield _finding("wrong_size", record, f"{declared}: width and height are swapped", cure=_TURNED_CURE)
        else:
            yield _finding("wrong_size", record, declared)


# ---- boxes -----------------------------------------------------------------------------------------------------


def judge_boxes(cases: Iterable[Case]) -> list[JudgedBox]:
    """Every box with the worst that is wrong with it.

    A box that fits its picture only as x, y, width, height looks like that; where most boxes of a file do, so does
    every box of the file that can be read that way, since the others fit both ways by chance.
    """
    judged = [
        JudgedBox(case, number, target.box, box_fault(target.box, case.frame))
        for case in cases
        for number, target in enumerate(case.record.targets)
        if target.box is not None
    ]
    counts = _count_by_file(judged)
    xywh = {file for file, (only_xywh, boxes) in counts.items() if only_xywh * 2 > boxes}
    return [
        found._replace(code="looks_like_xywh")
        if found.case.record.file in xywh and fits_as_xywh(found.box, found.case.frame)
        else found
        for found in judged
    ]


def box_fault(box: tuple[float, float, float, float], frame: Frame | None) -> str | None:
    """The code of the worst that is wrong with a box; None for a sound one. Without a frame only its corners count."""
    left, top, right, bottom = box
    if all(0 <= number <= 1 for number in box) and any(number != int(number) for number in box):
        return "looks_normalized"
    overhang = _overhang(box, frame)
    is_inverted = right < left or bottom < top
    if (is_inverted or overhang > 1) and fits_as_xywh(box, frame):
        return "looks_like_xywh"
    if is_inverted:
        return "inverted"
    if right == left or bottom == top:
        return "empty"
    if overhang > 1 or _is_beyond(box, frame):
        return "outside"
    return "clipped" if overhang > 0 else None


def fits_as_xywh(box: tuple[float, float, float, float], frame: Frame | None) -> bool:
    """Whether the numbers, read as x, y, width, height, are a box inside the frame (to what is clipped)."""
    x, y, width, height = box
    return frame is not None and min(width, height) > 0 and _overhang((x, y, x + width, y + height), frame) <= 1


def _overhang(numbers: tuple[float, ...], frame: Frame | None) -> float:
    """How far x, y, x, y ... leave the frame, in units of what is clipped: one pixel, or 1 % of the side if more."""
    return max((pixels / max(1, side / 100) for pixels, side in _beyond(numbers, frame)), default=0.0)


def _pixels_beyond(numbers: tuple[float, ...], frame: Frame | None) -> float:
    """How far x, y, x, y ... leave the frame, in pixels."""
    return max((pixels for pixels, _ in _beyond(numbers, frame)), default=0.0)


def _beyond(numbers: tuple[float, ...], frame: Frame | None) -> list[tuple[float, int]]:
    """For each of x, y, x, y ... the pixels by which it leaves the frame, and the side it runs along."""
    sides = frame.size_wh * (len(numbers) // 2) if frame else ()
    return [(max(-number, number - side, 0.0), side) for number, side in zip(numbers, sides, strict=False)]


def _is_beyond(box: tuple[float, float, float, float], frame: Frame | None) -> bool:
    """Whether nothing of the box lies in the frame."""
    left, top, right, bottom = box
    return frame is not None and (left >= frame.width or top >= frame.height or right <= 0 or bottom <= 0)


def _count_by_file(judged: Iterable[JudgedBox]) -> dict[Path | None, tuple[int, int]]:
    """For each file: boxes that fit only as x, y, width, height, and boxes whose picture's size is known."""
    boxes: Counter[Path | None] = Counter()
    only_xywh: Counter[Path | None] = Counter()
    for found in judged:
        if found.case.frame is not None:
            boxes[found.case.record.file] += 1
            only_xywh[found.case.record.file] += found.code == "looks_like_xywh"
    return {file: (only_xywh[file], boxes[file]) for file in boxes}


def find_xywh_boxes(boxes: Sequence[JudgedBox]) -> Iterator[Finding]:
    """Records with boxes that look like x, y, width, height: the first box of each, with the share of its file's."""
    counts = _count_by_file(boxes)
    alike = [found for found in boxes if found.code == "looks_like_xywh"]
    for _, of_record in groupby(alike, key=lambda found: id(found.case.record)):
        case, number, box, _ = next(of_record)
        count, total = counts[case.record.file]
        message = f"{_box_text(number, box)} fits its {case.frame} picture as x, y, width, height"
        if count * 2 > total:
            message += f", like {count} of the {total} boxes of its file"
            yield _finding("looks_like_xywh", case.record, message, cure=_XYWH_FILE_CURE)
        else:
            yield _finding("looks_like_xywh", case.record, f"{message} only")


def find_box_faults(boxes: Iterable[JudgedBox]) -> Iterator[Finding]:
    """Boxes that are inverted, empty, fractions, or outside their picture."""
    for case, number, box, code in boxes:
        text = _box_text(number, box)
        if code in ("outside", "clipped"):
            pixels = _pixels_beyond(box, case.frame)
            yield _finding(code, case.record, f"{text} leaves its {case.frame} picture by {pixels:g} pixels")
        elif code in ("inverted", "empty", "looks_normalized"):
            yield _finding(code, case.record, f"{text} is {CODES[code].meaning}")


def find_tiny_boxes(boxes: Iterable[JudgedBox], budget: Budget | None) -> Iterator[Finding]:
    """Sound boxes with a side below `SMALLEST_SIDE` once their picture is resized to the budget; none without one."""
    for case, number, box, code in boxes:
        if budget is None or case.frame is None or code not in (None, "clipped"):
            continue
        scale = budget.estimate_scale(case.frame)
        width, height = (box[2] - box[0]) * scale, (box[3] - box[1]) * scale
        if min(width, height) < SMALLEST_SIDE:
            seen = f"is about {width:.1f}x{height:.1f} pixels as the model sees it"
            side = budget.family.token_side
            yield _finding("tiny", case.record, f"{_box_text(number, box)} {seen}; a visual token covers {side}x{side}")


def find_whole_pictures(boxes: Iterable[JudgedBox]) -> Iterator[Finding]:
    """Sound boxes that cover nearly all of their picture."""
    for case, number, box, code in boxes:
        if case.frame is None or code not in (None, "clipped"):
            continue
        left, top, right, bottom = box
        if (right - left) * (bottom - top) >= _WHOLE * case.frame.area:
            yield _finding("whole_picture", case.record, f"{_box_text(number, box)} covers its {case.frame} picture")


def find_point_faults(cases: Iterable[Case]) -> Iterator[Finding]:
    """Points outside their picture."""
    for case in cases:
        for number, target in enumerate(case.record.targets):
            if target.point is None or (overhang := _overhang(target.point, case.frame)) == 0:
                continue
            pixels = _pixels_beyond(target.point, case.frame)
            message = (
                f"target {number}: point {list(target.point)} is {pixels:g} pixels outside its {case.frame} picture"
            )
            yield _finding("point_outside" if overhang > 1 else "clipped", case.record, message)


def _box_text(number: int, box: tuple[float, float, float, float]) -> str:
    return f"target {number}: box {list(box)}"


# ---- words and repetitions -------------------------------------------------------------------------------------


def find_empty_questions(records: Iterable[Record]) -> Iterator[Finding]:
    """Questions that hold no letter, digit or sign."""
    for record in records:
        if not record.question.strip():
            yield _finding("empty_question", record, f"the question is {record.question!r}")


def find_control_tokens(records: Iterable[Record]) -> Iterator[Finding]:
    """Questions, labels and answers with something like <|im_end|> in them, once a record."""
    for record in records:
        texts = [record.question, record.answer or "", *(target.label or "" for target in record.targets)]
        tokens = list(dict.fromkeys(token for text in texts for token in _CONTROL_TOKEN.findall(text)))
        if tokens:
            yield _finding("control_tokens", record, f"the text holds {', '.join(tokens)}")


def find_duplicate_ids(records: Iterable[Record]) -> Iterator[Finding]:
    """Records whose id an earlier record of their file has; no id is no duplicate."""
    first: dict[tuple[Path | None, str], Record] = {}
    for record in records:
        earlier = first.setdefault((record.file, record.id), record)
        if earlier is not record and record.id:
            yield _finding("duplicate_id", record, f"the id {record.id!r} is also that of {earlier.place}")


def find_repeated_questions(cases: Iterable[Case]) -> Iterator[Finding]:
    """Records that ask what an earlier one of their file asked about the same picture, answered alike or not."""
    first: dict[Hashable, Record] = {}
    for case in cases:
        record = case.record
        earlier = first.setdefault((record.file, case.picture_key, record.question.strip()), record)
        if earlier is record:
            continue
        code = "duplicate_record" if _right_answer(record) == _right_answer(earlier) else "ambiguous"
        yield _finding(code, record, f"{record.question!r} is asked about the same picture at {earlier.place}")


def _right_answer(record: Record) -> Hashable:
    """What the record teaches, whatever the order of its targets."""
    return record.answer, frozenset((target.numbers, target.label) for target in record.targets)


def find_leaks(cases: Sequence[Case]) -> Iterator[Finding]:
    """Records whose picture, by its pixels, an earlier file has."""
    first: dict[Hashable, Record] = {}
    for case in cases:
        record = case.record
        if record.image is None:
            continue
        earlier = first.setdefault(case.picture_key, record)
        if earlier.file != record.file:
            yield _finding("leak", record, f"{record.image} is the picture of {earlier.place} too ({earlier.image})")


# ---- findings --------------------------------------------------------------------------------------------------


def find_rejected_lines(rejected: Iterable[Rejected]) -> Iterator[Finding]:
    """The lines that are no records, with the reasons."""
    level, _, cure = CODES["unreadable_record"]
    for file, line, reason in rejected:
        yield Finding("unreadable_record", level, None, file, line, reason, cure)


def _finding(code: str, record: Record, message: str, *, cure: str | None = None) -> Finding:
    level, _, usual_cure = CODES[code]
    file, line = _origin(record)
    return Finding(code, level, record.id, file, line, message, cure or usual_cure)


def _origin(record: Record) -> tuple[str | None, int | None]:
    return (None if record.file is None else str(record.file)), record.line
