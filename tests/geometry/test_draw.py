"""Drawing: the line runs around the box's own pixels, in whatever frame the box came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from groundling.geometry.boxes import Boxes
from groundling.geometry.draw import Layer, draw_boxes
from groundling.geometry.frame import THOUSANDTHS, Frame

RED = (255, 0, 0)
WHITE = (255, 255, 255)


def blank(width: int = 100, height: int = 80) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def touched(image: Image.Image, start: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what was drawn."""
    return ImageChops.difference(image, start).getbbox()


def test_the_line_runs_just_outside_the_box() -> None:
    boxes = Boxes([[20, 30, 50, 60]], Frame(100, 80))
    drawn = draw_boxes(blank(), [Layer(boxes, "red")])
    assert touched(drawn, blank()) == (18, 28, 52, 62)  # two pixels around
    assert drawn.getpixel((19, 29)) == drawn.getpixel((50, 60)) == RED
    inside = drawn.crop((20, 30, 50, 60))
    assert touched(inside, blank(30, 30)) is None


def test_boxes_of_another_frame_are_brought_to_the_picture() -> None:
    here = Boxes([[20, 30, 50, 60]], Frame(100, 80))
    drawn = [
        draw_boxes(blank(), [(boxes, "red", [])]) for boxes in (here, here.to(Frame(28, 56)), here.to(THOUSANDTHS))
    ]
    assert drawn[0].tobytes() == drawn[1].tobytes() == drawn[2].tobytes()


def test_a_box_that_is_the_whole_picture_stays_visible() -> None:
    drawn = draw_boxes(blank(), [Layer(Boxes([[0, 0, 100, 80]], Frame(100, 80)), "red")])
    assert [drawn.getpixel(xy) for xy in ((0, 0), (99, 79), (50, 0), (0, 40))] == [RED] * 4
    assert drawn.getpixel((50, 40)) == WHITE


def test_lines_grow_with_the_picture() -> None:
    frame = Frame(2000, 1000)
    drawn = draw_boxes(blank(2000, 1000), [Layer(Boxes([[500, 400, 900, 600]], frame), "red")])
    assert touched(drawn, blank(2000, 1000)) == (495, 395, 905, 605)  # 2000 / 400


def test_the_last_layer_is_on_top_and_the_picture_untouched() -> None:
    photo, boxes = blank(), Boxes([[20, 30, 50, 60]], Frame(100, 80))
    drawn = draw_boxes(photo, [Layer(boxes, "red"), Layer(boxes, (0, 0, 255))])
    assert drawn.getpixel((19, 29)) == (0, 0, 255)
    assert touched(photo, blank()) is None


@pytest.mark.parametrize(("color", "ink"), [("yellow", (0, 0, 0)), ("navy", (255, 255, 255))])
def test_labels_can_be_read_on_any_color(color: str, ink: tuple[int, int, int]) -> None:
    boxes = Boxes([[20, 50, 80, 70]], Frame(100, 80))
    plain, labelled = (draw_boxes(blank(), [Layer(boxes, color, labels)]) for labels in ([], ["mug"]))
    area = touched(labelled, plain)
    assert area is not None
    assert area[3] <= 48  # above the box and its line
    letters = np.asarray(labelled.crop(area)).reshape(-1, 3).tolist()
    assert list(ink) in letters


def test_a_label_without_room_above_stands_inside() -> None:
    boxes = Boxes([[70, 0, 100, 40]], Frame(100, 80))
    plain, labelled = (draw_boxes(blank(), [Layer(boxes, "red", labels)]) for labels in ([None], ["a mug"]))
    left, top, right, bottom = touched(labelled, plain) or (0, 0, 0, 0)
    assert top >= 0 and bottom <= 40 and left >= 60 and right <= 100


def test_labels_must_match_their_boxes() -> None:
    with pytest.raises(AssertionError):
        draw_boxes(blank(), [Layer(Boxes([[1, 2, 3, 4]], Frame(100, 80)), "red", ["a", "b"])])


anywhere = st.floats(-1e12, 1e12, allow_nan=False)


@settings(deadline=None)
@given(box=st.tuples(anywhere, anywhere, anywhere, anywhere), label=st.none() | st.text(max_size=100))
def test_any_box_and_label_can_be_drawn(box: tuple[float, ...], label: str | None) -> None:
    drawn = draw_boxes(blank(), [Layer(Boxes([box], Frame(100, 80)), "#00ff00", [label])])
    assert drawn.size == (100, 80)
    assert not np.array_equal(np.asarray(drawn), np.asarray(blank()))
