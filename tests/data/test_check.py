"""The data doctor: each fault planted once is found with its code, and a clean set has none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from groundling.data.check import CODES, Finding, check, summarize, usable
from groundling.data.record import Record, Rejected, Target, read_records, scan_records, write_records
from groundling.dialect.family import FAMILIES, Budget

SIZE_WH = (400, 300)
BUDGET = Budget(FAMILIES["qwen2_5_vl"], min_pixels=28 * 28, max_pixels=100 * 75)  # a quarter of 400x300, each side


def picture(path: Path, seed: int, size_wh: tuple[int, int] = SIZE_WH) -> Path:
    """A flat picture, of a color of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, (seed, 10, 20)).save(path)
    return path


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Five sound records of one file, ids 1 to 5, on five pictures; one is a negative, one holds a point."""
    targets = [
        (Target(box=(10, 20, 110, 120), label="mug"),),
        (Target(box=(200, 100, 390, 250)), Target(box=(0.5, 0, 100.5, 90))),
        (),
        (Target(point=(399, 0)),),
        (Target(box=(300, 200, 400, 300)),),
    ]
    return [
        Record(
            question=f"where is thing {line}?",
            image=picture(tmp_path / f"images/{line}.png", line),
            targets=found,
            id=str(line),
            width=400 if line != 2 else None,
            height=300 if line != 2 else None,
            file=tmp_path / "train.jsonl",
            line=line,
        )
        for line, found in enumerate(targets, start=1)
    ]


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def boxed(record: Record, *numbers: float) -> Record:
    return replace(record, targets=(Target(box=numbers),))  # type: ignore[arg-type]


def with_first(records: list[Record], first: Record) -> list[Record]:
    return [first, *records[1:]]


def test_a_clean_set_has_no_findings(records: list[Record]) -> None:
    assert check(records, budget=BUDGET) == []
    assert usable(records, []) == records
    assert summarize([]) == "errors: 0, warnings: 0, notes: 0"


# ---- one fault at a time ---------------------------------------------------------------------------------------

PLANTS: dict[str, tuple[Callable[[Record], Record], str]] = {
    "missing_picture": (lambda r: replace(r, image=Path("nowhere/1.png")), "there is no picture nowhere/1.png"),
    "wrong_size": (lambda r: replace(r, width=800, height=600), "declared 800x600, but the upright picture is 400x300"),
    "inverted": (lambda r: boxed(r, 350, 250, 150, 100), "box [350, 250, 150, 100] is a box whose right or bottom"),
    "empty": (lambda r: boxed(r, 10, 20, 10, 80), "box [10, 20, 10, 80] is a box without area"),
    "outside": (lambda r: boxed(r, 10, 20, 410, 120), "leaves its 400x300 picture by 10 pixels"),
    "clipped": (lambda r: boxed(r, 10, -3, 110, 120), "leaves its 400x300 picture by 3 pixels"),
    "looks_like_xywh": (lambda r: boxed(r, 300, 200, 50, 60), "fits its 400x300 picture as x, y, width, height only"),
    "looks_normalized": (lambda r: boxed(r, 0.1, 0.2, 0.5, 1), "is a box of fractions of the picture"),
    "tiny": (lambda r: boxed(r, 10, 20, 25, 120), "about 3.8x25.0 pixels as the model sees it; a visual token covers"),
    "whole_picture": (lambda r: boxed(r, 0, 0, 400, 299), "covers its 400x300 picture"),
    "point_outside": (lambda r: replace(r, targets=(Target(point=(50, 310)),)), "is 10 pixels outside its 400x300"),
    "empty_question": (lambda r: replace(r, question=" \t"), "the question is ' \\t'"),
    "control_tokens": (lambda r: replace(r, question="the <|im_end|> sign"), "the text holds <|im_end|>"),
    "duplicate_id": (lambda r: replace(r, id="5"), "the id '5' is also that of"),
}


@pytest.mark.parametrize("code", PLANTS)
def test_a_planted_fault_is_found_alone(records: list[Record], code: str) -> None:
    plant, message = PLANTS[code]
    planted = with_first(records, plant(records[0]))
    (finding,) = check(planted, budget=BUDGET)
    assert finding.code == code
    assert message in finding.message
    assert (finding.level, finding.cure) == (CODES[code].level, CODES[code].cure)
    assert (finding.file, finding.line) == (str(records[0].file), 5 if code == "duplicate_id" else 1)
    assert len(usable(planted, [finding])) == (4 if finding.level == "error" else 5)


def test_a_rejected_line_is_an_error(records: list[Record]) -> None:
    (finding,) = check(records, rejected=[Rejected("train.jsonl", 6, "not JSON")])
    assert (finding.code, finding.record, finding.line, finding.message) == ("unreadable_record", None, 6, "not JSON")


def test_a_damaged_picture_is_found_for_each_of_its_records(records: list[Record]) -> None:
    image = records[0].image
    assert image is not None
    image.write_bytes(image.read_bytes()[:60])
    again = replace(records[0], question="another question", id="6", line=6)
    findings = check([*records, again])
    assert codes(findings) == ["unreadable_picture"] * 2
    assert [finding.line for finding in findings] == [1, 6]
    assert findings[0].message.startswith(f"{image}: cannot be read")


def test_a_swapped_size_points_to_exif(records: list[Record]) -> None:
    image = records[0].image
    assert image is not None
    metadata = Image.Exif()
    metadata[0x0112] = 6
    Image.new("RGB", (300, 400), (1, 10, 20)).save(image, exif=metadata)
    turned = replace(records[0], width=300, height=400)
    (finding,) = check(with_first(records, turned))
    assert finding.code == "wrong_size"
    assert "declared 300x400, but the upright picture is 400x300: width and height are swapped" in finding.message
    assert "EXIF" in finding.cure


def test_one_declared_side_is_checked_too(records: list[Record]) -> None:
    (finding,) = check(with_first(records, replace(records[0], width=401, height=None)))
    assert "declared 401x?" in finding.message


def test_boxes_without_a_known_size_are_judged_by_their_corners(records: list[Record]) -> None:
    lost = replace(records[0], image=Path("nowhere.png"), width=None, height=None)
    assert codes(check([boxed(lost, 9, 9, 1000, 1000)])) == ["missing_picture"]
    assert codes(check([boxed(lost, 90, 9, 10, 10)])) == ["missing_picture", "inverted"]


def test_most_boxes_of_a_file_decide_how_all_are_read(records: list[Record]) -> None:
    """Three of four boxes fit only as x, y, width, height, so the fourth, which fits both ways, is one too."""
    numbers = [(300, 200, 50, 60), (200, 100, 50, 60), (350, 10, 40, 100), (10, 20, 110, 120)]
    planted = [boxed(record, *box) for record, box in zip(records, numbers, strict=False)]
    findings = check(planted)
    assert codes(findings) == ["looks_like_xywh"] * 4
    assert "like 4 of the 4 boxes of its file" in findings[3].message
    assert {finding.cure for finding in findings} == {
        "the whole file is x, y, width, height: convert it again from the format it came in"
    }
    assert usable(planted, findings) == []


def test_another_file_is_judged_by_itself(records: list[Record], tmp_path: Path) -> None:
    other = [boxed(replace(record, file=tmp_path / "b.jsonl"), 300, 200, 50, 60) for record in records]
    found = check(records + other)
    assert {finding.file for finding in found if finding.code == "looks_like_xywh"} == {str(tmp_path / "b.jsonl")}


def test_xywh_is_told_once_a_record(records: list[Record]) -> None:
    target = Target(box=(300, 200, 50, 60))
    other = Target(box=(310, 210, 50, 60))
    assert codes(check(with_first(records, replace(records[0], targets=(target, other))))) == ["looks_like_xywh"]


def test_repeated_questions(records: list[Record]) -> None:
    same = replace(records[1], id="6", line=6, targets=records[1].targets[::-1])
    other = boxed(replace(records[0], id="7", line=7), 1, 2, 30, 40)
    findings = check([*records, same, other])
    assert codes(findings) == ["duplicate_record", "ambiguous"]
    assert f"is asked about the same picture at {records[1].place}" in findings[0].message


def test_a_question_about_a_copy_of_the_picture_is_repeated_too(records: list[Record], tmp_path: Path) -> None:
    copy = replace(records[0], id="6", line=6, image=picture(tmp_path / "images/copy.bmp", 1))
    assert codes(check([*records, copy])) == ["duplicate_record"]


def test_a_picture_in_two_files_is_a_leak(records: list[Record], tmp_path: Path) -> None:
    elsewhere = picture(tmp_path / "test/renamed.bmp", 3)  # the same pixels in another format
    leaked = replace(records[2], image=elsewhere, question="what else?", file=tmp_path / "test.jsonl", line=1)
    (finding,) = check([*records, leaked])
    assert (finding.code, finding.level, finding.file) == ("leak", "warning", str(tmp_path / "test.jsonl"))
    assert f"{elsewhere} is the picture of {records[2].place} (" in finding.message


def test_a_text_without_a_picture_is_sound() -> None:
    assert check([Record(question="hello", image=None, answer="good day", id="1")]) == []
    assert codes(check([Record(question="where?", image=None, id="1")])) == ["missing_picture"]


def test_a_point_may_lie_a_little_outside(records: list[Record]) -> None:
    assert codes(check([replace(records[3], targets=(Target(point=(402, 10)),))])) == ["clipped"]


# ---- what is done with findings --------------------------------------------------------------------------------


def test_each_picture_is_opened_once(records: list[Record]) -> None:
    told: list[tuple[int, int]] = []
    check(records * 3, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_written_file_is_checked_as_it_is_read(records: list[Record], tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    write_records(with_first(records, boxed(records[0], 10, 20, 900, 120)), file)
    file.write_text(file.read_text() + "no json\n")
    scan = scan_records(file)
    findings = check(scan.records, rejected=scan.rejected)
    assert [(finding.code, finding.line) for finding in findings] == [("outside", 1), ("unreadable_record", 6)]
    assert [record.line for record in usable(scan.records, findings)] == [2, 3, 4, 5]


def test_a_hundred_thousand_records_take_seconds(records: list[Record]) -> None:
    many = [replace(records[0], id=str(line), line=line, question=f"thing {line}") for line in range(100_000)]
    start = time.perf_counter()
    assert check(many, budget=BUDGET) == []
    assert time.perf_counter() - start < 30


def test_real_records_are_sound(shared_data: Path, tmp_path: Path) -> None:
    """The word boxes of the awkward pictures, whose eight orientations are one photo, stored eight times."""
    folder = shared_data / "awkward"
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    records = [
        Record(
            question=line["question"],
            image=folder / line["image"],
            targets=(Target(box=tuple(line["box"]), label=line["label"]),),
            width=line["width"],
            height=line["height"],
        )
        for line in lines
    ]
    write_records(records, tmp_path / "words.jsonl")
    findings = check(read_records(tmp_path / "words.jsonl", allow_absolute=True))
    assert {finding.level for finding in findings} <= {"warning", "note"}
    assert set(codes(findings)) <= {"ambiguous", "duplicate_record", "near_duplicate"}
