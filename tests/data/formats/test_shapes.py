from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.formats.shapes import box_around_ellipse, box_around_turned, read_shape, reduced
from groundling.errors import RecordError

sides = st.integers(1, 500)
degrees = st.floats(-720, 720)


def test_a_quarter_turn_about_a_corner_hangs_to_its_left():
    assert box_around_turned((100, 50, 140, 70), (100, 50), 90) == pytest.approx((80, 50, 100, 90))


def test_half_of_a_right_angle_needs_more_room():
    # a square of 20 about (50, 50): its half diagonal is 10 * sqrt(2)
    assert box_around_turned((40, 40, 60, 60), (50, 50), 45) == pytest.approx(
        (35.858, 35.858, 64.142, 64.142), abs=1e-3
    )


@given(sides, sides, degrees)
def test_a_turn_about_the_middle_keeps_the_middle_and_never_shrinks_both_sides(width: int, height: int, angle: float):
    left, top, right, bottom = box_around_turned((0, 0, width, height), (width / 2, height / 2), angle)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((width / 2, height / 2), abs=1e-6)
    assert (right - left) * (bottom - top) >= width * height - 1e-6


@given(sides, sides, degrees)
def test_an_ellipse_needs_no_more_room_than_the_rectangle_around_it(radius_x: int, radius_y: int, angle: float):
    inner = box_around_ellipse((0, 0), radius_x, radius_y, angle)
    outer = box_around_turned((-radius_x, -radius_y, radius_x, radius_y), (0, 0), angle)
    assert all(abs(a) <= abs(b) + 1e-6 for a, b in zip(inner, outer, strict=True))


def test_a_shape_is_reduced_only_when_asked_for():
    assert reduced((1, 2, 3, 4), "a polygon", reduce=True) == (1, 2, 3, 4)
    with pytest.raises(RecordError, match="a polygon is no upright box; with --reduce"):
        reduced((1, 2, 3, 4), "a polygon", reduce=False)


def test_a_thing_with_a_fault_keeps_its_label():
    def fail() -> tuple[float, ...]:
        raise RecordError("no place")

    thing = read_shape(" cat ", fail, {"colour": "red"})
    assert (thing.label, thing.numbers, thing.fault, thing.extra) == ("cat", (), "no place", {"colour": "red"})
    assert read_shape("cat", lambda: (1, 2), {}).numbers == (1, 2)
    assert read_shape(None, lambda: (1, 2), {}).fault == "the label is None; expected a text"
