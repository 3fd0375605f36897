"""Documents of other people: which ones there are, and what they hold."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import save_text

from groundling.data.formats.documents import (
    belongs_to,
    find_document,
    find_documents,
    read_json,
    read_text,
    read_xml,
    read_yaml,
)
from groundling.errors import RecordError, SettingsError


def find(folder: Path, part: str | None = None) -> str:
    return find_document(str(folder), part, [".json"], lambda file: "other" not in file.name).name


@pytest.mark.parametrize(
    ("path", "part", "belongs"),
    [
        ("annotations/instances_train2017.json", "train2017", True),
        ("annotations/instances_train2017.json", "annotations", True),
        ("annotations/instances_train2017.json", "train", False),  # a word, not its beginning
        ("valid/_annotations.coco.json", "valid", True),
        ("data/train-00000-of-00001.parquet", "train", True),
        ("refs(unc).json", "unc", True),
        ("trains/a.json", "train", False),
    ],
)
def test_a_part_is_a_word_of_the_name_or_a_folder(path: str, part: str, belongs: bool):
    assert belongs_to(Path(path), part) == belongs


def test_the_one_file_of_its_kind_is_found_at_any_depth(tmp_path: Path):
    save_text(tmp_path / "a/b/c.JSON", "")
    save_text(tmp_path / "a/other.json", "")
    assert find(tmp_path) == "c.JSON" and find(tmp_path, "b") == "c.JSON"
    assert find(tmp_path / "a/other.json") == "other.json"  # named by the user
    with pytest.raises(SettingsError, match=r"no file of annotations of the part 'x' in .*; there are other\.json"):
        find(tmp_path / "a/other.json", "x")


def test_of_many_files_the_first_ten_are_listed(tmp_path: Path):
    for number in range(13):
        save_text(tmp_path / f"{number:02}.json", "")
    with pytest.raises(
        SettingsError, match=r"13 files of annotations in .*: 00\.json, .*09\.json and 3 more; give one"
    ):
        find(tmp_path)


def test_links_that_lead_out_of_the_folder_are_left_out_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    save_text(tmp_path / "secret.json", "{}")
    save_text(tmp_path / "set/a.json", "{}")
    (tmp_path / "set/link.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "set/inside.json").symlink_to(tmp_path / "set/a.json")
    with caplog.at_level(logging.WARNING, logger="groundling"):
        found = find_documents(str(tmp_path / "set"), [".json"])
    assert [file.name for file in found] == ["a.json", "inside.json"]
    assert "1 files below" in caplog.text and "links that lead out of it; left out" in caplog.text


def test_every_error_names_its_file(tmp_path: Path):
    file = save_text(tmp_path / "a", b"\xff<[{")
    for read in (read_json, read_yaml, read_xml, read_text):
        with pytest.raises(RecordError, match=f"^{file}: not "):
            read(file)
        with pytest.raises(RecordError, match=f"^{tmp_path / 'absent'} cannot be read: No such file"):
            read(tmp_path / "absent")
        with pytest.raises(RecordError, match=f"^{tmp_path} cannot be read: Is a directory"):
            read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path):
    file = save_text(tmp_path / "a", "{}")
    file.chmod(0)
    with pytest.raises(RecordError, match="cannot be read: Permission denied"):
        read_json(file)


def test_yaml_is_texts_lists_and_mappings(tmp_path: Path):
    file = save_text(tmp_path / "a.yaml", "\ufeffa: [no, 1.5, ~]\r\nb: {c: 2001-01-01}\r\n")
    assert read_yaml(file) == {"a": ["no", "1.5", "~"], "b": {"c": "2001-01-01"}}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!?|>'\"\\#,.%@ \n\t<>/0", max_size=60).map(str.encode))
def test_bytes_are_a_document_or_an_error_of_ours(garbage: Path, raw: bytes):
    file = save_text(garbage / "document", raw)
    for read in (read_json, read_yaml, read_xml, read_text):
        with suppress(RecordError):
            read(file)
