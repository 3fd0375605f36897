"""What the user decides about an export, and what all formats of labelled pictures share in writing."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from groundling.data.labelled import LabelledPicture
from groundling.data.record import Record
from groundling.data.writers.coco_numbers import CocoNumbers
from groundling.errors import SettingsError


@dataclass(frozen=True)
class Writing:
    """The options of an export. Not every format takes every option. SettingsError for a class that is named twice."""

    family: str | None = None  # whose frame and form an answer's text has
    max_tokens: int | None = None  # of one picture, where a text counts pixels of the resized one
    labels: tuple[str, ...] | None = None  # the classes that are written, in the order of their numbers; None: all
    one_based: bool = False  # whether the first pixel is number 1, and a box names its last pixels
    url_prefix: str = ""  # what stands before a picture's path in the address that it is served under
    like: CocoNumbers | None = None  # of a COCO file, whose pictures and categories are meant

    def __post_init__(self) -> None:
        if self.labels is not None and (not all(self.labels) or len(set(self.labels)) < len(self.labels)):
            raise SettingsError(f"the labels are {', '.join(map(repr, self.labels))}; expected each once, none empty")

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [option.name for option in fields(self) if getattr(self, option.name) != option.default]


def refuse_points(record: Record, writing: Writing) -> str | None:
    """Why a format of boxes alone cannot hold a record; None where it can."""
    if any(target.point is not None for target in record.targets):
        return "a target is a point, and the format holds boxes only"
    return None


def hold_all(record: Record, writing: Writing) -> str | None:
    """None, for formats that can hold boxes and points with any label."""
    return None


def name_below(picture: LabelledPicture, folder: Path) -> str:
    """The picture's path relative to a folder that it lies below, with slashes."""
    return picture.image.resolve().relative_to(folder.resolve()).as_posix()


def write_document(value: Any, file: Path) -> None:
    """Write JSON, a list with one entry a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, list):
        text = "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "\n]\n"
    else:
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    file.write_text(text, encoding="utf-8", newline="\n")
