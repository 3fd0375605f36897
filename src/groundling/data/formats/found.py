"""What a reader of any format hands over, and the rules for what a file of someone else may point at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundling.data.record import RECORD_KEYS, Target
from groundling.errors import RecordError


@dataclass(frozen=True)
class Found:
    """One question as a reader found it, with its targets already in the picture's original upright pixels."""

    question: str
    image: bytes | Path | None  # the file's own bytes, or where it lies
    file: Path  # where the question was read
    line: int  # from 1: line of a text file, row of a table, entry of a list
    image_name: str = ""  # what the picture is called where it comes from
    targets: tuple[Target, ...] = ()
    answer: str | None = None  # general instruction data, instead of targets
    id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def find_picture(name: str, folder: Path) -> Path:
    """The file that `name` means, relative to `folder` or to the place where `folder` itself lies.

    The second is how scripts write that ran one folder up: `./data/train/1.jpg` inside `data/train.jsonl`. RecordError
    for addresses, for what is not there, and for whatever lies outside the folder once links are followed.
    """
    if not name or "\0" in name or "://" in name or name.startswith("data:"):
        raise RecordError(f"the picture {name[:100]!r} is no path; pictures are never downloaded: save it as a file")
    places = [place for base in (folder, folder.absolute().parent) if _is_file(place := base / name)]
    inside = [place for place in places if place.resolve().is_relative_to(folder.resolve())]
    if inside:
        return inside[0]
    if places:
        raise RecordError(f"the picture {name!r} lies outside {folder}; bring pictures and data into one folder")
    raise RecordError(f"there is no picture {name!r} in {folder}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file, or a folder that may not be read
        return False


def read_id(value: object) -> str:
    """An id as text; empty where there is none."""
    return "" if value is None else str(value)


def keep_extra(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of other columns, for a record's extra keys; a record's own key gets the prefix `source_`."""
    named = {f"source_{key}" if key in RECORD_KEYS else key: value for key, value in values.items()}
    return {key: value for key, value in named.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
