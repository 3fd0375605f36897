"""A frame is a size that has been checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from groundling.errors import FrameError, GroundlingError
from groundling.geometry.frame import THOUSANDTHS, Frame, seen_frame


def test_width_comes_first() -> None:
    frame = Frame(640, 428)

    assert (frame.width, frame.height) == frame.size_wh == (640, 428)
    assert frame.area == 273_920
    assert str(frame) == "640x428"


def test_frames_are_values() -> None:
    assert Frame(640, 428) == Frame(width=640, height=428)
    assert Frame(640, 428) != Frame(428, 640)
    assert {Frame(1000, 1000), THOUSANDTHS} == {THOUSANDTHS}
    with pytest.raises(dataclasses.FrozenInstanceError):
        THOUSANDTHS.width = 1024  # type: ignore[misc]


@pytest.mark.parametrize("side", [0, -1, 1.0, 640.5, "640", None, True, float("nan"), np.int64(640)])
@pytest.mark.parametrize("name", ["width", "height"])
def test_a_side_is_an_int_of_at_least_1(name: str, side: object) -> None:
    with pytest.raises(FrameError, match=f"a frame's {name} is an int of at least 1, not ") as raised:
        Frame(**{"width": 10, "height": 10} | {name: side})  # type: ignore[arg-type]

    assert repr(side) in str(raised.value)
    assert isinstance(raised.value, GroundlingError)
    assert isinstance(raised.value, ValueError)


def test_the_seen_frame_is_read_from_the_grid() -> None:
    """30 rows and 46 columns of patches of 14 pixels: 420 high, 644 wide."""
    assert seen_frame([1, 30, 46], 14) == Frame(644, 420)
    assert seen_frame((1, 2, 2), 16) == Frame(32, 32)
