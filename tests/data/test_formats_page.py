"""docs/formats.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from groundling.data.export import FORMATS as WRITTEN
from groundling.data.formats.chat import Unplaced, declared_frame
from groundling.data.formats.found import BoxForm, option_of
from groundling.data.frame_proof import CANDIDATES, prove_frame
from groundling.data.sources import FORMATS
from groundling.dialect.answer import Item
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def rows(page: str) -> dict[str, str]:
    """The rows of the tables of formats, by name."""
    return {match[1]: match[0] for match in re.finditer(r"^\| `([a-z-]+)` \|.*$", page, re.MULTILINE)}


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_has_its_row(page: str, format: str):
    assert format in rows(page)


LABELLED = [*(name for name, format in FORMATS.items() if "asking" in format.heeds), "refcoco"]


@pytest.mark.parametrize("format", LABELLED)
def test_the_options_are_those_it_takes(page: str, format: str):
    options = {"boxes": "box_form", "one-based": "one_based"}
    named = {options.get(name, name) for name in re.findall(r"--([a-z-]+)", rows(page)[format])}
    assert named == set(FORMATS[format].heeds) - {"asking"}


def test_each_form_of_boxes_is_named(page: str):
    for form in get_args(BoxForm):
        assert f"`{form}`" in page or f"`--boxes {form}`" in page or form.endswith("-fractions")


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in LABELLED])
def test_a_frame_is_declared_or_proven_where_the_table_says_so(page: str, format: str):
    assert ("declared, or proven" in rows(page)[format]) == ("frame" in FORMATS[format].heeds)


def test_each_frame_that_can_be_declared_is_listed(page: str):
    for words in ("original", "thousandths", "fractions", "resized:1003520"):
        assert f"| `{words}` |" in page and declared_frame(words)
    budgets = [words.partition(":")[2] for words in CANDIDATES if words.startswith("resized:")]
    assert f"({', '.join(budgets)})" in page


def test_the_error_that_is_shown_is_the_one_that_comes(page: str):
    boxes = [(100, 100, 630, 427), (10, 20, 100, 100)]
    named = Unplaced([Item(box, None) for box in boxes], Frame(640, 428), Path("chat.jsonl"), 1)
    with pytest.raises(SettingsError) as error:
        prove_frame([named], "qwen-chat")
    assert f"error: {error.value}\n" in page


# ---- docs/export.md --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", WRITTEN)
def test_each_format_that_is_written_has_its_row_with_its_options(format: str):
    row = rows(PAGE.with_name("export.md").read_text(encoding="utf-8"))[format]
    assert set(re.findall(r"--[a-z-]+", row)) == {option_of(field) for field in WRITTEN[format].heeds}
    assert f"| {'folder' if getattr(WRITTEN[format], 'is_folder', False) else 'file'} |" in row
