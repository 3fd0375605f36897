"""Mending records: what can be put right without looking at the picture, and what has to be left out.

Nothing is guessed. A box is clipped where training would clip it; corners change places only in a file whose other
boxes prove that they are corners; a declared size gives way to the picture's own only where the boxes do not fit the
one and do fit the other. A file of x, y, width, height, of thousandths or of another size's pixels is not converted:
it is proven as a whole, not for each of its boxes, and the way it was made is known to its owner alone.

Three files are written (made by hand): OUT.jsonl, the records; OUT.changes.jsonl, a line each change,

    {"file": "train.jsonl", "line": 3, "record": "7", "code": "clipped", "before": [460, 635, 1025, 669],
     "after": [460, 635, 1024, 669]}

and OUT.rejected.jsonl, a line each record or line left out: {"file", "line", "record", "code", "reason"}.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.check import Examination, examine
from groundling.data.findings import Finding, Key, key_of
from groundling.data.judge import Case, Corners, JudgedBox, box_fault, fits_as_xywh, point_fault, twin_targets
from groundling.data.record import Record, Target, write_records
from groundling.errors import RecordError, SettingsError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

_LEAST_WITNESSES = 10  # boxes of a file that are corners for sure, before corners of another change places


class Change(NamedTuple):
    """One thing that was mended, with the code of the finding that it ends. `before` and `after` are JSON values."""

    code: str
    before: Any
    after: Any


class Draft(NamedTuple):
    """A record on its way: as it was read, as it is now, and what was changed in it."""

    origin: Record
    record: Record
    changes: tuple[Change, ...] = ()

    def changed(self, code: str, before: Any, after: Any, **values: Any) -> Draft:
        """The draft with one change more, which gives the record other values."""
        return Draft(self.origin, replace(self.record, **values), (*self.changes, Change(code, before, after)))


class LeftOut(NamedTuple):
    """A record, or a line that is none, which is not written."""

    file: str | None
    line: int | None
    record: str | None
    code: str
    reason: str


class Mended(NamedTuple):
    """What is left of a record file, without errors, and what is not."""

    drafts: list[Draft]
    left_out: list[LeftOut]

    @property
    def records(self) -> list[Record]:
        """The records to write."""
        return [draft.record for draft in self.drafts]

    @property
    def summary(self) -> str:
        """One line: `96 records, 3 of them changed; 4 left out`."""
        changed = sum(bool(draft.changes) for draft in self.drafts)
        return f"{len(self.drafts)} records, {changed} of them changed; {len(self.left_out)} left out"


def mend(examination: Examination) -> Mended:
    """What can be kept of the examined records, in order.

    They are examined again until no error is left: what the boxes of a file prove may change with those that go.
    """
    left_out = [LeftOut(bad.file, bad.line, None, "unreadable_record", bad.reason) for bad in examination.rejected]
    are_corners = _files_of_corners(examination.judgement.boxes)
    drafts = [_mend_case(case, may_reorder=case.record.file in are_corners) for case in examination.cases]
    looks = {case.record.image: case.look for case in examination.cases if case.record.image and case.look}
    while True:
        findings = examine([draft.record for draft in drafts], looks=looks).findings
        reasons = _find_reasons(findings)
        if not reasons:
            return Mended(_rename(drafts), sorted(left_out, key=lambda out: (out.file or "", out.line or 0)))
        left_out += [LeftOut(*key, found.code, found.message) for key, found in reasons.items()]
        drafts = [draft for draft in drafts if key_of(draft.record) not in reasons]


def _find_reasons(findings: Iterable[Finding]) -> Mapping[Key, Finding]:
    """The records that have to go now: all with an error; once there are none, those that repeat an earlier one."""
    for is_bad in (lambda found: found.level == "error", lambda found: found.code == "duplicate_record"):
        reasons: dict[Key, Finding] = {}
        for finding in filter(is_bad, findings):
            reasons.setdefault(finding.key, finding)
        if reasons:
            return reasons
    return {}


def _files_of_corners(boxes: Iterable[JudgedBox]) -> set[Path | None]:
    """The files whose boxes prove to be left, top, right, bottom: many can be nothing else, and none is something else.

    What fits its picture as x, y, width, height too proves nothing.
    """
    witnesses: Counter[Path | None] = Counter()
    others: set[Path | None] = set()
    for found in boxes:
        file = found.case.record.file
        if found.code is not None and found.code.startswith("looks_"):
            others.add(file)
        elif found.is_sound and found.case.frame and not fits_as_xywh(found.box, found.case.frame):
            witnesses[file] += 1
    return {file for file, count in witnesses.items() if count >= _LEAST_WITNESSES} - others


# ---- one record ------------------------------------------------------------------------------------------------


def _mend_case(case: Case, *, may_reorder: bool) -> Draft:
    """The record with all mended that can be; what cannot is left as it is, and found again."""
    draft = Draft(case.record, case.record)
    real = case.look.frame if case.look else None
    if real is None:
        return draft
    draft = _mend_size(draft, real)
    frame = draft.record.declared or real
    if may_reorder:
        draft = _reorder(draft, frame)
    return _drop_twins(_clip(draft, frame))


def _mend_size(draft: Draft, real: Frame) -> Draft:
    """The declared size replaced by the picture's own, where it is plainly wrong; else as it was.

    So it is where there is nothing to place; where it is off by a pixel or a hundredth, which moves no box by more than
    that; and where the targets leave it and fit the real one. Targets that fit both may count in either. Sides that are
    only swapped are never close: the picture was turned since, and its boxes were not.
    """
    record = draft.record
    declared = Frame(record.width or real.width, record.height or real.height)
    if declared == real:
        return draft
    is_plain = not record.targets or _are_close(declared, real) or (_fit(record, real) and not _fit(record, declared))
    if not is_plain:
        return draft
    before = {"width": record.width, "height": record.height}
    after = {"width": real.width, "height": real.height}
    return draft.changed("wrong_size", before, after, **after)


def _are_close(declared: Frame, real: Frame) -> bool:
    is_swapped = declared.size_wh == real.size_wh[::-1]
    sides = zip(declared.size_wh, real.size_wh, strict=True)
    return not is_swapped and all(abs(told - side) <= max(1, side / 100) for told, side in sides)


def _fit(record: Record, frame: Frame) -> bool:
    """Whether all targets lie in the frame, to what is clipped."""
    return all(_fault(target, frame) in (None, "clipped") for target in record.targets)


def _fault(target: Target, frame: Frame) -> str | None:
    return box_fault(target.box, frame) if target.box else point_fault(target.point or (0, 0), frame)


def _reorder(draft: Draft, frame: Frame) -> Draft:
    """Corners put in order, where the box is sound then."""
    for number, target in enumerate(draft.record.targets):
        if target.box is None or box_fault(target.box, frame) != "inverted":
            continue
        left, top, right, bottom = target.box
        box: Corners = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        if box_fault(box, frame) in (None, "clipped"):
            draft = _with_target(draft, number, "inverted", replace(target, box=box))
    return draft


def _clip(draft: Draft, frame: Frame) -> Draft:
    """What leaves its picture a little, cut off at the border."""
    for number, target in enumerate(draft.record.targets):
        if _fault(target, frame) != "clipped":
            continue
        if target.box is not None:
            inside = Boxes([target.box], frame).clip().xyxy[0].tolist()
        else:
            inside = Points([target.numbers], frame).clip().xy[0].tolist()
        numbers = tuple(old if old == new else int(new) for old, new in zip(target.numbers, inside, strict=True))
        kind = "box" if target.box is not None else "point"
        draft = _with_target(draft, number, "clipped", replace(target, **{kind: numbers}))
    return draft


def _with_target(draft: Draft, number: int, code: str, target: Target) -> Draft:
    targets = draft.record.targets
    changed = (*targets[:number], target, *targets[number + 1 :])
    return draft.changed(code, list(targets[number].numbers), list(target.numbers), targets=changed)


def _drop_twins(draft: Draft) -> Draft:
    """Targets that stand twice with the same numbers and label, once."""
    targets = draft.record.targets
    twins = {twin.later for twin in twin_targets(draft.record) if twin.overlap == 1}
    if not twins:
        return draft
    kept = tuple(target for number, target in enumerate(targets) if number not in twins)
    return draft.changed("duplicate_box", len(targets), len(kept), targets=kept)


def _rename(drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts with an id of its own each: 7, 7-2, 7-3 for three that were 7."""
    taken = {draft.record.id for draft in drafts}
    seen: Counter[str] = Counter()
    renamed: list[Draft] = []
    for draft in drafts:
        old = new = draft.record.id
        seen[old] += 1
        while old and seen[old] > 1 and new in taken:
            new = f"{old}-{seen[old]}"
            seen[old] += new in taken
        taken.add(new)
        renamed.append(draft if new == old else draft.changed("duplicate_id", old, new, id=new))
    return renamed


