"""Mistakes undone: hand-computed boxes first, then sizes found again from noisy answers."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import IN_ORIGINAL, Kind, longer_side, make, moved

from groundling.data.record import Record, Target
from groundling.evaluation.cases import Case
from groundling.evaluation.undo import (
    AS_READ,
    NAMED,
    ORDERS,
    RULES,
    Grid,
    Placement,
    Undo,
    fit_line,
    fit_rules,
    known_grids,
    lay_out,
    overlaps,
    settle,
    shuffled,
)
from groundling.geometry.boxes import Boxes, iou
from groundling.geometry.frame import THOUSANDTHS, Frame

PHOTO = Frame(400, 200)


def case(numbers: list[list[float]], *truth: tuple[float, ...], read: Frame = PHOTO, **more: object) -> Case:
    record = Record("?", None, tuple(Target(box=box) for box in truth), "1", *PHOTO.size_wh)  # type: ignore[arg-type]
    values = {"labels": [None] * len(numbers), "text": None, "flaw": None, "is_raw": True, "seen": None} | more
    return Case(
        record=record, original=PHOTO, read=read, numbers=np.array(numbers, dtype=float).reshape(-1, 4), **values
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        ("xyxy", [40, 20, 80, 60]),
        ("yxyx", [20, 40, 60, 80]),
        ("xywh", [40, 20, 40, 40]),
        ("cxcywh", [60, 40, 40, 40]),
        ("summed", [40, 20, 120, 80]),
    ],
)
def test_each_order_is_read_as_corners(order: str, numbers: list[float]) -> None:
    assert ORDERS[order].read(np.array([numbers], dtype=float)).tolist() == [[40, 20, 80, 60]]
    placed = Undo(order).place(lay_out([case([numbers], (0, 0, 1, 1))]))
    np.testing.assert_allclose(placed, [[0.1, 0.1, 0.2, 0.3]])


def grid_named(words: str, sheet: object) -> Grid:
    return next(grid for grid in known_grids(sheet, "xyxy") if grid.words == words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("as they were read", [20, 20, 40, 60]),
        ("thousandths of the picture's sides", [100, 100, 200, 300]),
        ("pixels of the picture itself", [40, 20, 80, 60]),
        ("pixels of the picture as the model saw it", [28, 14, 56, 42]),
        ("shares of the picture's sides, 0 to 1", [0.1, 0.1, 0.2, 0.3]),
        ("thousandths of the picture padded to a square, the picture in its middle", [100, 300, 200, 400]),
        ("thousandths of the picture padded to a square", [100, 50, 200, 150]),
        ("pixels of the picture padded to a square, the picture in its middle", [40, 120, 80, 160]),
    ],
)
def test_each_grid_places_one_box_where_it_belongs(words: str, numbers: list[float]) -> None:
    sheet = lay_out([case([numbers], (0, 0, 1, 1), read=Frame(200, 200), seen=Frame(280, 140))])
    np.testing.assert_allclose(Undo(grid=grid_named(words, sheet)).place(sheet), [[0.1, 0.1, 0.2, 0.3]])


def test_a_budget_is_that_of_the_vendors_own_resize() -> None:
    record = Record("?", None, (Target(box=(0, 0, 9, 9)),), "1", 1920, 1080)
    answered = Case(record, Frame(1920, 1080), None, THOUSANDTHS, np.ones((1, 4)), [None], None, None, True)
    sides = {named.words: named.sides(lay_out([answered]))[0].tolist() for named in NAMED}
    assert sides["pixels of the picture resized to at most 1003520 pixels in steps of 28"] == [1316, 728]
    assert sides["pixels of the picture resized to at most 12845056 pixels in steps of 28"] == [1932, 1092]
    assert sides["pixels of the picture resized to at most 50176 pixels in steps of 28"] == [280, 168]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("is_stored", [False, True])
def test_turning_is_that_of_boxes(turn: int, is_stored: bool) -> None:
    stored = PHOTO.turned(turn)
    true = Boxes([[40, 20, 80, 60]], stored)
    read = stored if not is_stored else stored.turned(turn)
    sheet = lay_out([case(true.xyxy.tolist(), (0, 0, 1, 1), read=read)])
    placed = Undo(grid=AS_READ, turn=turn, is_stored=is_stored).place(sheet)
    np.testing.assert_allclose(placed, true.turned(turn).to(Frame(1, 1)).xyxy)


def test_boxes_out_of_order_or_beyond_the_border_are_settled_as_a_reader_does() -> None:
    assert settle(np.array([[0.5, -0.2, 0.1, 1.7]])).tolist() == [[0.1, 0, 0.5, 1]]


def test_overlaps_are_those_of_geometry() -> None:
    corners = np.random.default_rng(0).random((50, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    frame = Frame(1, 1)
    expected = np.diag(iou(Boxes(boxes[:25], frame), Boxes(boxes[25:], frame)))
    np.testing.assert_allclose(overlaps(boxes[:25], boxes[25:]), expected)
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0]


def test_the_first_box_counts_for_one_target_and_any_for_several() -> None:
    here, there = (0, 0, 100, 100), (200, 0, 300, 100)
    sheet = lay_out(
        [
            case([[*there], [*here]], here),
            case([[*there], [*here]], here, there),
            case([[*there]], here, there),
            case([[*here], [0, 0, 1, 1], [0, 0, 1, 1]], here, there),
            case([], here),
            case([[*here]]),
        ]
    )
    assert len(sheet) == 4, "what has no box on either side is left out"
    np.testing.assert_allclose(sheet.values(Undo().place(sheet)), [0, 1, 1, 0.5])


def test_shuffled_answers_never_meet_their_own_truth() -> None:
    answers = [case([[10 * n, 0, 10 * n + 10, 200]], (10 * n, 0, 10 * n + 10, 200)) for n in range(30)]
    sheet = lay_out(answers)
    assert sheet.values(Undo().place(sheet)).tolist() == [1] * 30
    for seed in range(5):
        assert shuffled(sheet, seed).values(Undo().place(sheet)).tolist() == [0] * 30


def made_sheet(numbers: object, kind: Kind) -> object:
    answers = make(0, kind)
    return lay_out(
        [
            Case(one.record, one.original, None, one.original, numbers(one), one.labels, None, None, True)  # type: ignore[operator]
            for one in answers
        ]
    )


def test_a_longer_side_is_found_again_though_half_of_the_answers_are_wrong() -> None:
    sheet = made_sheet(longer_side(700), Kind(noise=0.03, misses=0.5))
    found = next(iter(fit_rules(sheet, "xyxy", 0)))  # type: ignore[arg-type]
    size = float(found.grid.words.rpartition(" ")[2])
    assert RULES[0].words.startswith("pixels of the picture, its longer side")
    assert size == pytest.approx(700, rel=0.01)


def test_scale_and_offset_are_found_again_though_half_of_the_answers_are_wrong() -> None:
    sheet = made_sheet(moved((1.25, 0.8), (50, -20)), Kind(noise=0.02, misses=0.5))
    line = fit_line(sheet, "xyxy", 0, in_pixels=True)  # type: ignore[arg-type]
    assert line is not None
    np.testing.assert_allclose(line.scale, [1 / 1.25, 1 / 0.8], rtol=0.01)
    np.testing.assert_allclose(line.offset, [-50 / 1.25, 20 / 0.8], atol=3)


def test_nothing_undone_changes_nothing() -> None:
    sheet = made_sheet(IN_ORIGINAL, Kind(count=20))
    assert Undo().is_nothing and Undo().cost == 0
    read = Undo(grid=Grid("", "read", 0, lambda sheet: Placement(sheet.originals)))
    np.testing.assert_allclose(Undo().place(sheet), read.place(sheet))  # type: ignore[arg-type]
