"""A bias of right boxes: what is named, and what is left to the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from made_answers import IN_SEEN, Kind, make

from groundling.evaluation.cases import Case
from groundling.evaluation.offset import find_offset
from groundling.evaluation.sheet import Sheet, lay_out
from groundling.evaluation.undo import Undo


def sheet_moved(by: Sequence[float], *, count: int = 200, noise: float = 0.005) -> Sheet:
    """Right answers in pixels as seen, each corner moved by as many units."""
    return lay_out(
        [
            Case(one.record, one.original, one.seen, one.seen, IN_SEEN(one) + by, one.labels, None, None, True)
            for one in make(0, Kind(count=count, noise=noise, misses=0.2))
        ]
    )


@pytest.mark.parametrize("shift", [0.5, -0.5, 1.0, -1.0])
def test_half_a_unit_and_one_are_measured(shift: float) -> None:
    found = find_offset(sheet_moved([shift] * 4), Undo())
    assert found is not None and not found.is_short
    for mean in (found.x, found.y):
        assert abs(mean.value - shift) <= 4 * mean.error and mean.error < 0.1


def test_right_and_bottom_one_short() -> None:
    found = find_offset(sheet_moved([0, 0, -1, -1]), Undo())
    assert found is not None and found.is_short
    np.testing.assert_allclose([found.x.value, found.y.value], -1, atol=0.2)


@pytest.mark.parametrize(
    "by",
    [[0, 0, 0, 0], [0.2] * 4, [0.8, 0, 0.8, 0], [0.5, 1.2, 0.5, 1.2], [0.5, -0.5, 0.5, -0.5], [3] * 4],
    ids=["none", "too little", "x alone", "x and y apart", "opposite", "too far"],
)
def test_what_is_no_rounding_is_not_named(by: list[float]) -> None:
    assert find_offset(sheet_moved(by, count=800, noise=0.002), Undo()) is None


def test_few_boxes_or_much_noise_hide_half_a_unit() -> None:
    assert find_offset(sheet_moved([0.5] * 4, count=25), Undo()) is None
    assert find_offset(sheet_moved([0.5] * 4, noise=0.1), Undo()) is None
