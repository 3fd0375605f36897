"""What is systematically wrong with a model's answers, told from the answers and the truth alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from groundling.data.record import Record, read_records
from groundling.evaluation.cases import Case, Cases, cases_of, read_cases
from groundling.evaluation.diagnosis import Diagnosis, Fault, fault_of, sort_faults
from groundling.evaluation.grids import ORDERS, Kind
from groundling.evaluation.habits import find_count_faults, find_label_faults, find_same_answer, find_text_faults
from groundling.evaluation.metrics import SIZES
from groundling.evaluation.offset import Offset, find_offset
from groundling.evaluation.report import Report
from groundling.evaluation.sheet import Sheet, lay_out
from groundling.evaluation.suspect import FEWEST, HIT, Evidence, Suspect, find_part, find_suspect, weigh, weigh_chance
from groundling.evaluation.undo import Undo
from groundling.geometry.frame import THOUSANDTHS

_FEWEST_FOR_CHANCE = 20  # answers
_BETTER = 3.0  # standard errors over chance: below, nothing is better
_UNPAIRED = 0.02  # of the rows or the records
_SPREAD = 0.02  # of a scale: above, it goes with the picture


def diagnose(
    predictions: str | Path | Report,
    records: str | Path | Sequence[Record],
    *,
    family: str | None = None,
    max_tokens: int | None = None,
) -> Diagnosis:
    """The systematic faults of answers to records: what was found, in how many answers, and what usually cures it.

    `predictions` is a report, an evaluation's `predictions.jsonl`, or any JSONL of an `id` with `boxes` (original
    pixels) or with a `text`. A text alone is read as `family` writes, by default that of the report beside the file,
    and at `max_tokens` visual tokens where the row does not say what was seen. Nothing is named that noise, wrong
    answers or chance can bring about. RecordError where the answers are to other records.
    """
    known = records if not isinstance(records, str | Path) else read_records(records)
    if isinstance(predictions, Report):
        name = family or predictions.contract.get("family")
        return examine(Cases(cases_of(predictions.predictions, name), [], 0))
    return examine(read_cases(predictions, known, family=family, max_tokens=max_tokens))


def examine(found: Cases) -> Diagnosis:
    """The diagnosis of answers that stand beside their records."""
    cases = found.cases
    sheet = lay_out(cases)
    same = find_same_answer(sheet, Undo().place(sheet))
    suspect = None if same else find_suspect(sheet)
    undo = suspect.undo if suspect else Undo()
    turned = None if same else _find_own_turn(sheet, undo)
    part = None if same or suspect or turned else find_part(sheet)
    undo = turned.undo if turned else undo
    placed = undo.place(sheet)
    faults = [
        *_pairing_faults(found),
        *([same] if same else []),
        *(_tell(sheet, suspect) if suspect else []),
        *([_tell_own_turn(turned, sheet)] if turned else []),
        *(_tell_part(*part) if part else []),
        *_offset_fault(sheet, undo),
        *find_text_faults(cases, has_suspect=bool(suspect or turned or part)),
        *find_count_faults(cases),
        *find_label_faults(sheet, placed),
    ]
    if not suspect and not turned and not same and not part:
        faults += _chance_faults(sheet)
    if len(sheet) < FEWEST:
        faults.append(fault_of("too_few", _few(sheet), len(sheet), len(cases)))
    return Diagnosis(len(cases), sort_faults(faults), _standing(cases, sheet, undo))


def _few(sheet: Sheet) -> str:
    return f"{len(sheet)} answers with a box to questions about a box; at least {FEWEST} tell a wrong frame from chance"


# ---- what boxes count ------------------------------------------------------------------------------------------


def _tell(sheet: Sheet, suspect: Suspect) -> Iterator[Fault]:
    """One fault for each part of the mistake; they are undone together."""
    undo, evidence = suspect
    parts = list(_parts(sheet, undo, evidence))
    together = " Undone together with the other, " if len(parts) > 1 else " Undone, "
    for code, words in parts:
        message = words + "." + together + _rise(evidence)
        yield fault_of(code, message, evidence.explained, evidence.n, before=evidence.before, after=evidence.after)


def _tell_part(missing: Sheet, suspect: Suspect) -> Iterator[Fault]:
    """The same of the answers that miss, which a mistake of a part of all answers explains."""
    for fault in _tell(missing, suspect):
        yield replace(fault, message=f"in a part of the answers, of those {len(missing)} that miss: {fault.message}")


def _parts(sheet: Sheet, undo: Undo, evidence: Evidence) -> Iterator[tuple[str, str]]:
    count = f"({evidence.explained} of {evidence.n} answers)"
    if undo.order == "yxyx":
        yield "swapped_axes", f"x and y of boxes are swapped {count}: they are {ORDERS[undo.order].words}"
    elif undo.order != "xyxy":
        yield "box_form", f"boxes are not corners {count}: they are {ORDERS[undo.order].words}"
    if undo.turn != 1:
        yield "turned", f"boxes lie on a picture turned otherwise {count}: {_turn_words(undo.turn)}"
    if undo.grid.kind in _PLACED:
        yield _PLACED[undo.grid.kind], f"boxes {_PLACED_WORDS[undo.grid.kind]}{undo.grid.words} {count}"
    elif undo.grid.kind != "read" and undo.turn == 1:
        yield _frame_code(sheet, undo), _frame_words(sheet, undo, count)


_PLACED: dict[Kind, str] = {"shifted": "shifted", "shrunk": "shrunk"}
_PLACED_WORDS: dict[Kind, str] = {"shifted": "lie ", "shrunk": ""}


def _rise(evidence: Evidence) -> str:
    return (
        f"the share that hits (IoU {HIT:g}) rises from {evidence.before:.2f} to {evidence.after:.2f}, the median IoU "
        f"from {evidence.value_before:.2f} to {evidence.value_after:.2f}"
    )


def _frame_code(sheet: Sheet, undo: Undo) -> str:
    grid = undo.grid
    are_thousandths = sum(case.read == THOUSANDTHS and case.is_raw for case in sheet.cases) > len(sheet) / 2
    taken = grid.taken if grid.taken != "read" else "thousandths" if are_thousandths else "pixels"
    if grid.kind == "thousandths" and taken == "pixels":
        return "thousandths_as_pixels"
    if grid.kind == "pixels" and taken == "thousandths":
        return "pixels_as_thousandths"
    return "wrong_frame"


def _frame_words(sheet: Sheet, undo: Undo, count: str) -> str:
    scales = undo.grid.place(sheet).sides / sheet.reads
    return f"boxes are {_scale_words(scales)} {count}: they count {undo.grid.words}{_sizes(sheet, undo)}"


def _scale_words(scales: np.ndarray) -> str:
    """How large boxes are for what they should be, from (N, 2) of each picture: its middle, and its range."""
    by_picture = (scales.std(axis=0) > _SPREAD * scales.max()).any()
    (x, y), what, slack = np.median(scales, axis=0), "times as large as they should be", _SPREAD / 2
    is_usual = max(abs(x - 1), abs(y - 1)) < slack  # most pictures are right
    if not by_picture and is_usual:
        return "not where they should be"
    farthest = scales.flat[_misfit(scales).argmax()]
    if max(x, y) <= 1 + slack and farthest < 1:
        x, y, scales, what = 1 / x, 1 / y, 1 / scales, "too small"
    elif min(x, y) >= 1 - slack and farthest > 1:
        what = "too large"
    spread = f", {scales.min():.2f} to {scales.max():.2f} by picture" if by_picture else ""
    return f"{what}{spread}" if is_usual else f"{x:.2f} x {y:.2f} {what}{spread}"


def _misfit(scales: np.ndarray) -> np.ndarray:
    """How far scales are from 1; twice as large is as far as half as large."""
    return np.abs(np.log(scales))


def _sizes(sheet: Sheet, undo: Undo) -> str:
    """The frame and the one it was read in: of all pictures where they have one size, else of the farthest off."""
    if undo.grid.taken != "read":
        return ""
    sides = undo.grid.place(sheet).sides
    is_usual = np.array([case.is_raw == sheet.is_raw for case in sheet.cases])
    place = int(np.where(is_usual, _misfit(sides / sheet.reads).max(axis=1), -1.0).argmax())
    width, height = sides[place].round().astype(int)
    case = sheet.cases[place]
    where = (
        "" if len({case.original for case in sheet.cases}) == 1 else f" for record {case.record.id}, of {case.original}"
    )
    return f" ({width}x{height}{where}; read as {case.read})"


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


def _find_own_turn(sheet: Sheet, undo: Undo) -> Suspect | None:
    """Whether the answers about pictures that their metadata turn lie on those pictures as they are stored."""
    chosen = sheet.orientations != 1
    if int(chosen.sum()) < FEWEST or undo.turn != 1:
        return None
    ways = [undo._replace(turn=0, is_stored=stored) for stored in (False, True)]
    found = [Suspect(way, weigh(sheet, undo, way, chosen)) for way in ways]
    best = max(found, key=lambda suspect: suspect.evidence.gain)
    return best if best.evidence.is_clear(is_fitted=False) else None


def _tell_own_turn(turned: Suspect, sheet: Sheet) -> Fault:
    evidence = turned.evidence
    message = (
        f"boxes lie on the picture as it is stored, not upright ({evidence.explained} of {evidence.n} answers about "
        f"pictures that their metadata turn; {len(sheet)} answers in all). Undone, {_rise(evidence)}"
    )
    return fault_of("turned", message, evidence.explained, evidence.n, before=evidence.before, after=evidence.after)


# ---- smaller things --------------------------------------------------------------------------------------------


def _offset_fault(sheet: Sheet, undo: Undo) -> Iterator[Fault]:
    offset = find_offset(sheet, undo) if len(sheet) else None
    if offset is not None:
        yield fault_of("offset", _offset_words(offset), offset.boxes, offset.boxes)


def _offset_words(offset: Offset) -> str:
    what = "right and bottom of boxes" if offset.is_short else "boxes"
    x, y = ("left", "up") if offset.x.value < 0 else ("right", "down")  # both have one sign
    return (
        f"{what} lie {offset.x} to the {x} and {offset.y} {y} of their targets, in {offset.unit} (95 % intervals; "
        f"{offset.boxes} boxes that are right)"
    )


def _chance_faults(sheet: Sheet) -> Iterator[Fault]:
    if len(sheet) < _FEWEST_FOR_CHANCE:
        return
    if weigh_chance(sheet) < _BETTER:
        hits = int((sheet.values(Undo().place(sheet)) >= HIT).sum())
        others = "not clearly more than the boxes of other questions would"
        message = f"{hits} of {len(sheet)} answers hit (IoU {HIT:g}), {others}"
        yield fault_of("at_chance", message, len(sheet) - hits, len(sheet))


def _pairing_faults(found: Cases) -> Iterator[Fault]:
    rows = len(found.cases) + len(found.rejected)
    lost = len(found.rejected) + found.unanswered
    if lost and lost >= _UNPAIRED * rows:
        first = f" (line {found.rejected[0].line}: {found.rejected[0].reason})" if found.rejected else ""
        message = (
            f"{len(found.rejected)} of {rows} rows are set aside{first}; {found.unanswered} records are unanswered"
        )
        code = "set_aside" if len(found.rejected) > rows / 2 else "unpaired"
        yield fault_of(code, message, lost, rows + found.unanswered)


def _standing(cases: Sequence[Case], sheet: Sheet, undo: Undo) -> str:
    """How many answers hit, by size of the target where there is one; those without a box are misses."""
    asked = [case for case in cases if len(case.truth)]
    if not asked:
        return "no question about a box"
    values = dict(zip(map(id, sheet.cases), sheet.values(undo.place(sheet)).tolist(), strict=True))
    hits = [(case, values.get(id(case), 0.0) >= HIT) for case in asked]
    after = " once that is undone" if not undo.is_nothing else ""
    parts = []
    for name, (least, limit) in SIZES.items():
        inside = [hit for case, hit in hits if case.is_single and least <= _size(case) < limit]
        if inside:
            parts.append(f"{name} {sum(inside)} of {len(inside)}")
    by_size = f"; by size: {', '.join(parts)}" if parts else ""
    return f"{sum(hit for _, hit in hits)} of {len(asked)} answers about boxes hit (IoU {HIT:g}){after}{by_size}"


def _size(case: Case) -> float:
    return float(case.truth.areas()[0]) / case.original.area
