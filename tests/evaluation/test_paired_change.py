"""When a change counts as one."""

from __future__ import annotations

import math

import pytest

from groundling.evaluation.change import Change


@pytest.mark.parametrize(
    ("ci95", "p", "is_seen"),
    [
        ((0.1, 0.3), 0.01, True),
        ((-0.3, -0.1), 0.01, True),
        ((-0.1, 0.3), 0.01, False),
        ((0.0, 0.3), 0.01, False),
        ((-0.3, 0.0), 0.01, False),
        ((math.nan, math.nan), 0.01, False),
        ((0.1, 0.3), 0.05, False),
        ((0.1, 0.3), math.nan, False),
    ],
)
def test_a_difference_is_seen_where_interval_and_p_both_say_so(ci95: tuple[float, float], p: float, is_seen: bool):
    assert Change(0.0, 0.0, 0.0, ci95, p).is_seen() == is_seen


def test_a_corrected_p_stands_in_for_its_own():
    change = Change(0.0, 0.0, 0.0, (0.1, 0.3), 0.01)
    assert change.is_seen(0.04) and not change.is_seen(0.06)
