"""Pages on a phone: a table of many numbers has its names above them, and room for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_groups import report

import groundling as gl
from groundling.evaluation.compare_page import write_comparison
from groundling.evaluation.guard import Found, Guard
from groundling.evaluation.report import write_report


def guard(mean: float) -> Guard:
    return Guard("own", [Found(str(place), "q", "a", None, 2, mean - place / 10) for place in range(9)])


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, str]:
    before = replace(report([("mug", 20.0, False), ("cat", 20.0, False)] * 8), guard=guard(-0.5))
    after = replace(report([("mug", 20.0, True), ("cat", 20.0, True)] * 8), guard=guard(-2.0))
    write_report(after, tmp_path)
    write_comparison(gl.compare(before, after), tmp_path)
    return {page.stem: page.read_text("utf-8") for page in tmp_path.glob("*.html")}


def wide_tables(page: str) -> Iterator[tuple[str, int, int]]:
    """Each table with three columns of numbers or more: its first head, how many there are, and what it has room for.

    Numbers that fill several lines, as of classes, have room where a line of them has.
    """
    for attributes, head in re.findall(r"<table([^>]*)>\s*<tr>(.*?)</tr>", page, re.DOTALL):
        heads = re.findall(r"<th(?! class=\"bars\")[^>]*>([^<]*)", head)
        told = re.search(r'class="stack" style="--columns:([^"]*)"', attributes)
        columns = re.sub(r"repeat\((\d), 1fr\)", lambda found: "1fr " * int(found[1]), told[1] if told else "")
        if len(heads) > 3:
            yield heads[0], len(heads) - 1, len(columns.split())


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("comparison", [("metric", 5, 5), ("size", 5, 5), ("class", 5, 5), ("answers", 5, 5), ("question", 3, 3)]),
        (
            "report",
            [("metric", 4, 4), ("AP by size of the target", 3, 3), ("class, worst first", 7, 4), ("size", 3, 3)],
        ),
    ],
)
def test_wide_tables_have_room_for_their_numbers(name: str, tables: list[tuple[str, int, int]], pages: dict[str, str]):
    assert list(wide_tables(pages[name])) == tables
    narrow = pages[name].partition("@media (max-width: 640px)")[2]
    assert ".stack tr { display: grid; grid-template-columns: var(--columns);" in narrow
    assert ".stack tr:first-child { position: sticky; top: 0;" in narrow, "heads of long tables stay in sight"


def test_a_plot_on_a_phone_has_letters_twice_as_large_and_room_for_them(pages: dict[str, str]):
    for page in pages.values():
        assert page.count('<text class="tick"') == 5 and page.count('<text class="title"') == 1
        assert ".plot text { font-size: 26px; }" in page.partition("@media (max-width: 640px)")[2]
