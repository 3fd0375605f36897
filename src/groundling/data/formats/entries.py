"""The entries of a JSONL file or a JSON list, each read by itself, so that a broken one takes no other with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from groundling.data.record import parse_json
from groundling.errors import RecordError


def read_entries(file: Path) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and content of every entry: line of a JSONL file, entry of a JSON list.

    The content is bytes where it is still to be parsed, which `as_object` does. RecordError where there is no such
    file, or where it begins as a list whose first entry has no end.
    """
    if not file.is_file():
        raise RecordError(f"no file {file}; expected a JSONL file or a JSON list")
    with file.open("rb") as lines:
        is_list = lines.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
        lines.seek(0)
        if not is_list or _begins_with_whole_line(lines):
            lines.seek(0)
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
            return
    yield from enumerate(_read_list(file), start=1)


def as_object(entry: Any) -> dict[str, Any]:
    """The JSON object of an entry from `read_entries`; RecordError where it is none."""
    value = parse_json(entry) if isinstance(entry, bytes) else entry
    if not isinstance(value, dict):
        raise RecordError(f"an entry is a JSON object, not {type(value).__name__}")
    return value


def _begins_with_whole_line(lines: IO[bytes]) -> bool:
    """Whether the first line is JSON by itself, and others follow: then they are entries, and it is a broken one.

    Blank lines count for nothing.
    """
    first = next((line for line in lines if line.strip()), b"")
    if not any(line.strip() for line in lines):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _read_list(file: Path) -> Iterator[Any]:
    """What stands in the list; where it cannot be parsed as one, the bytes of each entry."""
    raw = file.read_bytes()
    try:
        values = parse_json(raw)
    except RecordError as error:
        entries = _split_list(raw)
        first = next(entries, None)
        if first is None:
            raise RecordError(f"{file} begins as a JSON list, but: {error}") from None
        yield first
        yield from entries
        return
    yield from values


_START = re.compile(r"\s*\[")
_BETWEEN = re.compile(r"[\s,]*")


def _split_list(raw: bytes) -> Iterator[bytes]:
    """The entries of a list: none where the first has no end, and the last is all the rest where a later one has none.

    They are told apart by a parser that takes NaN and repeated keys.
    """
    text = raw.decode("utf-8-sig", errors="surrogateescape")
    decoder = json.JSONDecoder()
    place = _skip(_BETWEEN, text, _skip(_START, text, 0))
    is_first = True
    while place < len(text) and text[place] != "]":
        try:
            _, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place if is_first else len(text)
        if end > place:
            yield text[place:end].encode("utf-8", errors="surrogateescape")
        place = len(text) if end == place else _skip(_BETWEEN, text, end)
        is_first = False


def _skip(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place
