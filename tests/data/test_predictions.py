from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from groundling.data.predictions import holds_predictions, scan_predictions
from groundling.data.record import Target
from groundling.errors import SettingsError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos/7.png"
    path.parent.mkdir()
    Image.new("RGB", (1024, 681)).save(path)
    return path


def answered(image: Path | str, **changes: Any) -> dict[str, Any]:
    return {
        "image": str(image),
        "width": 1024,
        "height": 681,
        "question": "the ghost",
        "boxes": [[460, 635, 513, 669]],
        "labels": ["ghost"],
        "scores": [0.75],
        "points": [],
        "text": "...",
        "flaw": None,
        "seen": [1036, 686],
    } | changes


def write(path: Path, *entries: Any, is_list: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries) if is_list else "".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_an_evaluations_lines_become_records_with_scores(photo: Path, tmp_path: Path):
    entry = answered("../photos/7.png", id="7", labels=[None, "x"], points=[[5, 6]], iou=1.0, hit=True)
    file = write(tmp_path / "report/predictions.jsonl", entry)
    assert holds_predictions(file)
    (record,), rejected = scan_predictions(file)
    assert record.targets == (Target(box=(460, 635, 513, 669), extra={"score": 0.75}), Target(point=(5, 6), label="x"))
    assert (record.id, record.question, record.width, record.line) == ("7", "the ghost", 1024, 1)
    assert record.image is not None and record.image.samefile(photo)
    assert record.targets[0].extra == {"score": 0.75} and rejected == []


def test_what_predict_prints_is_read_from_where_it_was_asked(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(photo.parent.parent)
    entries = [answered("photos/7.png", scores=None), answered("photos/7.png", boxes=[], labels=[], scores=None)]
    file = write(tmp_path / "answers/p.json", *entries, is_list=True)
    assert holds_predictions(file)
    records, rejected = scan_predictions(file)
    assert [record.id for record in records] == ["1", "2"] and rejected == []
    assert records[0].targets == (Target(box=(460, 635, 513, 669), label="ghost"),) and records[1].is_negative
    assert records[0].image is not None and records[0].image.samefile(photo)


def test_pictures_that_moved_are_found_by_name_in_a_folder(photo: Path, tmp_path: Path):
    file = write(tmp_path / "p.jsonl", answered("/elsewhere/7.png"), answered("/elsewhere/8.png"))
    records, (bad,) = scan_predictions(file, images=photo.parent)
    assert records[0].image is not None and records[0].image.samefile(photo)
    assert bad.line == 2 and "there is no picture '/elsewhere/8.png'" in bad.reason
    with pytest.raises(SettingsError, match=r"--images .*nowhere is not there; expected the folder of the pictures"):
        scan_predictions(file, images=tmp_path / "nowhere")


def test_records_and_other_files_are_no_predictions(tmp_path: Path):
    record = {"image": "a.png", "question": "the ghost", "targets": []}
    for entries in ([record], [{"boxes": []}], [[1, 2]], []):
        assert not holds_predictions(write(tmp_path / "x.jsonl", *entries))
    assert not holds_predictions(tmp_path / "nosuch.jsonl")
    (tmp_path / "cut.json").write_text('[{"image"')
    assert not holds_predictions(tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{", "not JSON"),
        ([1], "no prediction; expected an object"),
        (answered("7.png", scores=[None], points=None), None),
        (answered("7.png") | {"image": 7}, "expected texts"),
        (answered("7.png", boxes={}), "'boxes' is {}; expected a list"),
        (answered("7.png", boxes=[[1, 2, 3]]), "expected 4 finite numbers"),
        (answered("7.png", labels=["a", "b"]), "1 boxes and 0 points with 2 labels and 1 scores"),
        (answered("7.png", labels=[3]), "a label is 3; expected a text"),
        (answered("7.png", width="wide"), "'width' is 'wide'"),
    ],
)
def test_a_bad_line_is_told_and_the_others_are_read(tmp_path: Path, entry: Any, words: str | None):
    good = answered("7.png")
    bad = entry if isinstance(entry, str) else json.dumps(entry)
    (tmp_path / "p.jsonl").write_text(f"{json.dumps(good)}\n{bad}\n{json.dumps(good)}\n")
    records, rejected = scan_predictions(tmp_path / "p.jsonl")
    if words is None:
        assert len(records) == 3
        return
    assert len(records) == 2
    assert rejected[0].line == 2 and words in rejected[0].reason


def test_a_list_that_is_cut_is_one_thing_rejected(tmp_path: Path):
    (tmp_path / "p.json").write_text('[{"image"')
    records, (bad,) = scan_predictions(tmp_path / "p.json")
    assert records == [] and "not JSON" in bad.reason
