"""Mending: each thing that can be put right is, with its log; what cannot is left out with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from clean_set import Row, examine_set, read_rows, write_rows
from PIL import Image
from planted import FAULTS, Set

from groundling.data.mend import Mended, mend, refuse_place, write_mended
from groundling.data.record import read_records
from groundling.errors import RecordError, SettingsError

MENDED = {  # faults of test_planted that are put right; the others leave their records out, or are no errors
    "a box a pixel too wide": "clipped",
    "a point a pixel too low": "clipped",
    "a target twice": "duplicate_box",
    "an id twice": "duplicate_id",
    "corners the wrong way round": "inverted",
}


def mended_file(folder: Path, rows: Sequence[Row]) -> Mended:
    """train.jsonl with these rows, mended into fixed.jsonl beside it, which has no error."""
    write_rows(rows, folder / "train.jsonl")
    mended = mend(examine_set(folder, "train.jsonl"))
    write_mended(mended, folder / "fixed.jsonl")
    again = examine_set(folder, "fixed.jsonl")
    assert not [finding for finding in again.findings if finding.level == "error"]
    assert len(again.cases) == len(mended.records)
    return mended


def log(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_clean_file_stays_as_it_is(folder: Path) -> None:
    rows = read_rows(folder / "train.jsonl")
    mended = mended_file(folder, rows)
    assert read_rows(folder / "fixed.jsonl") == rows
    assert mended.summary == "72 records, 0 of them changed; 0 left out"
    assert log(folder / "fixed.changes.jsonl") == log(folder / "fixed.rejected.jsonl") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_leaves_no_error(folder: Path, fault: str) -> None:
    rows = read_rows(folder / "train.jsonl")
    FAULTS[fault][1](Set(folder, rows))
    if fault.startswith("a file of"):
        write_rows(rows, folder / "train.jsonl")
        mended = mend(examine_set(folder, "train.jsonl"))
        assert not mended.records and {out.code for out in mended.left_out} == {FAULTS[fault][0]}
        return
    mended = mended_file(folder, rows)
    changes = {change.code for draft in mended.drafts for change in draft.changes}
    assert changes == ({MENDED[fault]} if fault in MENDED else set())
    if fault in MENDED:
        assert not mended.left_out and MENDED[fault] not in {
            found.code for found in examine_set(folder, "fixed.jsonl").findings
        }


def test_changes_tell_before_and_after(folder: Path) -> None:
    rows = read_rows(folder / "train.jsonl")
    width = rows[1]["width"]
    rows[1]["targets"][0]["box"] = [20.5, 30, width + 1, 90]
    rows[4]["targets"].append(rows[4]["targets"][0])
    rows[6]["id"] = rows[7]["id"] = rows[5]["id"]
    mended_file(folder, rows)
    changes = log(folder / "fixed.changes.jsonl")
    assert {change["file"] for change in changes} == {str(folder / "train.jsonl")}
    assert [tuple(change.values())[1:] for change in changes] == [
        (2, "train-0-1", "clipped", [20.5, 30, width + 1, 90], [20.5, 30, width, 90]),
        (5, "train-1-1", "duplicate_box", 2, 1),
        (7, "train-1-2", "duplicate_id", "train-1-2", "train-1-2-2"),
        (8, "train-1-2", "duplicate_id", "train-1-2", "train-1-2-3"),
    ]
    assert read_records(folder / "fixed.jsonl")[1].targets[0].box == (20.5, 30, width, 90)


def test_what_is_left_out_has_its_reason(folder: Path) -> None:
    rows = read_rows(folder / "train.jsonl")
    rows[3]["targets"][0]["box"] = [10, 10, 10, 50]
    rows.append(rows[8] | {"id": "again"})
    write_rows(rows, folder / "train.jsonl")
    with (folder / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    mended = mend(examine_set(folder, "train.jsonl"))
    write_mended(mended, folder / "fixed.jsonl")
    assert [(out["line"], out["record"], out["code"]) for out in log(folder / "fixed.rejected.jsonl")] == [
        (4, "train-1-0", "empty"),
        (73, "again", "duplicate_record"),
        (74, None, "unreadable_record"),
    ]
    assert log(folder / "fixed.rejected.jsonl")[0]["reason"].endswith("is a box without area")
    assert mended.summary == "71 records, 0 of them changed; 3 left out"


def test_a_copy_of_a_bad_record_is_kept(folder: Path) -> None:
    """Of two records that ask the same, the one that is sound stays, whichever comes first."""
    rows = read_rows(folder / "train.jsonl")
    good = rows[3]
    rows[3] = good | {"targets": [{"box": [10, 10, 10, 50]}]}
    rows.append(good | {"id": "again"})
    kept = [record.id for record in mended_file(folder, rows).records]
    assert "again" in kept and good["id"] not in kept


# ---- sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "box", "is_mended"),
    [
        ((100, 100), [120, 90, 180, 150], True),  # leaves the declared size, fits the real one
        ((100, 100), [20, 20, 60, 60], False),  # may count in either
        ((800, 600), [20, 20, 60, 60], False),
        ((800, 600), [500, 20, 700, 60], False),  # fits the declared one only
        ((321, 240), [20, 20, 60, 60], True),  # a pixel more: no box moves by more
        ((240, 320), [20, 20, 60, 60], False),  # turned since, or not
        ((240, 320), [200, 20, 310, 60], True),  # cannot have been drawn before it was turned
        ((800, 600), None, True),  # nothing to find: nothing to place
    ],
)
def test_a_declared_size_gives_way_where_it_is_plainly_wrong(
    folder: Path, declared: tuple[int, int], box: list[int] | None, is_mended: bool
) -> None:
    rows = read_rows(folder / "train.jsonl")
    row = next(row for row in rows if (row["width"], row["height"]) == (320, 240))
    row.update(width=declared[0], height=declared[1], targets=[] if box is None else [{"box": box}])
    mended = mended_file(folder, rows)
    assert [out.code for out in mended.left_out] == ([] if is_mended else ["wrong_size"])
    changes = [change for draft in mended.drafts for change in draft.changes]
    expected = {"width": 320, "height": 240}
    assert [change.after for change in changes] == ([expected] if is_mended else [])


def test_a_nearly_square_picture_that_was_turned_is_not_taken_for_a_rounded_size(folder: Path) -> None:
    rows = read_rows(folder / "train.jsonl")
    Image.open(folder / rows[1]["image"]).resize((300, 299)).save(folder / "images" / "square.png")
    rows[1].update(image="images/square.png", width=299, height=300)
    assert [out.code for out in mended_file(folder, rows).left_out] == ["wrong_size"]


# ---- corners ---------------------------------------------------------------------------------------------------


def test_corners_change_places_only_where_the_file_proves_them(folder: Path) -> None:
    rows = read_rows(folder / "train.jsonl")
    rows[1]["targets"][0]["box"] = [230, 200, 180, 190]
    (change,) = [change for draft in mended_file(folder, rows).drafts for change in draft.changes]
    assert (change.before, change.after) == ([230, 200, 180, 190], [180, 190, 230, 200])
    few = [row for row in rows if row is rows[1] or row["targets"][0]["box"][0] < 40]  # these fit as xywh as well
    assert [out.code for out in mended_file(folder, few).left_out] == ["inverted"]


# ---- places ----------------------------------------------------------------------------------------------------


def test_the_pictures_stay_where_they_are(folder: Path) -> None:
    mended = mend(examine_set(folder, "train.jsonl"))
    above = write_mended(mended, folder.parent / "fixed.jsonl")
    assert read_rows(above)[0]["image"] == "set/images/train-0.jpg"
    assert len(read_records(above)) == 72
    with pytest.raises(RecordError, match=r"24 pictures, the first .*train-0\.jpg, do not lie below .* write it to"):
        write_mended(mended, folder / "apart" / "fixed.jsonl")
    assert not (folder / "apart").exists()
    apart = write_mended(mended, folder / "apart" / "fixed.jsonl", allow_absolute=True)
    assert read_records(apart, allow_absolute=True)[0].image == folder / "images" / "train-0.jpg"


def test_a_link_out_of_the_folder_is_no_way_in(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "images").symlink_to(folder / "images")
    write_rows(read_rows(folder / "train.jsonl"), tmp_path / "inside" / "train.jsonl")
    scan = read_rows(tmp_path / "inside" / "train.jsonl")
    assert scan and mend(examine_set(tmp_path / "inside", "train.jsonl")).records == []  # every line leads outside


def test_one_file_that_is_not_the_source() -> None:
    with pytest.raises(SettingsError, match="--fix mends one record file, not 2"):
        refuse_place(Path("c.jsonl"), [Path("a.jsonl"), Path("b.jsonl")])
    with pytest.raises(SettingsError, match="is the record file itself"):
        refuse_place(Path("x/../a.jsonl"), [Path("a.jsonl")])
    refuse_place(Path("b.jsonl"), [Path("a.jsonl")])


def test_nothing_left_is_an_error_with_its_reasons(folder: Path) -> None:
    rows = [row | {"image": "images/gone.jpg"} for row in read_rows(folder / "train.jsonl")]
    write_rows(rows, folder / "train.jsonl")
    with pytest.raises(RecordError, match=r"no record can be kept; .*fixed\.rejected\.jsonl says why for each"):
        write_mended(mend(examine_set(folder, "train.jsonl")), folder / "fixed.jsonl")
    assert len(log(folder / "fixed.rejected.jsonl")) == 72 and not (folder / "fixed.jsonl").exists()
