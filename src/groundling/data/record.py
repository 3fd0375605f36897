"""A record: one question about one picture, and where the answer lies in the picture's own upright pixels.

A record file is JSONL in UTF-8, one record a line (made by hand):

    {"id": "7", "image": "images/7.jpg", "width": 1024, "height": 681, "question": "the ghost",
     "targets": [{"label": "ghost", "box": [460, 635, 513, 669]}]}

`box` is left, top, right, bottom, half-open; `point: [x, y]` may stand in its place; `targets: []` means that the right
answer is an empty list. `image` is relative to the file and stays below its folder. A record with `answer`, a text, in
place of `targets` is general instruction data: it is trained on as it stands, and may do without a picture.
Keys that groundling does not know survive a round trip.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from groundling.errors import RecordError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

RECORD_KEYS = ("id", "image", "width", "height", "question", "targets", "answer")
TARGET_KEYS = ("label", "box", "point")


@dataclass(frozen=True)
class Target:
    """One place to find: a `box` (left, top, right, bottom) or a `point` (x, y), in original upright pixels.

    RecordError where it is neither or both, or not so many finite numbers; whether they fit the picture is for `check`.
    """

    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    label: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # a dict has no hash

    def __post_init__(self) -> None:
        if (self.box is None) == (self.point is None):
            raise RecordError(f"expected either a 'box' or a 'point', not {'neither' if self.box is None else 'both'}")
        if self.box is not None:
            object.__setattr__(self, "box", read_numbers(self.box, 4, "box"))
        else:
            object.__setattr__(self, "point", read_numbers(self.point, 2, "point"))

    @property
    def numbers(self) -> tuple[float, ...]:
        """The four numbers of the box, or the two of the point."""
        return self.box or self.point or ()


@dataclass(frozen=True)
class Record:
    """One question about one picture. `width` and `height` are the picture's upright size, where the file declares it.

    Two records are equal when they say the same, wherever they were read. RecordError for both targets and an answer.
    `image` is None where the picture is not a file (drawn while training), or where an answer needs none.
    """

    question: str
    image: Path | None
    targets: tuple[Target, ...] = ()
    id: str = ""
    width: int | None = None
    height: int | None = None
    answer: str | None = None  # general instruction data: this text, no targets
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: Path | None = field(default=None, compare=False)  # where it was read
    line: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.answer is not None and self.targets:
            raise RecordError("both 'targets' and 'answer'; a record has one of them")

    @property
    def declared(self) -> Frame | None:
        """The picture's size as the file says; None where it does not."""
        return Frame(self.width, self.height) if self.width and self.height else None

    @property
    def is_negative(self) -> bool:
        """Whether the right answer is that there is nothing to find."""
        return self.answer is None and not self.targets

    @property
    def place(self) -> str:
        """`file:line` for messages; the id where it came from no file."""
        return f"{self.file}:{self.line}" if self.file else f"record {self.id!r}"

    def true_boxes(self, original: Frame) -> Boxes:
        """The targets that are boxes, in the picture's own frame."""
        return Boxes([target.box for target in self.targets if target.box is not None], original)

    def true_points(self, original: Frame) -> Points:
        """The targets that are points, likewise."""
        return Points([target.point for target in self.targets if target.point is not None], original)


class Rejected(NamedTuple):
    """A line, a picture or a record that was set aside."""

    file: str
    line: int | None
    reason: str


class Scan(NamedTuple):
    """All that a record file holds: what can be used, and what cannot with the reason."""

    records: Sequence[Record]
    rejected: list[Rejected]


# ---- reading ---------------------------------------------------------------------------------------------------


def read_records(path: str | Path, *, allow_absolute: bool = False) -> list[Record]:
    """The records of a file, in order. RecordError names the lines that cannot be read.

    `scan_records` passes over those. Pictures are not opened and boxes not judged here: that is `check`.
    """
    scan = scan_records(path, allow_absolute=allow_absolute)
    if scan.rejected:
        shown = "\n".join(f"  {bad.file}:{bad.line}: {bad.reason}" for bad in scan.rejected[:10])
        more = f"\n  and {len(scan.rejected) - 10} more" if len(scan.rejected) > 10 else ""
        raise RecordError(f"{len(scan.rejected)} lines of {path} are no records:\n{shown}{more}")
    return list(scan.records)


def scan_records(path: str | Path, *, allow_absolute: bool = False) -> Scan:
    """Every line of a file, as a record or as a rejected line. RecordError only where there is no such file."""
    file = Path(path)
    if not file.is_file():
        raise RecordError(f"no record file {file}; `groundling convert` makes one")
    records: list[Record] = []
    rejected: list[Rejected] = []
    folder = Path(os.path.realpath(file.parent))  # once: following links takes most of the time of a line
    for line, raw in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            records.append(_read_line(raw, file, line, folder, allow_absolute))
        except RecordError as error:
            rejected.append(Rejected(str(file), line, str(error)))
    return Scan(records, rejected)


