"""Labelled things, placed in the pixels of a picture that may be stored turned."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.formats.detection import FRACTIONS, PERCENT, Annotated, Thing, place_things, read_thing
from groundling.errors import RecordError
from groundling.geometry.frame import Frame
from groundling.geometry.images import Header

UPRIGHT = Header(Frame(80, 100), orientation=1)
TURNED = Header(Frame(80, 100), orientation=6)  # stored 100x80, a quarter clockwise away from upright


def annotated(*things: Thing, size: Frame | None = None, units: Frame | None = None) -> Annotated:
    return Annotated(image=Path("a.jpg"), file=Path("a.json"), line=1, things=things, size=size, units=units)


def box(*numbers: float) -> Thing:
    return Thing("cup", numbers)


def placed(header: Header, *things: Thing, **known: Frame) -> list[tuple[float, ...]]:
    return [thing.numbers for thing in place_things(annotated(*things, **known), header).things]


# ---- one thing -------------------------------------------------------------------------------------------------


def test_corners_and_sides_make_the_same_box():
    assert read_thing("cup", [10, 20, 40, 60]) == Thing("cup", (10, 20, 40, 60))
    assert read_thing(" cup ", [10, 20, 30, 40], is_xywh=True) == Thing("cup", (10, 20, 40, 60))


def test_what_cannot_be_read_is_a_fault_and_no_error():
    assert read_thing("cup", [10, 20, math.nan, 40]).fault.startswith("the box is [10, 20, nan, 40]; expected 4 finite")
    assert read_thing("cup", None).fault.startswith("the box is None; expected 4 finite numbers")
    nameless = read_thing(None, [1, 2, 3, 4])
    assert (nameless.label, nameless.numbers, nameless.fault) == ("", (), "the label is None; expected a text")


def test_extra_keys_never_stand_in_for_the_things_own():
    thing = read_thing("cup", [1, 2, 3, 4], extra={"box": 7, "occluded": True, "mask": b"no JSON"})

    assert thing.extra == {"source_box": 7, "occluded": True}


@given(st.one_of(st.none(), st.text(), st.integers()), st.one_of(st.none(), st.text(), st.lists(st.floats())))
def test_a_thing_has_a_place_or_a_fault(label: object, values: object):
    thing = read_thing(label, values)

    assert bool(thing.numbers) != bool(thing.fault)


# ---- in the picture's own pixels -------------------------------------------------------------------------------


def test_pixels_of_an_upright_picture_stay_as_they_are():
    assert placed(UPRIGHT, box(10, 20, 30.5, 40), size=Frame(80, 100)) == [(10, 20, 30.5, 40)]
    assert placed(UPRIGHT, box(10, 20, 30, 40)) == [(10, 20, 30, 40)]


def test_shares_and_percent_become_pixels():
    assert placed(UPRIGHT, box(0.1, 0.2, 0.5, 1), units=FRACTIONS) == [(8, 20, 40, 100)]
    assert placed(UPRIGHT, box(10, 20, 50, 100), units=PERCENT) == [(8, 20, 40, 100)]
    assert placed(UPRIGHT, box(10, 20), units=PERCENT) == [(8, 20)], "a point"


def test_multiplying_leaves_no_noise():
    assert placed(UPRIGHT, box(0.1, 0.07, 0.7, 0.29), units=FRACTIONS) == [(8, 7, 56, 29)]


def test_the_declared_size_tells_that_boxes_were_drawn_before_the_picture_was_turned():
    """Stored 100x80, shown a quarter clockwise: x' = 80 - y, y' = x."""
    assert placed(TURNED, box(10, 20, 30, 60), size=Frame(100, 80)) == [(20, 10, 60, 30)]
    assert placed(TURNED, box(0.1, 0.25, 0.3, 0.75), size=Frame(100, 80), units=FRACTIONS) == [(20, 10, 60, 30)]
    assert placed(TURNED, box(10, 20), size=Frame(100, 80)) == [(60, 10)]


def test_the_declared_size_tells_that_boxes_were_drawn_upright():
    told = place_things(annotated(box(10, 20, 30, 60), size=Frame(80, 100)), TURNED)

    assert told.things[0].numbers == (10, 20, 30, 60)
    assert told.doubt is None


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (TURNED, None),
        (Header(Frame(80, 100), orientation=3), Frame(80, 100)),
        (Header(Frame(90, 90), orientation=6), Frame(90, 90)),
    ],
)
def test_where_nothing_tells_it_is_a_doubt(header: Header, size: Frame | None):
    found = place_things(annotated(box(10, 20, 30, 60), size=size), header)

    assert found.things[0].numbers == (10, 20, 30, 60), "taken for upright"
    assert found.doubt is not None and "turned by its metadata" in found.doubt


def test_pixels_of_another_size_are_refused_and_shares_of_it_are_not():
    with pytest.raises(RecordError, match="says that the picture is 40x50, and it is 80x100; its boxes count pixels"):
        placed(UPRIGHT, box(1, 2, 3, 4), size=Frame(40, 50))
    assert placed(UPRIGHT, box(0, 0, 0.5, 0.5), size=Frame(40, 50), units=FRACTIONS) == [(0, 0, 40, 50)]


def test_a_faulty_thing_passes_through():
    fault = read_thing("cup", None)

    assert place_things(annotated(fault, box(1, 2, 3, 4)), UPRIGHT).things == [fault, box(1, 2, 3, 4)]
