"""A suspected mistake of boxes in words: one fault for what is wrong with order, turn and grid, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from groundling.evaluation.diagnosis import Fault, fault_of
from groundling.evaluation.grids import ORDERS, PADDED, Kind, length
from groundling.evaluation.offset import LARGEST
from groundling.evaluation.part import Part
from groundling.evaluation.sheet import Sheet
from groundling.evaluation.suspect import HIT, Evidence, Suspect
from groundling.evaluation.undo import NOTHING, Undo
from groundling.geometry.frame import THOUSANDTHS

_SPREAD = 0.02  # of a scale: above, it goes with the picture
_ROUNDED = 0.003  # of a scale: below, it is none
_NEAR = 0.05, 0.1  # of the answers that hit, and of the median IoU: what costs less is no error


def tell_suspect(sheet: Sheet, suspect: Suspect, base: Undo = NOTHING) -> list[Fault]:
    """One fault each for order, turn and grid, as far as `base` does not undo them yet; they are undone together."""
    evidence = suspect.evidence
    mistakes = list(_in_words(sheet, suspect, base))
    together = "Undone together with the other" if len(mistakes) > 1 else "Undone"
    return [
        fault_of(
            code,
            f"{words}. {together}, {_rise(evidence)}",
            evidence.explained,
            evidence.n,
            before=evidence.before,
            after=evidence.after,
        )
        for code, words in mistakes
    ]


def tell_part(part: Part, base: Undo, first: Sequence[Fault]) -> list[Fault]:
    """The faults of all answers, and those of a part, which were found after the former were undone."""
    others = tell_suspect(part.sheet, part.suspect, base)
    if not others:
        return [replace(fault, message=f"{fault.message}; {_spared(part)}") for fault in first]
    codes = " and ".join(fault.code for fault in first)
    after = f"found after {codes} was undone, " if first else ""
    where = f"{after}in a part of the answers, of those {len(part.sheet)} {part.words}: "
    return [*first, *(replace(fault, message=where + fault.message) for fault in others)]


def _spared(part: Part) -> str:
    undo, evidence = part.suspect
    what = "as they were read" if undo.is_nothing else f"{ORDERS[undo.order].words}, {undo.grid.words}"
    return f"but not of all answers: of those {evidence.n} {part.words}, {evidence.explained} are right {what}"


def _in_words(sheet: Sheet, suspect: Suspect, base: Undo) -> Iterator[tuple[str, str]]:
    undo, evidence = suspect
    count = f"({evidence.explained} of {evidence.n} answers)"
    if undo.order not in ("xyxy", base.order):
        code, words = _ORDER_CODES.get(undo.order, ("box_form", "boxes are not corners"))
        yield code, f"{words} {count}: they are {ORDERS[undo.order].words}"
    if undo.turn not in (1, base.turn):
        yield "turned", f"boxes lie on a picture turned otherwise {count}: {_turn_words(undo.turn)}"
    if undo.grid is base.grid or undo.grid.kind == "read":
        return
    if undo.grid.kind in _PLACED:
        yield _placed_code(sheet, suspect), f"boxes {_PLACED_WORDS[undo.grid.kind]}{undo.grid.words} {count}"
    elif undo.turn == base.turn:
        yield _frame_code(sheet, suspect), _frame_words(sheet, undo, count)


_ORDER_CODES = {"yxyx": ("swapped_axes", "x and y of boxes are swapped")}
_PLACED: dict[Kind, str] = {"shifted": "shifted", "shrunk": "shrunk"}
_PLACED_WORDS: dict[Kind, str] = {"shifted": "lie ", "shrunk": ""}


def _placed_code(sheet: Sheet, suspect: Suspect) -> str:
    """A shift of about a unit is one of rounding, though boxes are so small that it costs hits."""
    grid = suspect.undo.grid
    if grid.kind != "shifted":
        return _PLACED[grid.kind]
    if np.abs(grid.place(sheet).start).max() <= LARGEST:
        return "offset"
    return "near_shift" if _costs_little(suspect.evidence) else "shifted"


def _costs_little(evidence: Evidence) -> bool:
    """Whether a mistake takes so few hits, and so little of the median IoU, that it is no error."""
    hits, value = evidence.after - evidence.before, evidence.value_after - evidence.value_before
    return hits < _NEAR[0] and value < _NEAR[1]


def _rise(evidence: Evidence) -> str:
    hits, value = _change(evidence.before, evidence.after), _change(evidence.value_before, evidence.value_after)
    return f"the share that hits (IoU {HIT:g}) {hits}, the median IoU {value}"


def _change(before: float, after: float) -> str:
    old, new = f"{before:.2f}", f"{after:.2f}"
    if old == new:
        return f"stays at {old}"
    return f"{'rises' if after > before else 'falls'} from {old} to {new}"


def _frame_code(sheet: Sheet, suspect: Suspect) -> str:
    grid, evidence = suspect.undo.grid, suspect.evidence
    are_thousandths = sum(case.read == THOUSANDTHS and case.is_raw for case in sheet.cases) > len(sheet) / 2
    taken = grid.taken if grid.taken != "read" else "thousandths" if are_thousandths else "pixels"
    if grid.kind == "thousandths" and taken == "pixels":
        return "thousandths_as_pixels"
    if grid.kind == "pixels" and taken == "thousandths":
        return "pixels_as_thousandths"
    if _costs_little(evidence):
        return "near_frame"
    return "padded" if grid.kind in PADDED else "wrong_frame"


def _frame_words(sheet: Sheet, undo: Undo, count: str) -> str:
    counted = f"{count}: they count {undo.grid.words}{_sizes(sheet, undo)}"
    if undo.grid.kind in PADDED:
        return f"boxes lie in a picture padded to a square {counted}"
    return f"boxes are {_scale_words(undo.grid.place(sheet).sides / sheet.reads)} {counted}"


def _scale_words(scales: np.ndarray) -> str:
    """How large boxes are for what they should be, from (N, 2) of each picture: its middle, and its range."""
    by_picture = (scales.std(axis=0) > _SPREAD * scales.max()).any()
    (x, y), what = np.median(scales, axis=0), "times as large as they should be"
    slack = _SPREAD / 2 if by_picture else _ROUNDED
    digits = 2 if by_picture or max(abs(x - 1), abs(y - 1)) >= 0.05 else 3
    is_usual = max(abs(x - 1), abs(y - 1)) < slack  # most pictures are right
    if not by_picture and is_usual:
        return "not where they should be"
    farthest = scales.flat[_misfit(scales).argmax()]
    if max(x, y) < 1 + slack / 2 and farthest < 1:
        x, y, scales, what = 1 / x, 1 / y, 1 / scales, "too small"
    elif min(x, y) > 1 - slack / 2 and farthest > 1:
        what = "too large"
    elif is_usual:  # some are too small, some too large
        return f"{scales.min():.2f} to {scales.max():.2f} {what}, by picture"
    spread = f", {scales.min():.2f} to {scales.max():.2f} by picture" if by_picture else ""
    return f"{what}{spread}" if is_usual else f"{x:.{digits}f} x {y:.{digits}f} {what}{spread}"


def _misfit(scales: np.ndarray) -> np.ndarray:
    """How far scales are from 1; twice as large is as far as half as large."""
    return np.abs(np.log(scales))


def _sizes(sheet: Sheet, undo: Undo) -> str:
    """The frame and the one it was read in: of all pictures where they have one size, else of the farthest off."""
    if undo.grid.taken != "read":
        return ""
    placement = undo.grid.place(sheet)
    is_usual = np.array([case.is_raw == sheet.is_raw for case in sheet.cases])
    place = int(np.where(is_usual, _misfit(placement.sides / sheet.reads).max(axis=1), -1.0).argmax())
    width, height = map(length, placement.sides[place].tolist())
    left, top = map(length, placement.starts[place].tolist())
    case = sheet.cases[place]
    where = (
        "" if len({case.original for case in sheet.cases}) == 1 else f" for record {case.record.id}, of {case.original}"
    )
    lies = f" at {left}, {top}" if undo.grid.kind in PADDED else ""
    return f" ({width}x{height}{lies}{where}; read as {case.read})"


# ---- how pictures are turned -----------------------------------------------------------------------------------

_TURNS = {
    2: "mirrored left to right",
    3: "turned by half",
    4: "mirrored top to bottom",
    5: "mirrored about a diagonal",
    6: "turned by a quarter",
    7: "mirrored about the other diagonal",
    8: "turned by a quarter the other way",
}


def _turn_words(turn: int) -> str:
    return f"one {_TURNS[turn]}, as if stored with EXIF orientation {turn}"


def tell_own_turn(turned: Suspect, sheet: Sheet) -> Fault:
    """The fault of pictures that were seen without their metadata's turn."""
    evidence = turned.evidence
    message = (
        f"boxes lie on the picture as it is stored, not upright ({evidence.explained} of {evidence.n} answers about "
        f"pictures that their metadata turn; {len(sheet)} answers in all). Undone, {_rise(evidence)}"
    )
    return fault_of("turned", message, evidence.explained, evidence.n, before=evidence.before, after=evidence.after)