# ---- writing ---------------------------------------------------------------------------------------------------


def refuse_place(out: Path, files: Sequence[Path]) -> None:
    """SettingsError, before any work, where the mended records cannot be written there."""
    if len(files) > 1:
        raise SettingsError(f"--fix mends one record file, not {len(files)}; call it once for each")
    if any(os.path.realpath(out) == os.path.realpath(file) for file in files):
        raise SettingsError(f"--fix {out} is the record file itself; write to another name beside it")


def write_mended(mended: Mended, out: Path, *, allow_absolute: bool = False) -> Path:
    """Write the records and the two logs; the pictures stay where they are.

    RecordError, before anything is written, where a picture lies outside the folder of `out`, which a relative path
    could not reach (with `allow_absolute` it is then written as an absolute one); and where no record is left, once
    the logs are written.
    """
    if not allow_absolute:
        _refuse_far_pictures(mended.records, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        dict(zip(("file", "line", "record"), key_of(draft.origin), strict=True)) | change._asdict()
        for draft in mended.drafts
        for change in draft.changes
    ]
    _write_lines(rows, out.with_suffix(".changes.jsonl"))
    rejected = out.with_suffix(".rejected.jsonl")
    _write_lines([row._asdict() for row in mended.left_out], rejected)
    if not mended.drafts:
        raise RecordError(f"no record can be kept; {rejected} says why for each")
    write_records(mended.records, out)
    return out


def _refuse_far_pictures(records: Iterable[Record], out: Path) -> None:
    images = {record.image for record in records if record.image is not None}
    far = sorted(image for image in images if not _is_below(image, out.parent))
    if far:
        home = os.path.commonpath([os.path.realpath(image.parent) for image in images])
        raise RecordError(
            f"--fix {out}: {len(far)} pictures, the first {far[0]}, do not lie below {out.parent}, so the new file"
            f" could not name them by relative paths; write it to {home} or a folder above"
        )


def _is_below(image: Path, folder: Path) -> bool:
    """Whether a record file in the folder may name the picture, links followed or not."""
    return all(Path(place(image)).is_relative_to(place(folder)) for place in (os.path.abspath, os.path.realpath))


def _write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
