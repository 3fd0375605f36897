"""What a detection format says about one picture: things with a label and a place, and the labels that were looked for.

Every reader of such a format hands over `Annotated` values in the numbers of its file. One function, `place_things`,
brings them into the picture's own upright pixels, and one, `data.questions.ask_about`, makes questions of them.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.formats.found import keep_extra
from groundling.data.record import TARGET_KEYS, is_number, read_numbers
from groundling.errors import RecordError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import Header

FRACTIONS = Frame(1, 1)  # the units of numbers that are shares of the picture
PERCENT = Frame(100, 100)

NO_THINGS = ("_background_", "__background__", "__ignore__")
"""Labels that labelme and the scripts around it give to what is no thing."""


@dataclass(frozen=True)
class Thing:
    """One annotated thing: the four numbers of a box (left, top, right, bottom), or the two of a point.

    A thing whose place cannot be used has none, and `fault` says why: its label is then not asked about, because the
    answer would leave it out.
    """

    label: str
    numbers: tuple[float, ...] = ()
    fault: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotated:
    """One picture as a detection format describes it."""

    image: bytes | Path  # the file's own bytes, or where it lies
    file: Path  # where it was read
    line: int  # from 1: line of a text file, entry of a list
    things: Sequence[Thing]
    size: Frame | None = None  # of the picture, as the file declares it
    units: Frame | None = None  # what the numbers count; None: pixels of the picture
    looked_for: Sequence[str] | None = None  # labels known to be absent where no thing has them; None: all that occur
    image_name: str = ""
    id: str = ""
    question: str = ""  # that the file itself asks, with all the things for an answer; empty: labels are asked about
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_thing(
    label: object, values: object, *, is_xywh: bool = False, extra: Mapping[str, Any] | None = None
) -> Thing:
    """A thing from a file's label and its four numbers: left, top, right, bottom, or with `is_xywh` width and height.

    What is no text and four finite numbers makes a thing with a fault, never an error. Keys of `extra` that JSON cannot
    hold are left out.
    """
    kept = keep_extra(extra or {}, TARGET_KEYS)
    if not isinstance(label, str) or not label.strip():
        return Thing("", fault=f"the label is {reprlib.repr(label)}; expected a text", extra=kept)
    try:
        left, top, right, bottom = read_numbers(values, 4, "box")
    except RecordError as error:
        return Thing(label.strip(), fault=str(error), extra=kept)
    numbers = (left, top, left + right, top + bottom) if is_xywh else (left, top, right, bottom)
    return Thing(label.strip(), numbers, extra=kept)


def read_point(label: object, values: object, *, extra: Mapping[str, Any] | None = None) -> Thing:
    """A thing from a file's label and the two numbers of a point; as `read_thing`."""
    thing = read_thing(label, (0, 0, 0, 0), extra=extra)
    try:
        return thing if thing.fault else replace(thing, numbers=read_numbers(values, 2, "point"))
    except RecordError as error:
        return replace(thing, numbers=(), fault=str(error))


def read_shape(label: object, points: object, *, extra: Mapping[str, Any] | None = None) -> Thing:
    """A thing from a file's label and at least two corners (x, y): the upright box around them; as `read_thing`."""
    corners = points if isinstance(points, list | tuple) else [points]
    try:
        if len(corners) < 2:
            raise RecordError(f"the corners are {reprlib.repr(points)}; expected two or more of x, y")
        xs, ys = zip(*(read_numbers(corner, 2, "corner") for corner in corners), strict=True)
    except RecordError as error:
        return replace(read_thing(label, (0, 0, 0, 0), extra=extra), numbers=(), fault=str(error))
    return read_thing(label, (min(xs), min(ys), max(xs), max(ys)), extra=extra)


def from_centre(values: Any) -> Any:
    """Left, top, right, bottom of a box given as its centre x, y, its width and height; no numbers stay as they are."""
    try:
        x, y, width, height = read_numbers(values, 4, "box")
    except RecordError:
        return values
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


def as_number(text: str) -> float | str:
    """The number that a text is, an int where it is whole; the text itself where it is none."""
    if len(text) > 100 or not _NUMBER.fullmatch(text.strip()):
        return text
    number = float(text)
    return int(number) if number.is_integer() else number


def read_size(width: Any, height: Any) -> Frame | None:
    """A declared size; None where it is left out or 0, as tools write that never saw the picture. RecordError else."""
    sides = (width, height)
    if all(side in (None, "", 0) for side in sides):
        return None
    if not all(is_number(side) and side == int(side) and side > 0 for side in sides):
        raise RecordError(
            f"the declared size is {reprlib.repr(list(sides))}; expected width and height in whole pixels"
        )
    return Frame(*(int(side) for side in sides))


class Placed(NamedTuple):
    """Things in the picture's own upright pixels."""

    things: list[Thing]
    doubt: str | None  # why they may not lie where they seem to; None: nothing speaks against it


def place_things(annotated: Annotated, header: Header) -> Placed:
    """The things in original upright pixels.

    Where the picture's metadata turn it, the declared size tells whether the numbers count stored or upright pixels;
    where it cannot (sides not swapped, a square, no size, shares of a picture), they are taken for upright ones and
    that is a doubt. RecordError where pixels of a picture of another size are counted.
    """
    upright, stored, declared = header.upright, header.stored, annotated.size
    counts_pixels = annotated.units is None
    if counts_pixels and declared not in (None, upright, stored):
        raise RecordError(
            f"the file says that the picture is {declared}, and it is {upright}; its boxes count pixels of {declared}. "
            "Bring the picture that they were drawn on, or correct the size if only that is wrong"
        )
    is_stored = declared == stored != upright
    before = stored if is_stored else upright
    orientation = header.orientation if is_stored else 1
    things = [_place(thing, annotated.units or before, before, orientation) for thing in annotated.things]
    is_told = stored != upright and declared in (upright, stored)
    return Placed(things, None if is_told else turn_doubt(header))


def turn_doubt(header: Header) -> str | None:
    """Why boxes of unknown origin may lie elsewhere on this picture; None where it is stored upright."""
    if header.orientation == 1:
        return None
    return (
        f"the picture is turned by its metadata (orientation {header.orientation}), and nothing tells whether its "
        "boxes were drawn before or after; they are taken as drawn after"
    )


def _place(thing: Thing, units: Frame, frame: Frame, orientation: int) -> Thing:
    """The thing's numbers from `units` to the pixels of `frame`, then turned with the picture."""
    if not thing.numbers:
        return thing
    numbers = list(thing.numbers)
    if units != frame or orientation != 1:  # nearly all stay where they are, and are many
        here = (Points if len(numbers) == 2 else Boxes)([numbers], units)
        numbers = _numbers_of(here.to(frame).turned(orientation))
    short = tuple(_short(number) for number in numbers)
    if not all(is_number(number) for number in short):
        return replace(thing, numbers=(), fault=f"the place is {list(short)}, beyond any picture")
    return replace(thing, numbers=short)


def _numbers_of(place: Boxes | Points) -> list[float]:
    return (place.xy if isinstance(place, Points) else place.xyxy)[0].tolist()


def _short(number: float) -> float:
    """Without the noise of multiplying: 20.000000000000004 is 20, to a millionth of a pixel."""
    rounded = round(number, 6)
    return int(rounded) if rounded == int(rounded) else rounded
