"""Boxes judged one by one and file by file: numbers worked out by hand, then properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.findings import CODES
from groundling.data.judge import Case, box_fault, find_misread_boxes, fits_as_xywh, judge_boxes, twin_targets
from groundling.data.record import Record, Target
from groundling.geometry.frame import Frame

# ---- numbers by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ((0, 0, 400, 300), None),
        ((0, 0, 404, 303), "clipped"),  # 1 % of 400 and of 300
        ((0, 0, 404.5, 300), "outside"),
        ((-4.5, 0, 10, 10), "outside"),
        ((400, 0, 403, 10), "outside"),  # nothing of it is in the picture
        ((0, 0, 1, 1), None),
        ((0.5, 0.5, 1, 1), "looks_normalized"),
        ((100, 100, 50, 50), "looks_like_xywh"),
        ((380, 100, 370, 110), "inverted"),  # as x, y, width, height it would end at 750
        ((390, 200, 500, 310), "outside"),
    ],
)
def test_what_is_wrong_with_a_box(box: tuple[float, float, float, float], code: str | None) -> None:
    assert box_fault(box, Frame(400, 300)) == code


def test_one_pixel_is_forgiven_in_a_small_picture() -> None:
    assert box_fault((0, 0, 31, 20), Frame(30, 20)) == "clipped"
    assert box_fault((0, 0, 31.1, 20), Frame(30, 20)) == "outside"


# ---- all boxes of a file ---------------------------------------------------------------------------------------


def cases_of(boxes: np.ndarray, sides_wh: np.ndarray) -> list[Case]:
    """A record for each box (N, 4) in a picture of that size (N, 2)."""
    cases: list[Case] = []
    for line, (box, (width, height)) in enumerate(zip(boxes.tolist(), sides_wh.tolist(), strict=True), start=1):
        record = Record("?", Path("a.jpg"), (Target(box=tuple(box)),), str(line), width, height, line=line)
        cases.append(Case.of(record, None))
    return cases


def proven(boxes: np.ndarray, sides_wh: np.ndarray) -> str | None:
    """The code that the boxes of one file prove."""
    proofs = judge_boxes(cases_of(boxes, sides_wh)).proofs
    return proofs[None].code if proofs else None


def spread_boxes(rng: np.random.Generator, frames_wh: np.ndarray, touching: float = 0.2) -> np.ndarray:
    """Whole-pixel boxes all over the frames (N, 2), a share of them cut off by the borders as things in photos are."""
    centers = rng.random(frames_wh.shape) * frames_wh
    sides = rng.uniform(0.05, 0.4, frames_wh.shape) * frames_wh
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    clipped = np.clip(boxes, 0, np.tile(frames_wh, 2)).round()
    return clipped[(clipped[:, 2:] > clipped[:, :2]).all(axis=1)]


def photo_sizes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Sizes as photographs have them, from thumbnails to 12 megapixels."""
    common = np.array([(640, 480), (480, 640), (1024, 683), (1200, 800), (1920, 1080), (4000, 3000), (500, 375)])
    return common[rng.integers(len(common), size=count)]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_in_pixels_prove_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = photo_sizes(rng, 500)
    assert proven(spread_boxes(rng, sizes)[:500], sizes[:500]) is None
    for width, height in ((1000, 1000), (1100, 1050), (1920, 1080), (300, 200)):
        same = np.tile([(width, height)], (300, 1))
        boxes = spread_boxes(rng, same)
        assert proven(boxes, same[: len(boxes)]) is None


@pytest.mark.parametrize("size", [(2000, 1500), (640, 480), (1100, 1100)])
def test_thousandths_are_proven_in_small_pictures_and_in_large_ones(size: tuple[int, int]) -> None:
    boxes = spread_boxes(np.random.default_rng(0), np.tile([(1000, 1000)], (200, 1)))
    assert proven(boxes, np.tile([size], (len(boxes), 1))) == "looks_thousandths"


def test_thousandths_cannot_be_told_in_pictures_of_a_thousand_pixels() -> None:
    boxes = spread_boxes(np.random.default_rng(0), np.tile([(1000, 1000)], (200, 1)))
    assert proven(boxes, np.tile([(1020, 980)], (len(boxes), 1))) in (None, "looks_resized")
    assert proven(boxes, np.tile([(1000, 1000)], (len(boxes), 1))) is None


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (lambda sizes: 448 / sizes.max(axis=1), "a longer side of 448"),
        (lambda sizes: 224 / sizes.min(axis=1), "a shorter side of 224"),
        (lambda sizes: (250_000 / sizes.prod(axis=1)) ** 0.5, "a square root of the area of 500"),
    ],
)
def test_resized_pixels_are_proven_and_by_what(length: object, words: str) -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([(1024, 683), (1200, 800), (1920, 1080), (1500, 2000)])[rng.integers(4, size=300)]
    shrunk = (sizes * length(sizes)[:, None]).round().astype(int)  # type: ignore[operator]
    centers = rng.random((300, 2)) * shrunk
    sides = rng.uniform(0.05, 0.4, (300, 2)) * shrunk
    boxes = np.clip(np.concatenate([centers - sides / 2, centers + sides / 2], axis=1), 0, np.tile(shrunk, 2))
    judgement = judge_boxes(cases_of(boxes, sizes))
    assert judgement.proofs[None].code == "looks_resized" and words in judgement.proofs[None].words
    assert len(list(find_misread_boxes(judgement))) == 300


