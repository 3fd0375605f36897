"""Changes: boxes worked out on paper, and the pixels under them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundling.data.change import (
    GREY,
    MIRRORED_TURNS,
    TURNS,
    Change,
    Colour,
    Pasted,
    change_picture,
    change_targets,
    change_words,
    visible_shares,
)
from groundling.data.record import Target
from groundling.errors import ImageError
from groundling.geometry.frame import Frame

PHOTO = Frame(100, 60)
WHOLE = Pasted(Path("a.png"), PHOTO, turn=1, window=(0, 0, 100, 60), size=PHOTO, left=0, top=0)
MUG = Target(box=(10, 20, 30, 50), label="left mug hand")


def turned(turn: int) -> Pasted:
    size = PHOTO if turn < 5 else Frame(60, 100)
    return replace(WHOLE, turn=turn, window=(0, 0, *size.size_wh), size=size)


def box_of(pasted: Pasted, canvas: Frame, target: Target = MUG) -> tuple[float, ...]:
    (changed,) = change_targets([target], replace(pasted), canvas)
    return changed.numbers


# ---- by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "box"),
    [
        (1, (10, 20, 30, 50)),
        (2, (70, 20, 90, 50)),  # 100 - 30, 100 - 10
        (3, (70, 10, 90, 40)),
        (6, (10, 10, 40, 30)),  # clockwise: x from 60 - y
        (8, (20, 70, 50, 90)),  # counterclockwise: y from 100 - x
    ],
)
def test_turns_by_hand(turn: int, box: tuple[float, ...]) -> None:
    target = replace(MUG, label=None)
    assert box_of(turned(turn), turned(turn).size, target) == box


def test_a_crop_by_hand() -> None:
    kept = replace(WHOLE, window=(20, 10, 80, 60), size=Frame(60, 50))
    assert visible_shares([MUG], kept).tolist() == [0.5]
    assert box_of(kept, kept.size) == (0, 10, 10, 40)
    assert visible_shares([replace(MUG, box=(0, 0, 15, 60))], kept).tolist() == [0]
    assert change_targets([replace(MUG, box=(0, 0, 21, 60))], kept, kept.size) == [], "a twenty-first of it is gone"
    points = [Target(point=(20, 10)), Target(point=(19, 10)), Target(point=(80, 60)), Target(point=(50, 30))]
    assert visible_shares([points[0], MUG, *points[1:]], kept).tolist() == [1, 0.5, 0, 1, 1]
    assert [target.point for target in change_targets(points, kept, kept.size)] == [(0, 0), (60, 50), (30, 20)]


def test_a_smaller_picture_by_hand() -> None:
    half = replace(WHOLE, size=Frame(50, 30), left=40, top=5)
    assert box_of(half, PHOTO) == (45, 15, 55, 30)
    (point,) = change_targets([Target(point=(100, 60))], half, PHOTO)
    assert point.point == (90, 35)


def test_mirrored_cut_and_made_smaller_by_hand() -> None:
    """(70, 20, 90, 50) after the mirror, (20, 10, 40, 40) in the window, halved, and moved by (3, 4)."""
    pasted = replace(WHOLE, turn=2, window=(50, 10, 100, 50), size=Frame(25, 20), left=3, top=4)
    assert box_of(pasted, Frame(50, 40)) == (13, 9, 23, 24)


def test_a_box_that_leaves_its_picture_a_little_is_clipped_and_stays() -> None:
    target = Target(box=(99.5, 0, 100.5, 60))
    assert box_of(turned(2), PHOTO, target) == (0, 0, 0.5, 60)
    beyond = Target(box=(100.2, 0, 100.5, 60))
    assert box_of(WHOLE, PHOTO, beyond) == (100, 0, 100, 60), "as it is written without a change"
    kept = replace(WHOLE, window=(50, 0, 100, 60), size=Frame(50, 60))
    assert visible_shares([target, beyond], kept).tolist() == [1, 0]


def test_labels_and_questions_are_mirrored_with_the_picture() -> None:
    for turn in (*TURNS, *MIRRORED_TURNS):
        (target,) = change_targets([replace(MUG, label="left hand")], turned(turn), turned(turn).size)
        assert target.label == ("right hand" if turn in MIRRORED_TURNS else "left hand")
    assert change_words("the mug on the left", turned(2)) == "the mug on the right"
    with pytest.raises(AssertionError, match="'right now' cannot be mirrored"):
        change_words("right now", turned(2))


def test_a_change_knows_whether_it_moves_anything() -> None:
    still = Change((WHOLE,), PHOTO)
    assert still.is_still and still.or_none is None and still.stilled == still
    assert replace(still, jpeg=50).is_still and replace(still, jpeg=50).or_none is not None
    for pasted in (turned(2), turned(6), replace(WHOLE, window=(0, 0, 100, 59), size=Frame(100, 59))):
        change = Change((pasted,), pasted.size, jpeg=50)
        assert not change.is_still and change.stilled == replace(still, jpeg=50)
    assert not Change((WHOLE, WHOLE), PHOTO).is_still
    assert not Change((replace(WHOLE, size=Frame(50, 30)),), PHOTO).is_still


# ---- pixels ----------------------------------------------------------------------------------------------------


def noise(frame: Frame) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (frame.height, frame.width, 3), dtype=np.uint8))


def pixels_of(change: Change, picture: Image.Image) -> np.ndarray:
    return np.asarray(change_picture(change, lambda _: picture))


def test_pixels_are_moved_and_nothing_else() -> None:
    picture = noise(PHOTO)
    levels = np.asarray(picture)
    assert np.array_equal(pixels_of(Change((WHOLE,), PHOTO), picture), levels)
    assert np.array_equal(pixels_of(Change((turned(2),), PHOTO), picture), levels[:, ::-1])
    assert np.array_equal(pixels_of(Change((turned(6),), Frame(60, 100)), picture), np.rot90(levels, -1))
    assert np.array_equal(pixels_of(Change((turned(8),), Frame(60, 100)), picture), np.rot90(levels))
    kept = replace(WHOLE, window=(20, 10, 80, 60), size=Frame(60, 50))
    assert np.array_equal(pixels_of(Change((kept,), kept.size), picture), levels[10:60, 20:80])


def test_around_a_smaller_picture_it_is_grey() -> None:
    half = replace(WHOLE, size=Frame(50, 30), left=40, top=5)
    found = pixels_of(Change((half,), PHOTO), Image.new("RGB", PHOTO.size_wh, "red"))
    assert (found[5:35, 40:90] == (255, 0, 0)).all()
    assert ((found == GREY).all(axis=2).sum()) == 100 * 60 - 50 * 30


def test_colours_and_jpeg_leave_pixels_in_their_places() -> None:
    picture = Image.new("RGB", PHOTO.size_wh, (100, 100, 100))
    picture.paste((200, 40, 40), (10, 20, 30, 50))
    bright = pixels_of(Change((WHOLE,), PHOTO, colour=Colour(1.2, 1, 1)), picture)
    assert bright[0, 0].tolist() == [120, 120, 120] and bright[30, 20].tolist() == [240, 48, 48]
    grey = pixels_of(Change((WHOLE,), PHOTO, colour=Colour(1, 1, 0)), picture)
    assert len(set(grey[30, 20].tolist())) == 1
    coarse = pixels_of(Change((WHOLE,), PHOTO, jpeg=10), picture)
    assert coarse.shape == (60, 100, 3) and 0 < np.abs(coarse.astype(int) - np.asarray(picture)).mean() < 10


def test_a_picture_that_changed_on_disk_is_refused() -> None:
    with pytest.raises(ImageError, match=r"a\.png is 60x100, and was 100x60 when the training began"):
        pixels_of(Change((WHOLE,), PHOTO), noise(Frame(60, 100)))