def parse_json(raw: bytes | str) -> Any:
    """JSON as the standard has it: RecordError for NaN, 1e999, a repeated key, nesting too deep, or no JSON at all."""
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_refuse_repeats
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair could never be written again
    except RecordError:
        raise
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8: {error}") from None
    except RecursionError:
        raise RecordError("nested too deeply to be read") from None
    except ValueError as error:  # JSONDecodeError, half of a pair, or an integer of more digits than Python reads
        raise RecordError(f"not JSON: {error}") from None
    return value


@dataclass(frozen=True, repr=False)
class Unreadable:
    """Stands in a document from `parse_document` for a value that is no JSON."""

    reason: str

    def __repr__(self) -> str:
        return self.reason


def parse_document(raw: bytes) -> Any:
    """JSON of many entries: what `parse_json` refuses inside it does no harm there, and the rest is read.

    NaN, a number of too many digits and an object with a repeated key are `Unreadable` in their place; 1e999 is an
    infinity, which is no number for `is_number` either; what is nested deeper than any format has is None. RecordError
    where the whole is not UTF-8 or not JSON.
    """
    try:
        text = raw.decode("utf-8-sig")
        try:
            value = _parse_leniently(text, int)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError):  # the second for an integer of more digits than Python reads
            value = _parse_leniently(_cut_depth(text), _or_unreadable(_read_int))
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8: {error}; save it so") from None
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from None
    if isinstance(value, Unreadable):
        raise RecordError(value.reason)
    return value


def _parse_leniently(text: str, parse_int: Callable[[str], Any]) -> Any:
    return json.loads(
        text,
        parse_constant=_or_unreadable(_refuse_constant),
        parse_int=parse_int,
        object_pairs_hook=_or_unreadable(_refuse_repeats),
    )


