"""Orders, grids and turns undone: hand-computed boxes."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import IN_ORIGINAL, PHOTO, Kind, case, make, sheet_of

from groundling.data.record import Record, Target
from groundling.evaluation.cases import Case
from groundling.evaluation.grids import AS_READ, NAMED, ORDERS, Grid, Placement, known_grids
from groundling.evaluation.sheet import Sheet, lay_out
from groundling.evaluation.undo import Undo
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import THOUSANDTHS, Frame


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


def grid_named(words: str, sheet: Sheet) -> Grid:
    return next(grid for grid in known_grids(sheet, "xyxy") if grid.words == words)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("as they were read", [20, 20, 40, 60]),
        ("thousandths of the picture's sides", [100, 100, 200, 300]),
        ("pixels of the picture itself", [40, 20, 80, 60]),
        ("pixels of the picture as the model saw it", [28, 14, 56, 42]),
        ("shares of the picture's sides, 0 to 1", [0.1, 0.1, 0.2, 0.3]),
        ("thousandths of a square with the picture in its middle", [100, 300, 200, 400]),
        ("thousandths of a square with the picture in its corner, padded at the right and bottom", [100, 50, 200, 150]),
        ("shares, 0 to 1, of a square with the picture in its middle", [0.1, 0.3, 0.2, 0.4]),
        ("pixels of a square with the picture in its middle", [40, 120, 80, 160]),
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


def test_nothing_undone_changes_nothing() -> None:
    sheet = sheet_of(make(0, Kind(count=20)), IN_ORIGINAL)
    assert Undo().is_nothing and Undo().cost == 0
    read = Undo(grid=Grid("", "read", 0, lambda sheet: Placement(sheet.originals)))
    np.testing.assert_allclose(Undo().place(sheet), read.place(sheet))
