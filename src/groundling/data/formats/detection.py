"""What a detection format says about one picture: things with a label and a place, and the labels that were looked for.

Every reader of such a format hands over `Annotated` values in the numbers of its file. One function, `place_things`,
brings them into the picture's own upright pixels, and one, `data.questions.ask_about`, makes questions of them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.formats.found import keep_extra
from groundling.data.record import TARGET_KEYS, read_numbers
from groundling.errors import RecordError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import Header

FRACTIONS = Frame(1, 1)  # the units of numbers that are shares of the picture
PERCENT = Frame(100, 100)


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
    if len(thing.numbers) == 2:
        numbers = Points([thing.numbers], units).to(frame).turned(orientation).xy[0]
    else:
        numbers = Boxes([thing.numbers], units).to(frame).turned(orientation).xyxy[0]
    return replace(thing, numbers=tuple(_short(number) for number in numbers.tolist()))


def _short(number: float) -> float:
    """Without the noise of multiplying: 20.000000000000004 is 20, to a millionth of a pixel."""
    rounded = round(number, 6)
    return int(rounded) if rounded == int(rounded) else rounded
