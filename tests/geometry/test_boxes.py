"""Boxes and points: numbers worked out on paper, then what holds for all of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from groundling.errors import FrameError
from groundling.geometry.boxes import LARGEST, Boxes, Points, iou
from groundling.geometry.frame import THOUSANDTHS, Frame

PHOTO = Frame(1024, 681)
TEN = Frame(10, 10)

sides = st.integers(1, 5000)
frames = st.builds(Frame, sides, sides)
coordinates = st.floats(-1e4, 1e4, allow_subnormal=False)


def rows(columns: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(columns)), elements=coordinates)


# ---- to another frame ------------------------------------------------------------------------------------------


def test_the_right_half_stays_the_right_half() -> None:
    seen = Frame(532, 364)

    half = Boxes([[512, 0, 1024, 681]], PHOTO).to(seen)

    assert half.xyxy.tolist() == [[266, 0, 532, 364]]
    assert half.frame == seen


def test_the_vendors_box_in_three_frames() -> None:
    """146 / 640 = 0.228125, 137 / 428 = 0.320093, 615 / 640 = 0.960938, 415 / 428 = 0.969626."""
    box = Boxes([[146, 137, 615, 415]], Frame(640, 428))

    np.testing.assert_allclose(box.to(THOUSANDTHS).xyxy, [[228.125, 320.093, 960.938, 969.626]], atol=5e-4)
    np.testing.assert_allclose(box.to(Frame(644, 420)).xyxy, [[146.9125, 134.439, 618.844, 407.243]], atol=5e-4)


def test_a_point_moves_as_a_corner_does() -> None:
    assert Points([[512, 681]], PHOTO).to(THOUSANDTHS).xy.tolist() == [[500, 1000]]


@given(rows(4), frames, frames)
@settings(deadline=None)
def test_to_another_frame_and_back(xyxy: np.ndarray, there: Frame, here: Frame) -> None:
    boxes, points = Boxes(xyxy, here), Points(xyxy[:, :2], here)

    np.testing.assert_allclose(boxes.to(there).to(here).xyxy, xyxy, rtol=1e-12)
    np.testing.assert_allclose(points.to(there).to(here).xy, xyxy[:, :2], rtol=1e-12)
    np.testing.assert_allclose(boxes.to(there).xyxy[:, :2], points.to(there).xy, rtol=1e-12)


@given(frames, frames)
@settings(deadline=None)
def test_the_border_stays_on_the_border(here: Frame, there: Frame) -> None:
    whole = Boxes([[0, 0, *here.size_wh]], here).to(there)

    assert whole.xyxy.tolist() == [[0, 0, *there.size_wh]]
    assert Points([here.size_wh], here).to(there).xy.tolist() == [[*there.size_wh]]


@given(rows(4), frames)
@settings(deadline=None)
def test_to_the_same_frame_changes_nothing(xyxy: np.ndarray, frame: Frame) -> None:
    np.testing.assert_array_equal(Boxes(xyxy, frame).to(frame).xyxy, xyxy)


# ---- one set of boxes ------------------------------------------------------------------------------------------


def test_areas_and_centers() -> None:
    boxes = Boxes([[1, 2, 4, 8], [4, 8, 1, 2], [4, 2, 1, 8], [5, 5, 5, 9]], TEN)

    assert boxes.areas().tolist() == [18, 0, 0, 0]  # corners out of order in both, or in one direction: no area
    assert boxes.centers().xy.tolist() == [[2.5, 5], [2.5, 5], [2.5, 5], [5, 7]]
    assert boxes.centers().frame == TEN


def test_clipping() -> None:
    frame = Frame(100, 50)

    clipped = Boxes([[-5, 10, 105, 60], [120, -9, 130, -1], [1, 2, 3, 4]], frame).clip()

    assert clipped.xyxy.tolist() == [[0, 10, 100, 50], [100, 0, 100, 0], [1, 2, 3, 4]]
    assert clipped.areas().tolist() == [4000, 0, 4]
    assert Points([[-1, 70], [3, 4]], frame).clip().xy.tolist() == [[0, 50], [3, 4]]


@given(rows(4), frames)
@settings(deadline=None)
def test_what_is_clipped_lies_inside(xyxy: np.ndarray, frame: Frame) -> None:
    clipped = Boxes(xyxy, frame).clip()

    assert (clipped.xyxy >= 0).all()
    assert (clipped.xyxy <= [*frame.size_wh, *frame.size_wh]).all()
    np.testing.assert_array_equal(clipped.clip().xyxy, clipped.xyxy)


def test_picking_rows() -> None:
    boxes = Boxes([[1, 1, 2, 2], [3, 3, 4, 4], [5, 5, 6, 6]], TEN)

    assert len(boxes) == 3
    assert boxes[:1].xyxy.tolist() == [[1, 1, 2, 2]]
    assert boxes[[2, 0]].xyxy.tolist() == [[5, 5, 6, 6], [1, 1, 2, 2]]
    assert boxes[boxes.areas() > 5].xyxy.shape == (0, 4)
    assert boxes[[]].frame == TEN


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), np.array([])])
def test_no_boxes_are_boxes_too(nothing: np.ndarray) -> None:
    boxes = Boxes(nothing, PHOTO)

    assert boxes.xyxy.shape == boxes.to(TEN).xyxy.shape == boxes.clip().xyxy.shape == (0, 4)
    assert boxes.areas().shape == (0,)
    assert boxes.centers().xy.shape == Points([], PHOTO).xy.shape == (0, 2)
    assert iou(boxes, Boxes([[1, 2, 3, 4]], PHOTO)).shape == (0, 1)
    assert len(boxes) == len(Points([], PHOTO)) == 0


# ---- what is refused, what cannot change -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 3, 4], r"boxes are \(N, 4\): left, top, right, bottom, not an array of shape \(4,\)"),
        ([[1, 2, 3]], r"not an array of shape \(1, 3\)"),
        (np.zeros((5, 0)), r"not an array of shape \(5, 0\)"),
        (np.zeros((0, 2)), r"not an array of shape \(0, 2\)"),
        (np.zeros((1, 1, 4)), r"not an array of shape \(1, 1, 4\)"),
        (7, r"not an array of shape \(\)"),
        ([[0, 0, 1, 1], [1, 2, float("nan"), 4]], r"all finite .*; found \[1.0, 2.0, nan, 4.0\]"),
        ([[1, 2, float("inf"), 4]], "all finite"),
        ([[1, 2, None, 4]], "all finite"),
        ([[1, 2, 3, 2e100]], "at most 1e"),
        ([[1, 2, 3, 10**400]], "all numbers: "),
        ([[1, 2, 3, 4], [1, 2]], "all numbers: "),
        ([["left", 2, 3, 4]], "all numbers: "),
    ],
)
def test_what_is_no_box_is_refused(values: object, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        Boxes(values, PHOTO)  # type: ignore[arg-type]


def test_what_is_no_point_is_refused() -> None:
    with pytest.raises(FrameError, match=r"points are \(N, 2\): x, y, not an array of shape \(1, 4\)"):
        Points([[1, 2, 3, 4]], PHOTO)
    with pytest.raises(FrameError, match=r"points are \(N, 2\): x, y, all finite"):
        Points([[1, float("nan")]], PHOTO)


def test_boxes_cannot_be_changed() -> None:
    given_rows = np.array([[1.0, 2.0, 3.0, 4.0]])
    boxes, points = Boxes(given_rows, PHOTO), Points(given_rows[:, :2], PHOTO)

    with pytest.raises(ValueError, match="read-only"):
        boxes.xyxy[0, 0] = 9
    with pytest.raises(ValueError, match="read-only"):
        points.xy[0, 0] = 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        boxes.frame = TEN  # type: ignore[misc]

    given_rows[:] = 9  # the giver's array is not held
    assert boxes.xyxy.tolist() == [[1, 2, 3, 4]]


def test_they_show_what_they_hold() -> None:
    assert repr(Boxes([[1, 2, 3, 4]], PHOTO)) == "Boxes([[1.0, 2.0, 3.0, 4.0]], frame=1024x681)"
    assert repr(Points([[1, 2]], PHOTO)) == "Points([[1.0, 2.0]], frame=1024x681)"


# ---- intersection over union -----------------------------------------------------------------------------------


def test_iou_by_hand() -> None:
    """A 4x4 box and: itself; one shifted by 2 (8 of 24); its quarter (4 of 16); a neighbour; one without area."""
    square = Boxes([[0, 0, 4, 4]], TEN)
    others = Boxes([[0, 0, 4, 4], [2, 0, 6, 4], [0, 0, 2, 2], [4, 0, 8, 4], [2, 2, 2, 4]], TEN)

    np.testing.assert_allclose(iou(square, others), [[1, 1 / 3, 1 / 4, 0, 0]])


def test_iou_has_a_row_for_each_of_the_first_and_a_column_for_each_of_the_second() -> None:
    a = Boxes([[0, 0, 1, 1], [0, 0, 2, 2]], TEN)
    b = Boxes([[0, 0, 2, 2], [0, 0, 1, 1], [5, 5, 6, 6]], TEN)

    assert iou(a, b).tolist() == [[0.25, 1, 0], [1, 0.25, 0]]


def test_boxes_without_area_overlap_nothing_not_even_themselves() -> None:
    flat = Boxes([[3, 3, 3, 9], [6, 6, 2, 2]], TEN)

    assert iou(flat, flat).tolist() == [[0, 0], [0, 0]]


def test_two_frames_are_never_mixed() -> None:
    box = Boxes([[0, 0, 4, 4]], Frame(1036, 672))

    with pytest.raises(FrameError, match=r"two frames, 1036x672 and 1024x681; bring them to one with \.to\(frame\)"):
        iou(box, box.to(PHOTO))


def test_the_largest_boxes_still_have_a_number() -> None:
    huge = Boxes([[-LARGEST, -LARGEST, LARGEST, LARGEST]], TEN)

    assert iou(huge, huge).tolist() == [[1]]


@given(rows(4), rows(4), frames)
@settings(deadline=None)
def test_iou_is_a_share_and_symmetric(a_rows: np.ndarray, b_rows: np.ndarray, frame: Frame) -> None:
    a, b = Boxes(a_rows, frame), Boxes(b_rows, frame)

    overlaps = iou(a, b)

    assert overlaps.shape == (len(a), len(b))
    assert ((overlaps >= 0) & (overlaps <= 1)).all()
    np.testing.assert_array_equal(overlaps, iou(b, a).T)


whole_rows = hnp.arrays(np.int64, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(-50, 5000))


@given(whole_rows, whole_rows, frames, frames)
@settings(deadline=None)
def test_stretching_the_picture_changes_no_iou(
    a_rows: np.ndarray, b_rows: np.ndarray, here: Frame, there: Frame
) -> None:
    a, b = Boxes(a_rows, here), Boxes(b_rows, here)

    np.testing.assert_allclose(iou(a.to(there), b.to(there)), iou(a, b), atol=1e-9)


# ---- turned, mirrored, cut out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "expected", "frame"),
    [
        (1, [2, 1, 5, 3], Frame(10, 8)),
        (2, [5, 1, 8, 3], Frame(10, 8)),
        (3, [5, 5, 8, 7], Frame(10, 8)),
        (4, [2, 5, 5, 7], Frame(10, 8)),
        (5, [1, 2, 3, 5], Frame(8, 10)),
        (6, [5, 2, 7, 5], Frame(8, 10)),
        (7, [5, 5, 7, 8], Frame(8, 10)),
        (8, [1, 5, 3, 8], Frame(8, 10)),
    ],
)
def test_a_box_turns_with_its_picture(orientation: int, expected: list[int], frame: Frame) -> None:
    """[2, 1, 5, 3] of a 10x8 picture, worked out on squared paper."""
    turned = Boxes([[2, 1, 5, 3]], Frame(10, 8)).turned(orientation)

    assert turned.xyxy.tolist() == [expected]
    assert turned.frame == frame


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_to_where_pillow_turns_the_pixels(orientation: int) -> None:
    stored = Image.new("L", (10, 8))
    stored.paste(255, (2, 1, 5, 3))
    stored.getexif()[0x0112] = orientation

    upright = ImageOps.exif_transpose(stored)

    assert Boxes([[2, 1, 5, 3]], Frame(10, 8)).turned(orientation).xyxy.tolist() == [list(upright.getbbox() or ())]


@given(rows(4), frames, st.integers(1, 8))
@settings(deadline=None)
def test_corners_turn_as_points_do_and_back(xyxy: np.ndarray, frame: Frame, orientation: int) -> None:
    boxes, back = Boxes(xyxy, frame), {6: 8, 8: 6}.get(orientation, orientation)

    centers = boxes.centers().turned(orientation)

    np.testing.assert_allclose(boxes.turned(orientation).centers().xy, centers.xy, atol=1e-9)
    np.testing.assert_allclose(boxes.turned(orientation).turned(back).xyxy, xyxy, atol=1e-9)
    np.testing.assert_allclose(boxes.turned(orientation).areas(), boxes.areas(), rtol=1e-6, atol=1e-6)


def test_no_other_turns() -> None:
    with pytest.raises(FrameError, match="an orientation is 1 to 8, as in EXIF, not 9"):
        Points([], TEN).turned(9)


def test_a_cut_shifts_its_boxes_and_a_canvas_shifts_them_back() -> None:
    cut = Boxes([[4, 3, 6, 9]], TEN).onto(Frame(5, 7), -2, -3)

    assert cut.xyxy.tolist() == [[2, 0, 4, 6]]
    assert cut.frame == Frame(5, 7)
    assert cut.onto(TEN, 2, 3).xyxy.tolist() == [[4, 3, 6, 9]]
    assert Points([[4, 3]], TEN).onto(Frame(20, 20), 10, 5).xy.tolist() == [[14, 8]]
