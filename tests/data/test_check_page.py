"""The page of an examination: complete in itself, safe, with the worst first and never too many of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from clean_set import Row, examine_set, read_rows, write_rows
from planted import FAULTS, Set

from groundling.data.check import examine
from groundling.data.check_page import CARDS, write_examination
from groundling.data.record import Record

NASTY = "<img src=x onerror=alert(1)></script>&\u201c"


def page_of(folder: Path, rows: list[Row]) -> str:
    write_rows(rows, folder / "train.jsonl")
    _, page = write_examination(examine_set(folder), folder / "found")
    return page.read_text(encoding="utf-8")


@pytest.fixture
def rows(folder: Path) -> list[Row]:
    return read_rows(folder / "train.jsonl")


def cards(page: str) -> list[str]:
    return re.findall(r'<figure class="card">.*?</figure>', page, re.DOTALL)


def test_the_findings_lie_beside_the_page(folder: Path, rows: list[Row]) -> None:
    rows[1]["targets"][0]["box"] = [20, 30, 20, 90]
    write_rows(rows, folder / "train.jsonl")
    files = write_examination(examine_set(folder), folder / "found")
    assert [file.name for file in files] == ["findings.jsonl", "check.html"]
    assert [json.loads(line)["code"] for line in files[0].read_text().splitlines()] == ["empty"]


def test_the_page_fetches_nothing_and_runs_nothing(folder: Path, rows: list[Row]) -> None:
    rows[1]["targets"][0]["box"] = [20, 30, 900, 90]
    page = page_of(folder, rows)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "@import" not in page


def test_the_page_escapes_what_strangers_wrote(folder: Path, rows: list[Row]) -> None:
    rows[1].update(question=NASTY, doubt=NASTY, id=NASTY)
    rows[4]["targets"][0]["label"] = rows[7]["targets"][0]["label"] = NASTY
    page = page_of(folder, rows)
    assert "<img" not in page and "onerror=alert(1)&gt;" in page


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_finding_has_its_part(folder: Path, rows: list[Row], fault: str) -> None:
    code, plant = FAULTS[fault]
    plant(Set(folder, rows))
    page = page_of(folder, rows)
    assert page.count("<section id=") == 1 and f'<section id="{code}"' in page
    is_pictured = code not in ("unreadable_record", "missing_picture", "unreadable_picture", "unfit_size")
    assert bool(cards(page)) == is_pictured


def test_the_worst_are_shown_and_not_too_many(folder: Path, rows: list[Row]) -> None:
    for number, row in enumerate(rows):
        row["targets"][0]["box"][2] = row["width"] + 10 + number
    page = page_of(folder, rows)
    shown = cards(page)
    assert len(shown) == CARDS
    beyond = [int(found) for card in shown for found in re.findall(r"picture by (\d+) pixels", card)]
    assert beyond[0] == 81 and beyond == sorted(beyond, reverse=True)
    assert "<b>72</b>" in page


def test_the_marked_box_stands_out_from_the_others(folder: Path, rows: list[Row]) -> None:
    rows[1]["targets"].append({"label": "cup", "box": [100, 100, 103, 150]})
    (card,) = cards(page_of(folder, rows))
    whole, close = re.findall(r"<svg.*?</svg>", card, re.DOTALL)
    for view in (whole, close):
        assert view.count('class="line answer"') == view.count('class="line truth"') == 1
        assert '<rect class="line answer" x="100.0" y="100.0" width="3.0" height="50.0"/>' in view
    assert "3.0x50.0 pixels as the model sees it" in card


def test_a_box_beyond_its_picture_is_shown_with_what_is_there(folder: Path, rows: list[Row]) -> None:
    row = next(row for row in rows if (row["width"], row["height"]) == (320, 240))
    row["targets"][0]["box"] = [-20, 30, 400, 90]
    (card,) = cards(page_of(folder, rows))
    assert 'viewBox="-20.0 0 420.0 240"' in card


def test_pictures_that_are_alike_stand_side_by_side(folder: Path, rows: list[Row]) -> None:
    FAULTS["a picture compressed again"][1](Set(folder, rows))
    card = cards(page_of(folder, rows))[0]
    assert card.count("<image ") == 2 and '<span class="name">earlier</span>' in card


def test_a_clean_set_has_a_page_too(folder: Path, rows: list[Row]) -> None:
    page = page_of(folder, rows)
    assert "<h1>Nothing wrong in 96 records</h1>" in page
    assert "What to do next" not in page and not cards(page)
    assert page.count('<rect class="') >= 8, "the histogram is there"
    assert all(f'title="{label}"' in page for label in ("cup", "plate", "fork", "pan"))


def test_of_nothing_and_of_words_alone(tmp_path: Path) -> None:
    _, page = write_examination(examine([]), tmp_path / "nothing")
    assert "Nothing wrong in 0 records" in page.read_text()
    words = [Record("hello", None, answer="good <|day|>", id="1")]
    _, page = write_examination(examine(words), tmp_path / "words")
    assert "the text holds &lt;|day|&gt;" in page.read_text()


def test_a_picture_that_is_gone_by_now_leaves_a_grey_field(folder: Path, rows: list[Row]) -> None:
    rows[1]["targets"][0]["box"] = [20, 30, 20, 90]
    write_rows(rows, folder / "train.jsonl")
    examination = examine_set(folder)
    (folder / rows[1]["image"]).unlink()
    _, page = write_examination(examination, folder / "found")
    assert 'class="missing"' in page.read_text()


def test_the_page_stays_small(folder: Path, rows: list[Row]) -> None:
    for row in rows:
        row["targets"][0]["box"] = [0, 0, row["width"], row["height"] + 1]
    assert len(page_of(folder, rows)) < 500_000
