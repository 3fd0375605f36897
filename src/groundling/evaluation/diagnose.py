"""What is systematically wrong with a model's answers, told from the answers and the truth alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from groundling.data.predictions import UNANSWERED
from groundling.data.record import Record, read_records
from groundling.evaluation.cases import Case, Cases, cases_of, read_cases
from groundling.evaluation.diagnosis import Diagnosis, Fault, fault_of, sort_faults
from groundling.evaluation.frame_faults import tell_own_turn, tell_part, tell_suspect
from groundling.evaluation.grids import FITTED
from groundling.evaluation.habits import find_count_faults, find_label_faults, find_same_answer, find_text_faults
from groundling.evaluation.metrics import SIZES
from groundling.evaluation.offset import LARGEST, Look, Offset, find_offset
from groundling.evaluation.part import find_part
from groundling.evaluation.report import Report
from groundling.evaluation.sheet import Sheet, lay_out
from groundling.evaluation.suspect import FEWEST, HIT, Suspect, find_suspect, weigh, weigh_chance
from groundling.evaluation.undo import NOTHING, Undo

_FEWEST_FOR_CHANCE = 20  # answers
_BETTER = 3.0  # standard errors over chance: below, nothing is better
_UNPAIRED = 0.02  # of the rows or the records


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
    same = find_same_answer(sheet, NOTHING.place(sheet))
    boxes = _Boxes([same], False, NOTHING.place(sheet)) if same else _look_at_boxes(sheet)
    is_fitted = boxes.undo.grid.kind in FITTED  # which leaves a pixel of its own
    look = None if is_fitted else find_offset(sheet, boxes.undo, boxes.placed)
    faults = [
        *_pairing_faults(found),
        *boxes.faults,
        *([_tell_offset(look.offset, look.boxes)] if look and look.offset else []),
        *find_text_faults(cases, has_suspect=boxes.is_undone),
        *find_count_faults(cases),
        *find_label_faults(sheet, boxes.placed),
    ]
    if not boxes.faults:
        faults += _chance_faults(sheet)
    if len(sheet) < FEWEST:
        faults.append(fault_of("too_few", _few(sheet), len(sheet), len(cases)))
    can_tell = not {"too_few", "at_chance", "same_answer"} & {fault.code for fault in faults}
    unseen = _tell_unseen(look) if look and can_tell else None
    return Diagnosis(len(cases), sort_faults(faults), _standing(cases, sheet, boxes), unseen)


class _Boxes(NamedTuple):
    """What is wrong with where boxes lie, and `placed`, (B, 4), with that undone; `undo` is that of most answers."""

    faults: list[Fault]
    is_undone: bool
    placed: np.ndarray
    undo: Undo = NOTHING


def _look_at_boxes(sheet: Sheet) -> _Boxes:
    """A mistake of all answers; then, once that is undone, of turned pictures; then, likewise, of any other part."""
    faults: list[Fault] = []
    undo = NOTHING
    suspect = find_suspect(sheet)
    if suspect:
        faults, undo = tell_suspect(sheet, suspect), suspect.undo
    turned = _find_own_turn(sheet, undo)
    if turned:
        faults, undo = [*faults, tell_own_turn(turned, sheet)], turned.undo
    placed = undo.place(sheet)
    part = find_part(sheet, undo)
    if part:
        faults = tell_part(part, undo, faults)
        placed[part.chosen[sheet.owner]] = part.suspect.undo.place(part.sheet)
    return _Boxes(faults, bool(faults), placed, undo)


def _few(sheet: Sheet) -> str:
    return f"{len(sheet)} answers with a box to questions about a box; at least {FEWEST} tell a wrong frame from chance"


def _find_own_turn(sheet: Sheet, undo: Undo) -> Suspect | None:
    """Whether the answers about pictures that their metadata turn lie on those pictures as they are stored."""
    chosen = sheet.orientations != 1
    if int(chosen.sum()) < FEWEST or undo.turn != 1:
        return None
    ways = [undo._replace(turn=0, is_stored=stored) for stored in (False, True)]
    found = [Suspect(way, weigh(sheet, undo, way, chosen)) for way in ways]
    best = max(found, key=lambda suspect: suspect.evidence.gain)
    return best if best.evidence.is_clear(is_fitted=False) else None


# ---- smaller things --------------------------------------------------------------------------------------------


def _tell_offset(offset: Offset, boxes: int) -> Fault:
    where = "to the left of and above" if offset.value < 0 else "to the right of and below"
    message = (
        f"{offset.words} lie {offset.size} {offset.unit} {where} their targets (95 % interval; {boxes} boxes that are "
        f"right)"
    )
    if offset.grows:
        message += "; the more, the farther from the left and top border, as of a scale a little off: 999 for 1000, say"
    if offset.or_share:
        message += "; or by a share of each box's side, as a habit of the model: boxes of so few sizes do not tell"
    return fault_of("offset", message, boxes, boxes)


def _tell_unseen(look: Look) -> str | None:
    """What offset is hidden, where half a unit is."""
    if look.offset:
        return None
    if look.is_odd:
        return f"edges of these boxes lie off in a way that is no offset and may hide one ({look.boxes} that are right)"
    if look.least <= 0.5:
        return None
    if look.least > LARGEST:
        few = f"too few or too rough: {look.boxes} are right and away from the border"
        return f"an offset of {LARGEST:g} {look.unit} or less could not be seen in these boxes, {few}"
    of_two = f"under {look.least_of_two:.1f} " if look.least_of_two <= LARGEST else ""
    return (
        f"an offset under {look.least:.1f} {look.unit} could not be seen in these boxes ({look.boxes} that are right), "
        f"nor one {of_two}of two edges alone"
    )


def _chance_faults(sheet: Sheet) -> Iterator[Fault]:
    if len(sheet) < _FEWEST_FOR_CHANCE:
        return
    if weigh_chance(sheet) < _BETTER:
        hits = int((sheet.values(NOTHING.place(sheet)) >= HIT).sum())
        others = "not clearly more than the boxes of other questions would"
        message = f"{hits} of {len(sheet)} answers hit (IoU {HIT:g}), {others}"
        yield fault_of("at_chance", message, len(sheet) - hits, len(sheet))


def _pairing_faults(found: Cases) -> Iterator[Fault]:
    rows = len(found.cases) + len(found.rejected)
    unread = [one for one in found.rejected if one.reason.startswith(UNANSWERED)]
    rejected = [one for one in found.rejected if not one.reason.startswith(UNANSWERED)]
    if unread:
        message = f"{len(unread)} of {rows} questions were not answered (line {unread[0].line}: {unread[0].reason})"
        yield fault_of("unanswered", message, len(unread), rows)
    missing = max(0, found.unanswered - len(unread))  # their records wait for an answer, too
    lost = len(rejected) + missing
    if lost and lost >= _UNPAIRED * rows:
        first = f" (line {rejected[0].line}: {rejected[0].reason})" if rejected else ""
        message = f"{len(rejected)} of {rows} rows are set aside{first}; {missing} records are unanswered"
        code = "set_aside" if len(rejected) > rows / 2 else "unpaired"
        yield fault_of(code, message, lost, rows + missing)


def _standing(cases: Sequence[Case], sheet: Sheet, boxes: _Boxes) -> str:
    """How many answers hit, by size of the target where there is one; those without a box are misses."""
    asked = [case for case in cases if len(case.truth)]
    if not asked:
        return "no question about a box"
    values = dict(zip(map(id, sheet.cases), sheet.values(boxes.placed).tolist(), strict=True))
    hits = [(case, values.get(id(case), 0.0) >= HIT) for case in asked]
    after = " once that is undone" if boxes.is_undone else ""
    parts = []
    for name, (least, limit) in SIZES.items():
        inside = [hit for case, hit in hits if case.is_single and least <= _size(case) < limit]
        if inside:
            parts.append(f"{name} {sum(inside)} of {len(inside)}")
    of_those = "" if all(case.is_single for case in asked) else ", of those with one target"
    by_size = f"; by size{of_those}: {', '.join(parts)}" if parts else ""
    return f"{sum(hit for _, hit in hits)} of {len(asked)} answers about boxes hit (IoU {HIT:g}){after}{by_size}"


def _size(case: Case) -> float:
    return float(case.truth.areas()[0]) / case.original.area
