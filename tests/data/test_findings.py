"""The table of codes, its document, and findings as they are written and told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from groundling.data.findings import CODES, Finding, finding_of, group_by_code, summarize, usable, write_findings
from groundling.data.record import Record

DOCUMENT = Path(__file__).parents[2] / "docs" / "findings.md"
RECORD = Record("?", None, id="7", file=Path("train.jsonl"), line=3)


def test_the_codes_are_complete() -> None:
    assert all(code.level in ("error", "warning", "note") and code.meaning and code.cure for code in CODES.values())
    levels = [code.level for code in CODES.values()]
    assert levels == sorted(levels, key=("error", "warning", "note").index), "worst first"


def test_the_document_has_every_code_as_it_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(name, code.level, code.meaning, code.cure) for name, code in CODES.items()]


def test_a_finding_is_at_its_record() -> None:
    finding = finding_of("outside", RECORD, "it leaves")
    assert finding == Finding("outside", "error", "7", "train.jsonl", 3, "it leaves", CODES["outside"].cure)
    assert finding.place == "train.jsonl:3"
    assert finding_of("tiny", replace(RECORD, file=None, line=None), "", cure="look").place == "record '7'"


def test_errors_make_records_unusable() -> None:
    other = replace(RECORD, line=4)
    findings = [finding_of("outside", RECORD, ""), finding_of("tiny", other, "")]
    assert usable([RECORD, other], findings) == [other]
    assert [record.line for record in usable([RECORD, other], findings)] == [4]


def test_findings_are_written_one_a_line(tmp_path: Path) -> None:
    finding = finding_of("empty", RECORD, "<\u00e9>")
    path = write_findings([finding], tmp_path / "new/folder")
    assert path == tmp_path / "new/folder/findings.jsonl"
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert Finding(**json.loads(line)) == finding
    assert write_findings([], tmp_path).read_text() == ""


def test_the_summary_says_what_where_and_how_to_mend_it() -> None:
    findings = [finding_of("control_tokens", RECORD, ""), finding_of("empty", RECORD, "")]
    assert list(group_by_code(findings)) == ["empty", "control_tokens"]
    lines = summarize(findings).splitlines()
    assert lines[0].split() == ["error", "empty", "1", "first:", "train.jsonl:3"]
    assert lines[1].strip() == "a box without area"
    assert lines[2].strip() == "-> draw it again, or use a point"
    assert lines[-1] == "errors: 1, warnings: 0, notes: 1"
