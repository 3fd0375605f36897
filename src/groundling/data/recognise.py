"""Which format a source is in, told by the names of its files and by what stands first in them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from groundling.data.formats.coco import OTHER_KINDS
from groundling.data.formats.entries import as_object, read_entries
from groundling.data.formats.rows import read_columns
from groundling.data.formats.xml import parse_xml
from groundling.errors import GroundlingError, SettingsError

_MOST_FILES = 5000  # of a folder that are looked at
_FIRST_ENTRIES = 20  # of which the first that can be read is looked at


@dataclass(frozen=True)
class Seen:
    """What of a source is looked at."""

    names: tuple[str, ...] = ()  # of its files, relative to the folder; of a file, its own
    whole: Mapping[str, Any] = field(default_factory=dict)  # the object that the first JSON file is
    entry: Mapping[str, Any] = field(default_factory=dict)  # the first entry of the first JSON list or JSONL file
    root: str = ""  # the name of the first XML file's root element
    columns: tuple[str, ...] = ()  # of the first Parquet or Arrow file

    def __str__(self) -> str:
        """What a user is told."""
        shown = ", ".join(self.names[:5]) + (f" and {len(self.names) - 5} more" if len(self.names) > 5 else "")
        parts = [shown or "no file"]
        parts += [f"a JSON object of {', '.join(islice(self.whole, 12))}"] if self.whole else []
        parts += [f"entries of {', '.join(islice(self.entry, 12))}"] if self.entry else []
        parts += [f"XML of <{self.root}>"] if self.root else []
        parts += [f"Parquet of {', '.join(self.columns[:12])}"] if self.columns else []
        return "; ".join(parts)


class Sign(NamedTuple):
    """What a format is known by."""

    format: str
    words: str
    test: Callable[[Seen], bool]


class Recognised(NamedTuple):
    """The format of a source, and what it was known by."""

    format: str
    reason: str


def recognise(source: str | Path) -> Recognised:
    """The only format that the source has the signs of; SettingsError with what was seen where none or several fit."""
    return tell(look_at(Path(source)), str(source))


def tell(seen: Seen, source: str) -> Recognised:
    """The only format whose signs were seen; SettingsError otherwise."""
    found = [sign for sign in SIGNS if sign.test(seen)]
    if len(found) == 1:
        return Recognised(found[0].format, found[0].words)
    if {"question", "targets"} <= seen.entry.keys():
        raise SettingsError(f"{source} is a record file already; there is nothing to convert")
    considered = "".join(f"\n  {sign.format}: {sign.words}" for sign in found or SIGNS)
    fault = "looks like several formats" if found else "is in no format that is recognised"
    raise SettingsError(f"{source} {fault}; name the one that it is in.{considered}\nseen: {seen}")


# ---- signs -----------------------------------------------------------------------------------------------------


def _has(value: Mapping[str, Any], *keys: str) -> bool:
    return set(keys) <= value.keys()


def _first(value: object) -> Mapping[str, Any]:
    """The first object of a list; an empty one where there is none."""
    first = value[0] if isinstance(value, list) and value else None
    return first if isinstance(first, dict) else {}


def _is_region(value: Mapping[str, Any]) -> bool:
    return any(key.endswith("labels") for key in value) and any(key in value for key in ("x", "points", "rle"))


def _is_named(seen: Seen, pattern: str) -> bool:
    return any(re.search(pattern, name) for name in seen.names)


def _is_refcoco(seen: Seen) -> bool:
    return _is_named(seen, r"(^|/)refs\([^/]*\)\.\w+$") or _has(seen.entry, "ref_id", "sentences")


SIGNS: tuple[Sign, ...] = (
    Sign(
        "coco",
        "a JSON object with images, annotations and categories",
        lambda seen: _has(seen.whole, "images", "annotations", "categories") and not _is_refcoco(seen),
    ),
    Sign(
        "yolo",
        "a data.yaml, classes.txt or obj.names, or a folder labels of .txt files",
        lambda seen: _is_named(seen, r"(^|/)((data|dataset)\.ya?ml|classes\.txt|obj\.names|labels/(.*/)?[^/]+\.txt)$"),
    ),
    Sign("voc", "XML of <annotation>, a file for each picture", lambda seen: seen.root == "annotation"),
    Sign("labelme", "a JSON object with shapes and imagePath", lambda seen: _has(seen.whole, "shapes", "imagePath")),
    Sign(
        "createml",
        "entries of pictures with annotations that have coordinates",
        lambda seen: any(_has(_first(value), "coordinates") for value in seen.entry.values()),
    ),
    Sign("refcoco", "a file refs(...), or entries with ref_id and sentences", _is_refcoco),
    Sign(
        "label-studio",
        "tasks with data and annotations, or the regions of JSON-MIN",
        lambda seen: _has(seen.entry, "data", "annotations") or any(_is_region(_first(v)) for v in seen.entry.values()),
    ),
    Sign("cvat", "XML of <annotations>", lambda seen: seen.root == "annotations"),
    Sign(
        "odvg",
        "entries with filename, and detection or grounding",
        lambda seen: _has(seen.entry, "filename") and bool({"detection", "grounding"} & seen.entry.keys()),
    ),
    Sign(
        "textvqa",
        "Parquet with image, question and bbox",
        lambda seen: {"image", "question", "bbox"} <= set(seen.columns),
    ),
    Sign(
        "hf-objects",
        "Parquet or Arrow with image and objects, or entries of file_name and objects",
        lambda seen: {"image", "objects"} <= set(seen.columns) or _has(seen.entry, "file_name", "objects"),
    ),
    Sign(
        "tutorial",
        "entries with image, query and response",
        lambda seen: _has(seen.entry, "image", "query", "response"),
    ),
    Sign(
        "swift",
        "entries with messages and objects, or with query and response",
        lambda seen: (
            _has(seen.entry, "messages", "objects")
            or (_has(seen.entry, "query", "response") and "image" not in seen.entry)
        ),
    ),
    Sign(
        "llamafactory",
        "entries with messages, or with conversations and images",
        lambda seen: (
            (_has(seen.entry, "messages") and "objects" not in seen.entry)
            or _has(seen.entry, "conversations", "images")
        ),
    ),
    Sign(
        "qwen-chat",
        "entries with conversations, of one image",
        lambda seen: _has(seen.entry, "conversations") and "images" not in seen.entry,
    ),
    Sign(
        "roboflow", "entries with image, prefix and suffix", lambda seen: _has(seen.entry, "image", "prefix", "suffix")
    ),
)
"""Every format with what it is known by. Where two readers take a file alike, the signs name one of them."""


# ---- looking ---------------------------------------------------------------------------------------------------


def look_at(path: Path) -> Seen:
    """What is seen of a file or a folder; SettingsError where there is neither."""
    if not path.exists():
        raise SettingsError(f"no file or folder {path}; a data set on a hub is fetched first, or named with its format")
    names = (path.name,) if path.is_file() else tuple(islice(_names_below(path), _MOST_FILES))
    folder = path.parent if path.is_file() else path
    ordered = sorted(names, key=lambda name: (PurePath(name).name.startswith(OTHER_KINDS), name.count("/"), name))
    first = {kind: next((folder / name for name in ordered if name.lower().endswith(kind)), None) for kind in _KINDS}
    whole, entry = _look_at_json(first[".json"])
    if first[".jsonl"] is not None:
        entry = entry or _look_at_json(first[".jsonl"])[1]
    table = first[".parquet"] or first[".arrow"]
    columns = () if table is None else tuple(read_columns(table))
    return Seen(names, whole, entry, _look_at_xml(first[".xml"]), columns)


_KINDS = (".json", ".jsonl", ".xml", ".parquet", ".arrow")


def _names_below(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name).relative_to(folder).as_posix() for name in sorted(names))


_Json = Mapping[str, Any]


def _look_at_json(file: Path | None) -> tuple[_Json, _Json]:
    """The object that the file is, and its first whole entry; both where it has only one, each empty where not so."""
    if file is None:
        return {}, {}
    try:
        entries = [_parse(entry) for _, entry in islice(read_entries(file), _FIRST_ENTRIES)]
    except GroundlingError:
        return {}, {}
    entry = next((entry for entry in entries if entry), {})
    if entry:
        return (entry if len(entries) == 1 else {}), entry
    try:
        whole = json.loads(file.read_bytes())  # one object over several lines
    except (ValueError, RecursionError):
        return {}, {}
    return (whole, {}) if isinstance(whole, dict) else ({}, {})


def _parse(entry: Any) -> _Json:
    try:
        return as_object(entry)
    except GroundlingError:
        return {}


def _look_at_xml(file: Path | None) -> str:
    try:
        return "" if file is None else parse_xml(file.read_bytes()).tag
    except GroundlingError:
        return ""
