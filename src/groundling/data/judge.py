"""Boxes and points judged against their picture, one by one; and files whose boxes together prove another frame.

A box of thousandths in a large picture is as good a box as any, and teaches something false. What gives it away is its
file: a hundred boxes that all end just where another frame ends, and nowhere near the borders of their pictures.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from groundling.data.findings import CODES, Finding, finding_of
from groundling.data.look import Look
from groundling.data.record import Record, Target
from groundling.dialect.family import Budget
from groundling.geometry.boxes import Boxes, iou
from groundling.geometry.frame import THOUSANDTHS, Frame

Corners = tuple[float, float, float, float]

SMALLEST_SIDE = 4  # seen pixels: rounding alone then moves an edge by up to an eighth of the box
SAME_BOX = 0.95  # IoU
_WHOLE = 0.99  # share of the picture's area
_XYWH_CURE = "the whole file is x, y, width, height: convert it again from the format it came in"


class Case(NamedTuple):
    """A record, what its picture showed (None: a text without one), and the frame that its boxes count in."""

    record: Record
    look: Look | None
    frame: Frame | None  # the declared size, else the picture's own; None where neither is known

    @classmethod
    def of(cls, record: Record, look: Look | None) -> Case:
        """The case of a record."""
        real = look.frame if look else None
        if real is not None and (record.width, record.height) == real.size_wh:
            return cls(record, look, real)
        return cls(record, look, record.declared or real)


class JudgedBox(NamedTuple):
    """Target `number` of a record, a box, and the code of what is wrong with it, if anything."""

    case: Case
    number: int
    box: Corners
    code: str | None

    @property
    def is_sound(self) -> bool:
        """Whether it is a box inside its picture, to what is clipped."""
        return self.code in (None, "clipped")

    @property
    def covers_picture(self) -> bool:
        """Whether it is a sound box around nearly all of its picture."""
        left, top, right, bottom = self.box
        frame = self.case.frame
        return frame is not None and self.is_sound and (right - left) * (bottom - top) >= _WHOLE * frame.area

    def seen_sides(self, budget: Budget) -> tuple[float, float]:
        """About how wide and high a sound box is as the model sees it, in pixels; infinite for others."""
        if self.case.frame is None or not self.is_sound:
            return math.inf, math.inf
        left, top, right, bottom = self.box
        scale = budget.estimate_scale(self.case.frame)
        return (right - left) * scale, (bottom - top) * scale


class Proof(NamedTuple):
    """What all boxes of a file together say about how they are to be read."""

    code: str
    words: str  # what was counted
    cure: str


Proofs = Mapping[Path | None, Proof]


# ---- one box ---------------------------------------------------------------------------------------------------


def box_fault(box: Corners, frame: Frame | None) -> str | None:
    """The code of the worst that is wrong with a box; None for a sound one. Without a frame only its corners count."""
    left, top, right, bottom = box
    if frame is not None and 1 < left < right <= frame.width and 1 < top < bottom <= frame.height:
        return None  # most boxes
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


def point_fault(point: tuple[float, float], frame: Frame | None) -> str | None:
    """`point_outside`, `clipped`, or None for a point inside its picture."""
    overhang = _overhang(point, frame)
    return "point_outside" if overhang > 1 else "clipped" if overhang > 0 else None


def fits_as_xywh(box: Corners, frame: Frame | None) -> bool:
    """Whether the numbers, read as x, y, width, height, are a box inside the frame (to what is clipped)."""
    x, y, width, height = box
    return frame is not None and min(width, height) > 0 and _overhang((x, y, x + width, y + height), frame) <= 1


def _overhang(numbers: tuple[float, ...], frame: Frame | None) -> float:
    """How far x, y, x, y ... leave the frame, in units of what is clipped: one pixel, or 1 % of the side if more."""
    return max((pixels / max(1, side / 100) for pixels, side in _beyond(numbers, frame)), default=0.0)


def pixels_beyond(numbers: tuple[float, ...], frame: Frame | None) -> float:
    """How far x, y, x, y ... leave the frame, in pixels."""
    return max((pixels for pixels, _ in _beyond(numbers, frame)), default=0.0)


def _beyond(numbers: tuple[float, ...], frame: Frame | None) -> list[tuple[float, int]]:
    """For each of x, y, x, y ... the pixels by which it leaves the frame, and the side it runs along."""
    sides = frame.size_wh * (len(numbers) // 2) if frame else ()
    return [(max(-number, number - side, 0.0), side) for number, side in zip(numbers, sides, strict=False)]


def _is_beyond(box: Corners, frame: Frame | None) -> bool:
    """Whether nothing of the box lies in the frame."""
    left, top, right, bottom = box
    return frame is not None and (left >= frame.width or top >= frame.height or right <= 0 or bottom <= 0)


# ---- all boxes of a file ---------------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """Every box, judged, and the files whose boxes prove another frame."""

    boxes: list[JudgedBox]
    proofs: Proofs


def judge_alone(case: Case) -> list[JudgedBox]:
    """The boxes of one record, each with the worst that is wrong with it by itself."""
    return [
        JudgedBox(case, number, target.box, box_fault(target.box, case.frame))
        for number, target in enumerate(case.record.targets)
        if target.box is not None
    ]


def judge_boxes(cases: Iterable[Case]) -> Judgement:
    """Every box with the worst that is wrong with it.

    Where a file proves another reading, so is every box of it that can be read that way: those that fit both ways do so
    by chance.
    """
    judged = [found for case in cases for found in judge_alone(case)]
    by_file: dict[Path | None, list[JudgedBox]] = defaultdict(list)
    for found in judged:
        if found.case.frame is not None:
            by_file[found.case.record.file].append(found)
    proofs = {file: proof for file, boxes in by_file.items() if (proof := _prove(boxes)) is not None}
    return Judgement([_as_proven(found, proofs) for found in judged] if proofs else judged, proofs)


def _as_proven(found: JudgedBox, proofs: Proofs) -> JudgedBox:
    proof = proofs.get(found.case.record.file)
    if proof is None:
        return found
    if proof.code == "looks_like_xywh":
        is_meant = fits_as_xywh(found.box, found.case.frame)
    else:
        is_meant = found.code in (None, "clipped", "outside")
    return found._replace(code=proof.code) if is_meant else found


def _prove(boxes: Sequence[JudgedBox]) -> Proof | None:
    """How the boxes of one file, all in pictures of known size, are proven to be meant; None: as they should be."""
    only_xywh = sum(found.code == "looks_like_xywh" for found in boxes)
    if only_xywh * 2 > len(boxes):
        count = sum(fits_as_xywh(found.box, found.case.frame) for found in boxes)
        return Proof("looks_like_xywh", f"like {count} of the {len(boxes)} boxes of its file", _XYWH_CURE)
    ordered = [found for found in boxes if found.code in (None, "clipped", "outside")]
    if len(ordered) < _LEAST_BOXES:
        return None
    edges = np.array([found.box for found in ordered])
    sides_wh = np.array([frame.size_wh for found in ordered if (frame := found.case.frame)])
    return _prove_thousandths(edges, sides_wh) or _prove_resized(edges, sides_wh)


_LEAST_BOXES = 10  # of a file, to prove anything about its frame
_LEAST_TOUCHES = 5  # boxes that end at each of the four borders of the frame that is to be proven
_BORDER = 0.05  # of a side: what ends there touches the border
_OTHER = 1.25  # times a picture's length: the least by which a resized one differs
_LENGTHS = {
    "longer side": lambda sides_wh: sides_wh.max(axis=1),
    "shorter side": lambda sides_wh: sides_wh.min(axis=1),
    "width": lambda sides_wh: sides_wh[:, 0],
    "height": lambda sides_wh: sides_wh[:, 1],
    "square root of the area": lambda sides_wh: np.sqrt(sides_wh.prod(axis=1)),
}
"""What may have been made equal when pictures were resized without being stretched."""


def _prove_thousandths(edges: np.ndarray, sides_wh: np.ndarray) -> Proof | None:
    """Boxes (N, 4) that touch all four borders of 0..1000 and never leave it, where no picture (N, 2) has its own.

    Were they pixels, edges would be spread as thickly just above 1000 as just below: that none of ten or more is above
    happens once in a thousand sets, in both directions, and at the opposite borders too, in less.
    """
    side = THOUSANDTHS.width
    if edges.min() < 0 or edges.max() > side:
        return None
    is_telling = np.abs(sides_wh - side) > _BORDER * side
    touches = ((edges[:, 2:] > (1 - _BORDER) * side) & is_telling).sum(axis=0)
    starts = (edges[:, :2] < _BORDER * side).sum(axis=0)
    if min(*touches, *starts) < _LEAST_TOUCHES:
        return None
    words = f"like all {len(edges)} boxes of its file, which fill 0 to 1000 whatever the size of their pictures"
    return Proof("looks_thousandths", words, CODES["looks_thousandths"].cure)


def _prove_resized(edges: np.ndarray, sides_wh: np.ndarray) -> Proof | None:
    """Boxes (N, 4) that touch all four borders of their pictures (N, 2) brought to one length, and never leave them.

    Nine of ten pictures have to be of a clearly different length themselves.
    """
    best: tuple[int, str, float] = (0, "", 0.0)
    for name, measure in _LENGTHS.items():
        lengths = measure(sides_wh)
        ends = edges[:, 2:] / sides_wh * lengths[:, None]
        starts = edges[:, :2] / sides_wh * lengths[:, None]
        length = float(ends.max())
        is_telling = (lengths > _OTHER * length) | (lengths * _OTHER < length)
        if starts.min() < 0 or is_telling.mean() < 0.9:
            continue
        close, beneath = 1 - _BORDER / 2, 1 - _BORDER
        touches = ((ends > close * length) & is_telling[:, None]).sum(axis=0)
        under = ((ends <= close * length) & (ends > beneath * length)).sum(axis=0)
        begins = (starts < _BORDER / 2 * length).sum(axis=0)
        if min(*touches, *begins) >= _LEAST_TOUCHES and touches.sum() > 2 * under.sum():
            typical = float(np.median(ends[ends > close * length]))  # rounding may carry a few beyond it
            best = max(best, (int(touches.sum()), name, typical))
    count, name, length = best
    if not count:
        return None
    words = (
        f"like all {len(edges)} boxes of its file, which end where pictures resized to a {name} of {length:.0f} would:"
        f" {count} of their edges lie at that border, none beyond"
    )
    return Proof("looks_resized", words, CODES["looks_resized"].cure)


# ---- findings --------------------------------------------------------------------------------------------------


def find_misread_boxes(judgement: Judgement) -> Iterator[Finding]:
    """Records with boxes that count something else than pixels, or are x, y, width, height: the first box of each."""
    codes = ("looks_like_xywh", "looks_thousandths", "looks_resized")
    misread = (found for found in judgement.boxes if found.code in codes)
    for _, of_record in groupby(misread, key=lambda found: id(found.case.record)):
        case, number, box, code = next(of_record)
        assert code is not None
        proof = judgement.proofs.get(case.record.file)
        if proof is not None:
            message = f"{_misread_text(code, number, box, case.frame)}, {proof.words}"
            yield finding_of(code, case.record, message, cure=proof.cure)
        else:
            yield finding_of(code, case.record, f"{_misread_text(code, number, box, case.frame)} only")


def _misread_text(code: str, number: int, box: Corners, frame: Frame | None) -> str:
    if code == "looks_like_xywh":
        return f"{_box_text(number, box)} fits its {frame} picture as x, y, width, height"
    unit = "thousandths" if code == "looks_thousandths" else "another size's pixels"
    return f"{_box_text(number, box)} in a {frame} picture counts {unit}"


def find_box_faults(boxes: Iterable[JudgedBox]) -> Iterator[Finding]:
    """Boxes that are inverted, empty, fractions, or outside their picture."""
    for case, number, box, code in boxes:
        if code in ("outside", "clipped"):
            pixels = pixels_beyond(box, case.frame)
            message = f"{_box_text(number, box)} leaves its {case.frame} picture by {pixels:g} pixels"
            yield finding_of(code, case.record, message)
        elif code in ("inverted", "empty", "looks_normalized"):
            yield finding_of(code, case.record, f"{_box_text(number, box)} is {CODES[code].meaning}")


def find_tiny_boxes(boxes: Iterable[JudgedBox], budget: Budget | None) -> Iterator[Finding]:
    """Sound boxes with a side below `SMALLEST_SIDE` once their picture is resized to the budget; none without one."""
    if budget is None:
        return
    for found in boxes:
        width, height = found.seen_sides(budget)
        if min(width, height) < SMALLEST_SIDE:
            seen = f"is about {width:.1f}x{height:.1f} pixels as the model sees it"
            side = budget.family.token_side
            message = f"{_box_text(found.number, found.box)} {seen}; a visual token covers {side}x{side}"
            yield finding_of("tiny", found.case.record, message)


def find_whole_pictures(boxes: Iterable[JudgedBox]) -> Iterator[Finding]:
    """Sound boxes that cover nearly all of their picture."""
    for found in boxes:
        if found.covers_picture:
            message = f"{_box_text(found.number, found.box)} covers its {found.case.frame} picture"
            yield finding_of("whole_picture", found.case.record, message)


def find_point_faults(cases: Iterable[Case]) -> Iterator[Finding]:
    """Points outside their picture."""
    for case in cases:
        for number, target in enumerate(case.record.targets):
            if target.point is None or (code := point_fault(target.point, case.frame)) is None:
                continue
            where = f"{pixels_beyond(target.point, case.frame):g} pixels outside its {case.frame} picture"
            yield finding_of(code, case.record, f"target {number}: point {list(target.point)} is {where}")


def find_twin_targets(cases: Iterable[Case]) -> Iterator[Finding]:
    """Targets of one record that stand in it twice: the same label, and the same numbers or nearly the same box."""
    for case in cases:
        for earlier, later, overlap in twin_targets(case.record):
            how = "is target" if overlap == 1 else f"overlaps by {overlap:.2f} with target"
            yield finding_of("duplicate_box", case.record, f"target {later} {how} {earlier} again")


class Twins(NamedTuple):
    """Two targets of a record, by number, that are one; `overlap` is their IoU, 1 for equal numbers."""

    earlier: int
    later: int
    overlap: float


def twin_targets(record: Record) -> list[Twins]:
    """The targets of a record that an earlier one is too, each once, in the order of the later ones."""
    targets = record.targets
    if len(targets) < 2:
        return []
    sums = [(len(target.numbers), sum(target.numbers)) for target in targets]  # points apart from boxes
    order = sorted(range(len(targets)), key=lambda number: (sums[number], number))
    twins: dict[int, Twins] = {}
    for place, first in enumerate(order):
        reach = _reach_of_twins(targets[first])
        for second in order[place + 1 :]:
            if sums[second][0] != sums[first][0] or sums[second][1] - sums[first][1] > reach:
                break
            overlap = _overlap(targets[first], targets[second])
            if overlap > SAME_BOX:
                pair = Twins(min(first, second), max(first, second), overlap)
                twins.setdefault(pair.later, pair)
    return [twins[later] for later in sorted(twins)]


def _reach_of_twins(target: Target) -> float:
    """By how much the sum of a twin's numbers exceeds those of a target at most.

    Boxes of that IoU share so much of their common width that both ends together move by 1 / IoU - 1 of it at most.
    """
    if target.box is None:
        return 0.0
    left, top, right, bottom = target.box
    return max(0.0, (1 / SAME_BOX - 1) * (abs(right - left) + abs(bottom - top)))


def _overlap(a: Target, b: Target) -> float:
    """IoU of two targets; 0 for different labels, or points that are not the same."""
    if a.label != b.label:
        return 0.0
    if a.numbers == b.numbers:
        return 1.0
    unit = Frame(1, 1)
    return float(iou(Boxes([a.box], unit), Boxes([b.box], unit))[0, 0]) if a.box and b.box else 0.0


def _box_text(number: int, box: Corners) -> str:
    return f"target {number}: box {list(box)}"
