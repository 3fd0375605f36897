"""Faults planted in a clean set, one at a time, through files on disk: exactly the right code is found for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clean_set import BUDGET, examine_set, read_rows, write_rows
from planted import FAULTS, Set, as_resized, as_thousandths

from groundling.data.check import CODES, check
from groundling.data.record import read_records


def test_a_clean_set_has_no_finding_at_all(drawn: Path) -> None:
    examination = examine_set(drawn)
    assert examination.findings == []
    assert [file.records for file in examination.census.files] == [72, 24]
    assert examination.census.has_classes and len(examination.census.classes) == 4


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_its_code_alone(folder: Path, fault: str) -> None:
    code, plant = FAULTS[fault]
    rows = read_rows(folder / "train.jsonl")
    plant(Set(folder, rows))
    write_rows(rows, folder / "train.jsonl")
    findings = examine_set(folder).findings
    assert {finding.code for finding in findings} == {code}
    assert {finding.level for finding in findings} == {CODES[code].level}
    assert all(finding.message and finding.cure and finding.file for finding in findings)


def test_every_code_that_needs_no_model_is_planted() -> None:
    assert len(FAULTS) >= 30
    assert {code for code, _ in FAULTS.values()} == CODES.keys() - {"too_long", "unwritable"}


@pytest.mark.parametrize(("plant", "words"), [(as_thousandths, "fill 0 to 1000"), (as_resized, "longer side of 128")])
def test_a_proven_frame_is_told_with_its_counts(folder: Path, plant: Callable[[Set], None], words: str) -> None:
    rows = read_rows(folder / "train.jsonl")
    plant(Set(folder, rows))
    write_rows(rows, folder / "train.jsonl")
    findings = check(read_records(folder / "train.jsonl"), budget=BUDGET)
    assert len(findings) == 72
    assert all("all 72 boxes of its file" in finding.message and words in finding.message for finding in findings)
    assert all("--frame" in finding.cure for finding in findings)
