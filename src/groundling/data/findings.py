"""What the data doctor can find: every code in one table, and a finding as it is written, summed up and judged by.

Errors teach something false, or stop training; warnings may be meant; notes are for knowing. One line of
`findings.jsonl` (made by hand):

    {"code": "outside", "level": "error", "record": "7", "file": "train.jsonl", "line": 3,
     "message": "target 0: box [460, 635, 1200, 669] leaves its 1024x681 picture by 176 pixels", "cure": "..."}

`docs/findings.md` is the table for readers; a test holds it to this one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from groundling.data.record import Record, Rejected

Level = Literal["error", "warning", "note"]
Key = tuple[str | None, int | None, str | None]


class Code(NamedTuple):
    """What a kind of finding means, and what usually helps."""

    level: Level
    meaning: str
    cure: str


CODES: dict[str, Code] = {
    "unreadable_record": Code("error", "a line that is no record", "mend the line, or convert the source again"),
    "missing_picture": Code("error", "a record without its picture", "put the picture where the record says it is"),
    "unreadable_picture": Code("error", "a picture that cannot be read", "replace the picture, or drop its records"),
    "unfit_size": Code(
        "error",
        "a picture of too many pixels, or more than 200 times as long as wide",
        "cut it into pieces, boxes too; if its many pixels are meant, raise --max-file-pixels",
    ),
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
    "looks_thousandths": Code(
        "error",
        "a file whose boxes count thousandths of the picture, not its pixels",
        "convert the source again with --frame thousandths",
    ),
    "looks_resized": Code(
        "error",
        "a file whose boxes count the pixels of resized pictures",
        "convert the source again with --frame resized:PIXELS, or from before the pictures were resized",
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
    "unwritable": Code(
        "error",
        "targets that the recipe's answer form cannot hold",
        "use another answer.form, or one target a record",
    ),
    "leak": Code(
        "warning",
        "a picture that stands in another file too",
        "split by picture (`groundling convert --split` does), or the test measures what was learned by heart",
    ),
    "near_leak": Code(
        "warning",
        "a picture that looks like one of another file",
        "keep copies of one picture, and shots of one scene, on one side of the split",
    ),
    "doubtful": Code(
        "warning",
        "a record that its converter was not sure of",
        "look at the picture; mend the box, or delete the key `doubt`",
    ),
    "ambiguous": Code(
        "warning",
        "the same question about the same picture, answered differently",
        "put all targets into one record, or ask more precisely",
    ),
    "duplicate_record": Code("warning", "the same question about the same picture, answered alike", "drop one of them"),
    "duplicate_box": Code("warning", "a target that stands twice in its record", "drop one of them"),
    "duplicate_id": Code("warning", "an id that another record of the file has", "give each record an id of its own"),
    "clipped": Code("warning", "a box or point that leaves its picture a little", "nothing: it is clipped in training"),
    "tiny": Code(
        "warning",
        "a box that is hardly seen after resizing",
        "allow more visual tokens (images.max_tokens), or cut the picture into pieces",
    ),
    "small_picture": Code(
        "warning",
        "a picture that is smaller than one patch of the model",
        "check that it is not a thumbnail; use the original",
    ),
    "label_variants": Code(
        "warning",
        "a class that is written in several ways",
        "write it one way: the model learns each spelling by itself",
    ),
    "long_text": Code("warning", "a question or label of unusual length", "check that it is not a whole document"),
    "too_long": Code(
        "warning",
        "a sample of more tokens than the recipe takes, which training leaves out",
        "raise data.max_length, and train.pack_tokens where it is set; or lower images.max_tokens",
    ),
    "near_duplicate": Code(
        "note",
        "a picture that looks like another of its file",
        "nothing, if they are shots of one scene; drop one if they are copies",
    ),
    "more_frames": Code(
        "note", "a picture file with several frames or pages", "nothing, if the boxes were drawn on the first frame"
    ),
    "rare_class": Code(
        "note", "a class with few targets beside the others", "collect more, or do not expect it learned"
    ),
    "unbalanced": Code(
        "note",
        "a class with far more targets than most",
        "weigh files (data.train: [{path, weight}]) or collect the others, if they matter alike",
    ),
    "whole_picture": Code("note", "a box around the whole picture", "nothing, if the thing fills the picture"),
    "control_tokens": Code("note", "text like a control token", "nothing: it is read as plain text, not as the token"),
}
"""Every code of a finding: its level, meaning, and usual cure; the worst first."""


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

    @property
    def key(self) -> Key:
        """Which record it is about, as `key_of` that record."""
        return self.file, self.line, self.record

    @property
    def place(self) -> str:
        """`file:line` for messages; the record's id where it came from no file."""
        return f"{self.file}:{self.line}" if self.file else f"record {self.record!r}"


def finding_of(code: str, record: Record, message: str, *, cure: str | None = None) -> Finding:
    """A finding about a record, with its code's usual cure unless another is given."""
    level, _, usual_cure = CODES[code]
    file, line, name = key_of(record)
    return Finding(code, level, name, file, line, message, cure or usual_cure)


def finding_of_line(rejected: Rejected) -> Finding:
    """The finding about a line that is no record."""
    level, _, cure = CODES["unreadable_record"]
    return Finding("unreadable_record", level, None, rejected.file, rejected.line, rejected.reason, cure)


def key_of(record: Record) -> Key:
    """File, line and id, which tell a record from others; one that came from no file has only its id."""
    return (None if record.file is None else str(record.file)), record.line, record.id


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by file and line."""
    return sorted(findings, key=lambda finding: (finding.file or "", finding.line or 0))


def usable(records: Iterable[Record], findings: Iterable[Finding]) -> list[Record]:
    """The records without an error-level finding."""
    bad = {finding.key for finding in findings if finding.level == "error"}
    return [record for record in records if key_of(record) not in bad]


def group_by_code(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """The findings of each code that was found, in the order of CODES."""
    by_code: dict[str, list[Finding]] = {code: [] for code in CODES}
    for finding in findings:
        by_code[finding.code].append(finding)
    return {code: found for code, found in by_code.items() if found}


def write_findings(findings: Iterable[Finding], folder: str | Path) -> Path:
    """Writes `findings.jsonl`, one finding a line, into a folder that is made if need be; returns the file's path."""
    path = Path(folder) / "findings.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(finding), ensure_ascii=False) + "\n" for finding in findings]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


def summarize(findings: Sequence[Finding]) -> str:
    """A table for a terminal: one block a code, worst first, with its count, first place, meaning and cures."""
    blocks = [_summary_block(code, found) for code, found in group_by_code(findings).items()]
    return "\n".join([*blocks, count_levels(findings)])


def count_levels(findings: Iterable[Finding]) -> str:
    """`errors: 1, warnings: 0, notes: 3`."""
    levels = Counter(finding.level for finding in findings)
    return f"errors: {levels['error']}, warnings: {levels['warning']}, notes: {levels['note']}"


def _summary_block(code: str, found: Sequence[Finding]) -> str:
    cures = sorted({finding.cure for finding in found})
    head = f"{CODES[code].level:<8} {code:<18} {len(found):>7}  first: {found[0].place}"
    return "\n".join([head, f"{'':9}{CODES[code].meaning}", *(f"{'':9}-> {cure}" for cure in cures)])