def test_things_with_a_margin_around_them_prove_nothing() -> None:
    """Product photographs: 1200x1200, the thing in the middle, its right and lower edge near 1000 every time."""
    rng = np.random.default_rng(0)
    margins = rng.integers(200, 240, size=(200, 2))
    boxes = np.concatenate([margins, 1200 - margins], axis=1)
    assert proven(boxes, np.tile([(1200, 1200)], (200, 1))) is None


def test_one_field_of_a_form_proves_nothing() -> None:
    boxes = np.tile([(100, 120, 500, 160)], (200, 1))
    assert proven(boxes, np.tile([(1654, 2339)], (200, 1))) is None


def test_few_boxes_prove_nothing() -> None:
    boxes = spread_boxes(np.random.default_rng(0), np.tile([(1000, 1000)], (8, 1)))
    assert proven(boxes, np.tile([(3000, 3000)], (len(boxes), 1))) is None


def test_a_proven_file_leaves_broken_boxes_what_they_are() -> None:
    boxes = spread_boxes(np.random.default_rng(0), np.tile([(1000, 1000)], (200, 1)))
    boxes[7] = [800, 900, 790, 890]
    judged = judge_boxes(cases_of(boxes, np.tile([(2000, 1500)], (len(boxes), 1)))).boxes
    assert judged[7].code == "inverted" and {found.code for found in judged} == {"inverted", "looks_thousandths"}


# ---- targets that stand twice ----------------------------------------------------------------------------------


def twins(*targets: Target) -> list[tuple[int, int, float]]:
    return [(a, b, round(overlap, 3)) for a, b, overlap in twin_targets(Record("?", Path("a"), targets))]


def test_twins_are_the_same_label_and_nearly_the_same_box() -> None:
    first = Target(box=(10, 10, 110, 110), label="mug")
    assert twins(first, first) == [(0, 1, 1.0)]
    assert twins(first, Target(box=(10, 10, 110, 114), label="mug")) == [(0, 1, 0.962)]  # 10 000 of 10 400
    assert twins(Target(box=(10, 10, 110, 114), label="mug"), first) == [(0, 1, 0.962)]
    assert twins(first, Target(box=(10, 10, 110, 116), label="mug")) == []  # 10 000 of 10 600
    assert twins(first, Target(box=(10, 10, 110, 110), label="cup")) == []
    assert twins(first, Target(box=(14, 10, 110, 110), label="mug")) == [(0, 1, 0.96)]


def test_of_several_twins_each_is_told_once() -> None:
    box, point = Target(box=(10, 10, 110, 110)), Target(point=(10, 10))
    assert [pair[:2] for pair in twins(box, point, box, point, box)] == [(0, 2), (1, 3), (0, 4)]


def test_twins_are_found_on_a_page_of_cells() -> None:
    """100 rows and 20 columns, and one cell drawn again half a pixel off."""
    cells = [
        Target(box=(50 * x, 20 * y, 50 * x + 49, 20 * y + 19), label="cell") for y in range(100) for x in range(20)
    ]
    assert twins(*cells) == []
    assert [pair[:2] for pair in twins(*cells, Target(box=(150.5, 80, 199.5, 99), label="cell"))] == [(83, 2000)]


# ---- properties ------------------------------------------------------------------------------------------------

sides = st.integers(1, 5000)


@given(width=sides, height=sides, parts=st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_of_whole_pixels_inside_is_sound(width: int, height: int, parts: tuple[float, ...]) -> None:
    left, right = sorted((int(parts[0] * width), int(parts[1] * width)))
    top, bottom = sorted((int(parts[2] * height), int(parts[3] * height)))
    expected = None if left < right and top < bottom else "empty"
    assert box_fault((left, top, right, bottom), Frame(width, height)) == expected


@given(width=sides, height=sides, parts=st.tuples(*[st.floats(0.001, 1)] * 4))
def test_a_sound_box_written_as_xywh_fits_as_such(width: int, height: int, parts: tuple[float, ...]) -> None:
    left, right = sorted((parts[0] * width, parts[1] * width))
    top, bottom = sorted((parts[2] * height, parts[3] * height))
    if right > left and bottom > top:
        assert fits_as_xywh((left, top, right - left, bottom - top), Frame(width, height))


numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(box=st.tuples(numbers, numbers, numbers, numbers), frame=st.none() | st.builds(Frame, sides, sides))
def test_every_box_is_sound_or_has_a_known_fault(box: tuple[float, ...], frame: Frame | None) -> None:
    code = box_fault(box, frame)  # type: ignore[arg-type]
    assert code is None or code in CODES
    if code in (None, "clipped"):
        assert box[0] < box[2] and box[1] < box[3]
