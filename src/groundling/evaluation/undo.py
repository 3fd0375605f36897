"""A systematic mistake as what undoes it: the order of a box's numbers, their grid, and how the picture is turned."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from groundling.evaluation.grids import AS_READ, ORDERS, Grid, Placement
from groundling.evaluation.sheet import UNIT, Sheet, settle
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import SWAPS_SIDES

_ON_A_DIAGONAL = (5, 7)  # no camera stores pictures so, and models do swap x and y


class Undo(NamedTuple):
    """What undoes a mistake: read the numbers in that order, on that grid, then turn the picture."""

    order: str = "xyxy"
    grid: Grid = AS_READ
    turn: int = 1  # as an EXIF orientation; 0 for each picture's own
    is_stored: bool = False  # whether the grid is that of the picture before it is turned

    @property
    def cost(self) -> float:
        """How much it takes to believe it; 0 for what changes nothing."""
        turn = (self.turn != 1) * 1.3 + (self.turn in _ON_A_DIAGONAL) * 1.0
        return (self.order != "xyxy") * 1.0 + self.grid.cost + turn + self.is_stored * 0.1

    @property
    def is_nothing(self) -> bool:
        """Whether the boxes stay as they were read."""
        return self.order == "xyxy" and self.turn == 1 and self.grid.kind == "read"

    def place(self, sheet: Sheet) -> np.ndarray:
        """(B, 4) boxes on the unit square of the upright picture: corners in order, cut off at the border."""
        placement = self.grid.place(sheet)
        sides, turns = placement.sides, self._turns(sheet)
        if self.is_stored:
            sides = np.where(np.isin(turns, SWAPS_SIDES)[:, None], sides[:, ::-1], sides)
        rows = ORDERS[self.order].read(sheet.numbers)
        unit = (rows - sheet.per_box(placement.starts)) / sheet.per_box(sides)
        for turn in set(turns.tolist()) - {1}:
            chosen = turns[sheet.owner] == turn
            unit[chosen] = Boxes(unit[chosen], UNIT).turned(turn).xyxy
        return settle(unit)

    def _turns(self, sheet: Sheet) -> np.ndarray:
        """(N,) the orientation that each picture is turned by."""
        return sheet.orientations if self.turn == 0 else np.full(len(sheet), self.turn)


NOTHING = Undo()
"""Boxes as they were read."""

IN_PICTURE = Grid("pixels of the picture itself", "pixels", 0.3, lambda sheet: Placement(sheet.originals))


def turned_ways(base: Undo = NOTHING) -> Iterator[Undo]:
    """The picture turned or mirrored, its numbers as `base` reads them or in the picture's own pixels."""
    for turn, grid in itertools.product(range(2, 9), (base.grid, IN_PICTURE)):
        yield Undo(base.order, grid, turn)
        if turn in SWAPS_SIDES:
            yield Undo(base.order, grid, turn, is_stored=True)
