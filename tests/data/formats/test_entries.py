from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.formats.entries import as_object, read_entries
from groundling.errors import RecordError


def read(file: Path, text: str | bytes) -> list[tuple[int, Any]]:
    """Number and object of each entry; the first words of the error where it is none."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found: list[tuple[int, Any]] = []
    for number, entry in read_entries(file):
        try:
            found.append((number, as_object(entry)))
        except RecordError as error:
            found.append((number, str(error).partition(":")[0]))
    return found


def test_lines_are_counted_with_the_empty_ones(tmp_path: Path):
    assert read(tmp_path / "a", '\ufeff{"a": 1}\n\n{"a"\n[1]\n{"a": 2}') == [
        (1, {"a": 1}),
        (3, "not JSON"),
        (4, "an entry is a JSON object, not list"),
        (5, {"a": 2}),
    ]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_is_read_as_its_entries(tmp_path: Path, indent: int | None):
    assert read(tmp_path / "a", json.dumps([{"a": 1}, "text", {"a": 2}], indent=indent)) == [
        (1, {"a": 1}),
        (2, "an entry is a JSON object, not str"),
        (3, {"a": 2}),
    ]


def test_a_broken_entry_of_a_list_takes_no_other_with_it(tmp_path: Path):
    text = b'[{"a": 1}, {"a": NaN}, {"a": 1, "a": 2},\n {"a": "\xff"}, {"a": "]"}, 5]'
    assert read(tmp_path / "a", text) == [
        (1, {"a": 1}),
        (2, "NaN is no JSON number"),
        (3, "the key 'a' is given twice"),
        (4, "not UTF-8"),
        (5, {"a": "]"}),
        (6, "an entry is a JSON object, not int"),
    ]


def test_a_list_that_is_cut_off_keeps_what_was_whole(tmp_path: Path):
    assert read(tmp_path / "a", '[{"a": 1},\n{"a": 2}, {"a": [3, {"b"') == [
        (1, {"a": 1}),
        (2, {"a": 2}),
        (3, "not JSON"),
    ]
    with pytest.raises(RecordError, match="begins as a JSON list, but: not JSON"):
        read(tmp_path / "a", '[{"a": 1')
    assert read(tmp_path / "a", "[]") == []


def test_lines_that_begin_with_a_list_are_lines(tmp_path: Path):
    assert read(tmp_path / "a", '[1]\n{"a": 1}\n')[1] == (2, {"a": 1})
    assert read(tmp_path / "a", '\n[]\n{"a": 1}\n')[1] == (3, {"a": 1})


def test_an_absent_file_is_an_error(tmp_path: Path):
    with pytest.raises(RecordError, match="no file"):
        next(read_entries(tmp_path / "absent"))


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5)), min_size=1), st.integers(0, 99)
)
def test_cutting_a_list_anywhere_keeps_the_entries_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], share: int
):
    text = json.dumps(entries)
    cut = text[: 1 + len(text) * share // 100]
    try:
        found = read(tmp_path_factory.mktemp("cut") / "a", cut)
    except RecordError:
        found = []
    whole = [entry for _, entry in found if isinstance(entry, dict)]
    assert whole == entries[: len(whole)]
    end = len(json.dumps(entries[:1])) - 1
    assert whole or len(cut) <= end
