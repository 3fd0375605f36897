"""The page of an examination: what is wrong, in pictures, what the files hold, and what to do next.

Beside `findings.jsonl` it is one self-contained file, `check.html`: for each code at most CARDS examples, the worst
where there is a measure of it, with the boxes that it is about in the answer's colour and the others dashed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from groundling.data.census import TOKEN_BINS, BoxSizes, ClassCount, show_percent
from groundling.data.check import Examination, write_findings
from groundling.data.check_summary import (
    BIN_NAMES,
    describe_budget,
    describe_file,
    describe_lengths,
    describe_pictures,
)
from groundling.data.findings import CODES, Code, Finding, Key, group_by_code, key_of
from groundling.data.judge import SMALLEST_SIDE, Case, JudgedBox, pixels_beyond, twin_targets
from groundling.data.record import Target
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame
from groundling.page.page import Region, View, around, embed, layer, open_or_none, whole, write_page

CARDS = 6  # examples of one code
_THUMBNAIL = 360  # pixels of an example's longer side
_CLOSE_UP = 0.1  # of each side of the picture, at least
_CLOSE_UP_ASPECT = 2.5  # of the strip below a picture, as the page's style has it
_LARGE_ENOUGH = 0.02  # of the picture's area: boxes that need no close-up; nor do those of less than a pixel
_ROOM = 0.6  # of a side, at most shown beyond the picture where boxes leave it
_BEYOND = "#8a8f94"  # what is not in the picture
_POINT = 0.015  # of the longer side: half the square that stands for a point
_CLASSES = 24  # bars; the others are counted
_NAMED = 3  # places of one code that are told in words, beside the examples


class Card(NamedTuple):
    """One finding with its picture; of a pair, the other picture too."""

    finding: Finding
    question: str
    views: list[View]
    other: list[View]  # the earlier picture of a pair


class Part(NamedTuple):
    """A code that was found."""

    code: str
    about: Code
    total: int
    cures: list[str]
    cards: list[Card]
    rest: list[Finding]  # told in words

    @property
    def width(self) -> int:
        """How many of four columns its examples fill."""
        return min(4, sum(2 if card.other else 1 for card in self.cards)) if self.cards else 2


class Bar(NamedTuple):
    """One bar of a chart."""

    name: str
    total: int
    share: float  # of the longest
    is_small: bool = False  # below what is learned


def write_examination(examination: Examination, folder: str | Path) -> list[Path]:
    """Write `findings.jsonl` and `check.html` into a folder, made where it is missing; returns their paths."""
    findings = write_findings(examination.findings, folder)
    page = findings.with_name("check.html")
    census = examination.census
    levels = Counter(finding.level for finding in examination.findings)
    write_page(
        page,
        Path(__file__).with_name("check.html.j2"),
        records=sum(file.records for file in census.files),
        boxes=sum(file.boxes for file in census.files),
        pictures=census.picture_sizes.count if census.picture_sizes else 0,
        levels={level: levels[level] for level in ("error", "warning", "note")},
        parts=_parts(examination),
        files=[describe_file(file) for file in census.files],
        advice=census.advice,
        sizes=census.box_sizes,
        size_bars=_size_bars(census.box_sizes) if census.box_sizes else [],
        budget=describe_budget(census.box_sizes) if census.box_sizes else "",
        classes=census.classes if census.has_classes else (),
        class_bars=_class_bars(census.classes) if census.has_classes else [],
        picture_words=describe_pictures(census.picture_sizes) if census.picture_sizes else "",
        length_words=describe_lengths(census.lengths) if census.lengths else "",
        seconds=examination.seconds,
        counted=_counted,
        short=_short,
        percent=show_percent,
    )
    return [findings, page]


def _counted(count: int, thing: str) -> str:
    """`1 error`, `1,200 errors`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _short(count: int) -> str:
    """A count of at most four characters: 950, 9.5k, 120k, 1.2M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}" if count < 10 * unit else f"{count / unit:.0f}{name}"
    return str(count)


# ---- charts ----------------------------------------------------------------------------------------------------


def _size_bars(sizes: BoxSizes) -> list[Bar]:
    small = TOKEN_BINS.index(1) + 1
    return [
        Bar(name, count, count / max(sizes.bins), number < small)
        for number, (name, count) in enumerate(zip(BIN_NAMES, sizes.bins, strict=True))
    ]


def _class_bars(classes: Sequence[ClassCount]) -> list[Bar]:
    """The most frequent classes and the rarest, where there are too many for all."""
    shown = classes if len(classes) <= _CLASSES else [*classes[: _CLASSES // 2], *classes[-_CLASSES // 2 :]]
    return [Bar(count.label, count.targets, count.targets / classes[0].targets) for count in shown]


# ---- examples --------------------------------------------------------------------------------------------------


def _parts(examination: Examination) -> list[Part]:
    gallery = _Gallery(examination)
    return [
        Part(
            code=code,
            about=CODES[code],
            total=len(found),
            cures=sorted({finding.cure for finding in found}),
            cards=gallery.cards(code, found),
            rest=found[:_NAMED],
        )
        for code, found in group_by_code(examination.findings).items()
    ]


class _Gallery:
    """Finds for a finding its record, its boxes and the earlier picture of its pair."""

    def __init__(self, examination: Examination) -> None:
        self.budget = examination.census.box_sizes.budget if examination.census.box_sizes else None
        self.cases = {key_of(case.record): case for case in examination.cases}
        self.earlier = {(pair.code, key_of(pair.record)): pair.earlier for pair in examination.pairs}
        self.boxes: dict[Key, list[JudgedBox]] = defaultdict(list)
        for found in examination.judgement.boxes:
            self.boxes[key_of(found.case.record)].append(found)

    def cards(self, code: str, findings: Sequence[Finding]) -> list[Card]:
        """The worst findings of a code, one a picture; none where no picture can be shown."""
        by_picture: dict[Path, Finding] = {}
        for finding in sorted(findings, key=lambda finding: -self.severity(finding)):
            case = self.cases.get(finding.key)
            if case is not None and case.record.image is not None and case.look and case.look.frame:
                by_picture.setdefault(case.record.image, finding)
            if len(by_picture) == CARDS:
                break
        return [self._card(finding, f"{code}-{number}") for number, finding in enumerate(by_picture.values())]

    def severity(self, finding: Finding) -> float:
        """How bad it is beside others of its code; 0 where there is no measure."""
        marked = self.marked(finding)
        if finding.code in ("outside", "clipped"):
            return max((pixels_beyond(found.box, found.case.frame) for found in marked), default=0.0)
        if finding.code == "tiny" and self.budget is not None:
            return max((-min(found.seen_sides(self.budget)) for found in marked), default=0.0)
        return 0.0

    def marked(self, finding: Finding) -> list[JudgedBox]:
        """The boxes that a finding is about."""
        boxes = self.boxes.get(finding.key, [])
        if finding.code == "tiny" and self.budget is not None:
            return [found for found in boxes if min(found.seen_sides(self.budget)) < SMALLEST_SIDE]
        if finding.code == "whole_picture":
            return [found for found in boxes if found.covers_picture]
        if finding.code == "duplicate_box":
            twins = {number for pair in twin_targets(self.cases[finding.key].record) for number in pair[:2]}
            return [found for found in boxes if found.number in twins]
        return [found for found in boxes if found.code == finding.code]

    def _card(self, finding: Finding, name: str) -> Card:
        case = self.cases[finding.key]
        marked = {found.number for found in self.marked(finding)}
        targets = case.record.targets
        views = _views(case, [targets[number] for number in sorted(marked)], marked, name)
        earlier = self.earlier.get((finding.code, finding.key))
        other = [] if earlier is None else _views(self.cases[key_of(earlier)], [], set(), f"{name}-other")[:1]
        return Card(finding, case.record.question, views[:1] if other else views, other)


def _views(case: Case, marked: Sequence[Target], numbers: set[int], name: str) -> list[View]:
    """The whole picture with its targets, and a close-up of the marked ones where they are small."""
    frame = case.frame
    assert frame is not None, "a picture that is shown has a size"
    image = open_or_none(case.record.image)
    others = [target for number, target in enumerate(case.record.targets) if number not in numbers]
    groups = [_as_boxes(marked, frame), _as_boxes(others, frame)]
    layers = [layer("truth", groups[1]), layer("answer", groups[0])]
    region = _with_room(frame, groups[0])
    views = [View(name, region, _embed_with_room(image, region, frame), layers)]
    close = groups[0].clip()
    if 1 < close.areas().sum() < _LARGE_ENOUGH * frame.area:
        near = around([close], frame, least=_CLOSE_UP, aspect=_CLOSE_UP_ASPECT)
        views.append(View(f"{name}-near", near, embed(image, near, frame), layers))
    return views


def _as_boxes(targets: Iterable[Target], frame: Frame) -> Boxes:
    """Boxes to draw, corners in order; a small square for each point."""
    half = _POINT * max(frame.size_wh)
    rows: list[list[float]] = []
    for target in targets:
        if target.box is not None:
            left, top, right, bottom = target.box
            rows.append([min(left, right), min(top, bottom), max(left, right), max(top, bottom)])
        elif target.point is not None:
            x, y = target.point
            rows.append([x - half, y - half, x + half, y + half])
    return Boxes(rows, frame)


def _with_room(frame: Frame, boxes: Boxes) -> Region:
    """The picture, and what of the boxes leaves it, up to a share of its sides."""
    if not len(boxes):
        return whole(frame)
    low, high = boxes.xyxy[:, :2].min(axis=0), boxes.xyxy[:, 2:].max(axis=0)
    ends = [
        (max(-_ROOM * side, min(0, start)), min((1 + _ROOM) * side, max(side, end)))
        for start, end, side in zip(low.tolist(), high.tolist(), frame.size_wh, strict=True)
    ]
    (left, right), (top, bottom) = ends
    return Region(left, top, right - left, bottom - top)


def _embed_with_room(image: Image.Image | None, region: Region, frame: Frame) -> str | None:
    """The picture as a thumbnail, with grey where the region goes beyond it."""
    if image is None:
        return None
    scale = min(1, _THUMBNAIL / max(region.width, region.height))
    size_wh = (max(1, round(region.width * scale)), max(1, round(region.height * scale)))
    canvas = Image.new("RGB", size_wh, _BEYOND)
    shown = image.resize([max(1, round(side * scale)) for side in frame.size_wh], reducing_gap=3)
    canvas.paste(shown, (round(-region.left * scale), round(-region.top * scale)))
    covered = Frame(*size_wh)
    return embed(canvas, whole(covered), covered)
