"""Answers beside their records: what pairs, whose numbers are kept, and what is set aside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import groundling as gl
from groundling.data.record import Record, Target
from groundling.evaluation.cases import Cases, read_cases
from groundling.geometry.frame import THOUSANDTHS, Frame

RECORDS = [
    Record("the mug", None, (Target(box=(10, 20, 30, 40), label="mug"),), "1", 200, 100),
    Record("the cup", None, (Target(box=(50, 20, 90, 40), label="cup"),), "2", 200, 100),
]
SEEN = [112, 56]


def read(folder: Path, *rows: dict[str, Any] | str, contract: dict[str, Any] | None = None, **options: Any) -> Cases:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "predictions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    if contract:
        (folder / "report.json").write_text(json.dumps({"contract": contract}), encoding="utf-8")
    return read_cases(folder / "predictions.jsonl", RECORDS, **options)


def text(*numbers: float) -> str:
    return json.dumps([{"bbox_2d": numbers, "label": "mug"}])


def test_a_texts_own_numbers_are_kept_where_it_reads_as_the_boxes(tmp_path: Path) -> None:
    """What leaves the picture was cut off in the boxes, and is whole in the text."""
    row = {"id": "1", "text": text(56, 14, 500, 28), "boxes": [[100, 25, 200, 50]], "seen": SEEN, "flaw": "outside"}
    (case,) = read(tmp_path, row).cases
    assert case.is_raw and case.read == Frame(112, 56) and case.flaw == "outside"
    assert case.numbers.tolist() == [[56, 14, 500, 28]] and case.labels == ["mug"]


def test_a_reports_folder_means_its_predictions(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"id": "1", "boxes": [[1, 2, 3, 4]]}).cases
    (same,) = read_cases(tmp_path, RECORDS).cases
    assert same.record == row.record and same.numbers.tolist() == row.numbers.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(gl.RecordError, match=r"no predictions .*nowhere"):
        read_cases(tmp_path / "nowhere", RECORDS)


def test_thousandths_are_told_by_the_boxes(tmp_path: Path) -> None:
    row = {"id": "1", "text": text(500, 250, 1000, 500), "boxes": [[100, 25, 200, 50]], "seen": SEEN}
    assert read(tmp_path, row).cases[0].read == THOUSANDTHS


def test_boxes_that_the_text_does_not_give_are_taken_as_they_are(tmp_path: Path) -> None:
    row = {"id": "1", "text": text(1, 2, 3, 4), "boxes": [[100, 25, 200, 50]], "seen": SEEN}
    (case,) = read(tmp_path, row).cases
    assert not case.is_raw and case.read == Frame(200, 100) and case.numbers.tolist() == [[100, 25, 200, 50]]


def test_a_text_alone_is_read_as_the_report_beside_it_says(tmp_path: Path) -> None:
    contract = {"family": "qwen2_5_vl", "min_pixels": 784, "max_pixels": 12544}
    (case,) = read(tmp_path, {"id": "1", "text": text(56, 14, 112, 28)}, contract=contract).cases
    assert case.read == case.seen == Frame(140, 56)
    (case,) = read(tmp_path, {"id": "1", "text": text(56, 14, 112, 28)}, family="qwen3_vl").cases
    assert case.read == THOUSANDTHS
    (case,) = read(tmp_path, {"id": "1", "text": text(5, 1, 9, 2)}, family="qwen2_5_vl", max_tokens=2).cases
    assert case.read == Frame(56, 28)
    (case,) = read(tmp_path, {"id": "1", "text": text(5, 1, 9, 2), "seen": SEEN}, family="qwen2_5_vl").cases
    assert case.read == Frame(112, 56)


def test_a_text_that_nothing_explains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gl.SettingsError, match=r"give --family \(qwen2_vl"):
        read(tmp_path, {"id": "1", "text": text(5, 1, 9, 2)})


def test_rows_without_an_id_pair_by_line_and_a_list_is_read_too(tmp_path: Path) -> None:
    listed = json.dumps([{"boxes": [[1, 2, 3, 4]]}, {"boxes": []}])
    assert [case.record.id for case in read(tmp_path, listed).cases] == ["1", "2"]


PICTURED = [
    Record(question, Path(folder) / name, (Target(box=(1, 2, 3, 4)),), number, 200, 100)
    for question, folder, name, number in (
        ("the mug", "a", "0.png", "s0"),
        ("the cup", "a", "0.png", "s1"),
        ("the mug", "a", "1.png", "s2"),
        ("the mug", "b", "1.png", "s3"),
        ("the mug", "b", "2.png", "s4"),
        ("the mug", "b", "2.png", "s5"),
    )
]


def pair(folder: Path, *rows: tuple[str, str | None], records: list[Record] = PICTURED) -> Cases:
    """Answers as `predict --json` lists them: with a picture and mostly a question, without an id."""
    values = [{"image": image, "question": question, "boxes": [[1, 2, 3, 4]]} for image, question in rows]
    (folder / "answers.json").write_text(json.dumps(values), encoding="utf-8")
    return read_cases(folder / "answers.json", records)


def test_rows_without_an_id_pair_by_picture_and_question(tmp_path: Path) -> None:
    rows = [("b/1.png", "the mug"), ("2.png", "the mug"), ("c/0.png", "the cup"), ("2.png", "the mug")]
    found = pair(tmp_path, *rows)
    assert [case.record.id for case in found.cases] == ["s3", "s4", "s1", "s5"]
    assert not found.rejected and found.unanswered == 2


def test_a_picture_is_looked_for_beside_the_answers_too(tmp_path: Path) -> None:
    records = [replace(each, image=tmp_path / str(each.image)) for each in PICTURED]
    assert [case.record.id for case in pair(tmp_path, ("b/1.png", "the mug"), records=records).cases] == ["s3"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("7.png", "the mug"), "no record left of a picture '7.png' that asks 'the mug'; give rows the 'id'"),
        (("a/0.png", "the dog"), "no record left of a picture 'a/0.png' that asks 'the dog'"),
        (("1.png", "the mug"), "2 records may be that of picture '1.png' that asks 'the mug'; give rows the 'id'"),
        (("a/0.png", None), "2 records may be that of picture 'a/0.png'; give rows the 'id'"),
    ],
)
def test_a_row_whose_picture_does_not_tell_its_record_is_set_aside(
    row: tuple[str, str | None], reason: str, tmp_path: Path
) -> None:
    (rejected,) = pair(tmp_path, ("2.png", "the mug"), row).rejected
    assert rejected.line == 2 and reason in rejected.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ({"id": "1"}, "expected an object with an 'id', and with 'boxes' or a 'text'"),
        ({"id": "9", "boxes": []}, "no record '9'"),
        ({"id": "2", "question": "the dog", "boxes": []}, "asks 'the cup', the answer is to 'the dog'"),
        ({"id": "2", "boxes": [[1, 2, 3]]}, "the box 0 is"),
        ({"id": "2", "boxes": [[1, 2, 3, 4]], "labels": [7]}, "'labels' is"),
        ({"id": "2", "boxes": [], "seen": [0, 5]}, "'seen' is"),
        ({"id": "1", "boxes": []}, "record '1' is answered already"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line_and_reason(row: Any, reason: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"id": "1", "boxes": [[1, 2, 3, 4]]}, row)
    assert len(found.cases) == 1
    (rejected,) = found.rejected
    assert rejected.line == 2 and reason in rejected.reason


def test_a_question_that_was_not_answered_is_set_aside_and_no_answer_of_nothing(tmp_path: Path) -> None:
    unread = {"image": "a/1.jpg", "question": "the cup", "boxes": None, "text": None, "error": "a/1.jpg: cut short"}
    cases, (bad,), unanswered = read(tmp_path, {"id": "1", "boxes": []}, unread)
    assert (len(cases), bad.line, bad.reason, unanswered) == (1, 2, "not answered: a/1.jpg: cut short", 1)


def test_answers_to_other_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        gl.RecordError, match=r"no row of .* answers one of the 2 records .*no record 'x'.*the very record"
    ):
        read(tmp_path, {"id": "x", "boxes": []})
    with pytest.raises(gl.RecordError, match="no predictions"):
        read_cases(tmp_path / "none.jsonl", RECORDS)


def test_the_size_comes_from_the_record_the_row_or_the_picture(tmp_path: Path) -> None:
    bare = [Record("?", None, (Target(box=(1, 2, 3, 4)),), "1")]
    (tmp_path / "p.jsonl").write_text('{"id": "1", "boxes": [], "width": 30, "height": 20}', encoding="utf-8")
    assert read_cases(tmp_path / "p.jsonl", bare).cases[0].original == Frame(30, 20)
    (tmp_path / "p.jsonl").write_text('{"id": "1", "boxes": []}', encoding="utf-8")
    with pytest.raises(gl.RecordError, match="has no width and height"):
        read_cases(tmp_path / "p.jsonl", bare)