def _or_unreadable(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse_or_mark(value: Any) -> Any:
        try:
            return parse(value)
        except RecordError as error:
            return Unreadable(str(error))

    return parse_or_mark


_MAX_DEPTH = 64  # of a document's brackets; the deepest known format has 8
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _cut_depth(text: str) -> str:
    """The text with null for whatever lies deeper than `_MAX_DEPTH` brackets."""
    kept: list[str] = []
    depth = end = 0
    for match in _BRACKETS.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            if depth == _MAX_DEPTH + 1:
                kept += [text[end : match.start()], "null"]
        elif mark in "]}":
            if depth == _MAX_DEPTH + 1:
                end = match.end()
            depth -= 1
    return "".join([*kept, text[end:] if depth <= _MAX_DEPTH else ""])


def _read_int(digits: str) -> int:
    if len(digits) > 400:  # no float holds it
        raise RecordError(f"the number {digits[:20]} is too large")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise RecordError(f"{name} is no JSON number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if abs(number) == float("inf"):
        raise RecordError(f"the number {digits[:20]} is too large")
    return number


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise RecordError(f"the key {reprlib.repr(repeated)} is given twice")
    return found


def _read_line(raw: bytes, file: Path, line: int, folder: Path, allow_absolute: bool) -> Record:
    value = parse_json(raw)
    image = _optional(value, "image", str, "a path") if isinstance(value, dict) else None
    return read_record(value, None if image is None else _place_image(image, file, folder, allow_absolute), file, line)


def read_record(value: Any, image: Path | None, file: Path, line: int) -> Record:
    """The record that the object of a line tells, about the picture `image`. RecordError for what is no record."""
    if not isinstance(value, dict):
        raise RecordError(f"a record is a JSON object, not {reprlib.repr(value)}")
    answer = _optional(value, "answer", str, "a text")
    if answer is None and "targets" not in value:
        raise RecordError("no 'targets'; an empty list says that there is nothing to find")
    if answer is not None and "targets" in value:
        raise RecordError("both 'targets' and 'answer'; a record has one of them")
    if image is None and answer is None:
        raise RecordError("no 'image'; only a record with an 'answer' text can do without")
    return Record(
        question=_required(value, "question", str, "a text"),
        image=image,
        targets=tuple(_read_target(target, number) for number, target in enumerate(_target_list(value))),
        id=_read_id(value, line),
        width=read_side(value, "width"),
        height=read_side(value, "height"),
        answer=answer,
        extra={key: value[key] for key in value if key not in RECORD_KEYS},
        file=file,
        line=line,
    )


def _read_id(value: dict[str, Any], line: int) -> str:
    found = value.get("id")
    if found is None or found == "":
        return str(line)
    if not isinstance(found, str) and not is_number(found):
        raise RecordError(f"'id' is {reprlib.repr(found)}; expected a text or a number")
    return str(found)


def _target_list(value: dict[str, Any]) -> list[Any]:
    targets = value.get("targets", [])
    if not isinstance(targets, list):
        raise RecordError(f"'targets' is {reprlib.repr(targets)}; expected a list")
    return targets


def _read_target(value: Any, number: int) -> Target:
    if not isinstance(value, dict):
        raise RecordError(f"target {number} is {reprlib.repr(value)}; expected an object with a 'box' or a 'point'")
    try:
        return Target(
            box=value.get("box"),
            point=value.get("point"),
            label=_optional(value, "label", str, "a text"),
            extra={key: value[key] for key in value if key not in TARGET_KEYS},
        )
    except RecordError as error:
        raise RecordError(f"target {number}: {error}") from None


def read_numbers(values: Any, count: int, what: str) -> tuple[float, ...]:
    """`count` finite numbers as given, ints staying ints; RecordError names what was found instead."""
    is_row = isinstance(values, list | tuple) and len(values) == count
    if not is_row or not all(is_number(value) for value in values):
        raise RecordError(f"the {what} is {reprlib.repr(values)}; expected {count} finite numbers (below 1e15)")
    return tuple(values)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number (a bool is not), and small enough that a float counts its units."""
    kind = type(value)  # to build `int | float` takes longer than all the rest, and there are many numbers
    is_one = kind is int or kind is float or (isinstance(value, (int, float)) and kind is not bool)
    return is_one and abs(value) < 1e15


def _required(value: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    if not isinstance(value.get(key), kind):
        raise RecordError(f"{key!r} is {reprlib.repr(value.get(key))}; expected {expected}")
    return value[key]


def _optional(value: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    return None if value.get(key) is None else _required(value, key, kind, expected)


def read_side(value: Mapping[str, Any], key: str) -> int | None:
    """A side of a picture in whole pixels, None where the key is not there; RecordError for anything else."""
    side = value.get(key)
    if side is not None and (not is_number(side) or side != int(side) or side < 1):
        raise RecordError(f"{key!r} is {reprlib.repr(side)}; expected a whole number of pixels")
    return None if side is None else int(side)


def _place_image(image: str, file: Path, folder: Path, allow_absolute: bool) -> Path:
    """Where a record's picture lies; RecordError where that, links followed, is outside the tree of the file's folder.

    `folder` is that of the file, links followed.
    """
    if not image:
        raise RecordError("'image' is empty; expected a path")
    is_absolute = Path(image).is_absolute()
    if is_absolute and not allow_absolute:
        raise RecordError(f"'image' is the absolute path {image[:200]!r}; allow such with --allow-absolute")
    path = file.parent / image
    try:
        real = Path(os.path.realpath(path))
    except ValueError:  # a NUL, or half of a surrogate pair
        raise RecordError(f"'image' is {image[:200]!r}; expected a path that a file can have") from None
    if not is_absolute and not real.is_relative_to(folder):
        raise RecordError(
            f"'image' {image[:200]!r} leads out of the folder of its record file; move the picture below it"
        )
    return path


# ---- writing ---------------------------------------------------------------------------------------------------


def write_records(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSONL, each picture's path relative to the file (absolute where it lies elsewhere).

    RecordError, before anything is written, for an extra that JSON cannot hold.
    """
    file = Path(path)
    lines = [_line_of(record, file.parent) for record in records]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(lines))


def _line_of(record: Record, folder: Path) -> bytes:
    try:
        text = json.dumps(record_to_json(record, folder), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except (TypeError, ValueError) as error:  # a Path or an array, NaN, half of a surrogate pair
        raise RecordError(f"{record.place} cannot be written as JSON: {error}") from None


def record_to_json(record: Record, folder: Path) -> dict[str, Any]:
    """The object of one line of a record file in `folder`."""
    value: dict[str, Any] = {"id": record.id} if record.id else {}
    if record.image is not None:
        value["image"] = _relative(record.image, folder)
    value |= {key: side for key, side in (("width", record.width), ("height", record.height)) if side is not None}
    value["question"] = record.question
    if record.answer is None:
        value["targets"] = [_target_to_json(target) for target in record.targets]
    else:
        value["answer"] = record.answer
    return value | dict(record.extra)


def _target_to_json(target: Target) -> dict[str, Any]:
    label = {} if target.label is None else {"label": target.label}
    place = {"box": list(target.box)} if target.box is not None else {"point": list(target.point or ())}
    return label | place | dict(target.extra)


def _relative(image: Path, folder: Path) -> str:
    whole, base = os.path.abspath(image), os.path.join(os.path.abspath(folder), "")  # links stay as they are
    return whole[len(base) :].replace(os.sep, "/") if whole.startswith(base) else whole
