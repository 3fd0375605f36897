"""What a reader of any format hands over, and the rules for what a file of someone else may point at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args

from groundling.data.record import RECORD_KEYS, Target
from groundling.errors import RecordError, SettingsError
from groundling.geometry.frame import Frame

TextFrame = Callable[[Frame], Frame]
"""From a picture's original frame to the one that the numbers in a text about it count in."""


BoxForm = Literal["xywh", "xyxy", "cxcywh", "xywh-fractions", "xyxy-fractions", "cxcywh-fractions"]
"""What the numbers of a box are: corner and size, two corners, centre and size; in pixels, or shares of the picture."""


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


@dataclass(frozen=True)
class Reading:
    """What the user says about a source that it does not say itself. Not every format takes every option."""

    frame: TextFrame | None = None  # what the numbers of a text count
    images: Path | None = None  # the folder of the pictures; None: that of the annotations
    part: str | None = None  # of a source with named parts, such as train and val, only this one
    one_based: bool = False  # whether its first pixel is number 1
    reduce: bool = False  # whether polygons and turned boxes become the upright boxes around them
    box_form: BoxForm | None = None  # what the numbers of a box are; None: what the data prove

    def __post_init__(self) -> None:
        if self.images is not None:
            refuse_no_folder(self.images)
        if self.box_form is not None and self.box_form not in get_args(BoxForm):
            raise SettingsError(f"boxes as {self.box_form!r}; expected {', '.join(get_args(BoxForm))}")

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [option.name for option in fields(self) if getattr(self, option.name) != option.default]


def refuse_no_folder(images: Path) -> None:
    """SettingsError where the pictures are said to lie in what is no folder."""
    if not images.is_dir():
        found = "is a file" if images.exists() else "is not there"
        raise SettingsError(f"--images {images} {found}; expected the folder of the pictures")


def option_of(field: str) -> str:
    """What a field of `Reading`, or of `Writing`, is called on the command line."""
    return "--boxes" if field == "box_form" else f"--{field.replace('_', '-')}"


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


PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
    *(".jp2", ".heic", ".heif", ".ppm", ".pgm"),
)


class PictureFolder:
    """Finds the pictures that annotation files name, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.path.join(os.path.realpath(folder), "")
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str, *, beside: Path | None = None) -> Path:
        """The file at that place (`find_picture`), or else the only one below the folder that is called so.

        The second is for annotations and pictures in two folders, and for paths of the machine where they were made; of
        several it is the one whose folders are called so, too. A name is first looked for `beside` the file that holds
        it, where that is given. RecordError where there is none, or several remain.
        """
        for spelled in (name, name.replace("\\", "/")) if "\\" in name else (name,):
            place = os.path.join(beside or self.folder, spelled)
            if name and os.path.isfile(place) and self._holds(place):
                return Path(place)
        alike = [] if "://" in name else self._alike(name)
        if len(alike) == 1 and self._holds(alike[0]):
            return alike[0]
        try:
            return find_picture(name, self.folder)
        except RecordError as error:
            if len(alike) > 1:
                raise RecordError(
                    f"{error}; {len(alike)} files below it are called so, {alike[0]} and {alike[1]} among them"
                ) from None
            raise

    def _alike(self, name: str) -> list[Path]:
        """The files that are called so, those only whose path ends in most parts of the name's."""
        parts = name.replace("\\", "/").split("/")[::-1]
        shared = {path: _count_equal(parts, path.parts[::-1]) for path in self._names().get(parts[0], [])}
        most = max(shared.values(), default=0)
        return [path for path, count in shared.items() if count == most]

    def _holds(self, path: str | Path) -> bool:
        """Whether a file lies below the folder once links are followed."""
        return os.path.realpath(path).startswith(self._root)

    def find_first(self, names: Sequence[str], *, beside: Path | None = None) -> Path:
        """The picture of the first of these names that has one; RecordError for the first where none has."""
        failed: RecordError | None = None
        for name in names:
            try:
                return self.find(name, beside=beside)
            except RecordError as error:
                failed = failed or error
        raise failed or RecordError("no picture is named")

    def _names(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for path in _files_below(self.folder):
                self._by_name.setdefault(path.name, []).append(path)
        return self._by_name


def _count_equal(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many of the first ones are the same."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(parts, others, strict=False))))


def _files_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file, or a folder that may not be read
        return False


def read_id(value: object) -> str:
    """An id as text; empty where there is none."""
    return "" if value is None else str(value)


def keep_extra(values: Mapping[str, Any], own: Sequence[str] = RECORD_KEYS) -> dict[str, Any]:
    """What JSON can hold of other columns, for extra keys; one of the `own` keys gets the prefix `source_`."""
    named = {f"source_{key}" if key in own else key: value for key, value in values.items()}
    return {key: value for key, value in named.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
