"""How large a change is, what chance does, and when it counts as one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from groundling.evaluation.change import Change, changes, swaps
from groundling.evaluation.metrics import Marks


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


def test_p_swaps_what_was_earned_together_with_what_could_be():
    # Of two pictures 1/1 and 0/3 before, 2/2 and 0/1 after: 1/4 against 2/3. The first swapped: 2/5 against 1/2.
    # In the second column 1/1 and 0/1, 2/2 and 0/3: 1/2 against 2/5. The first swapped: 2/3 against 1/4.
    pictures = np.arange(2)
    old = Marks(np.array([[1.0, 1], [0, 0]]), np.array([[1.0, 1], [3, 1]]), pictures)
    new = Marks(np.array([[2.0, 2], [0, 0]]), np.array([[2.0, 2], [1, 3]]), pictures)
    swapped = np.concatenate(list(swaps(2, 99, seed=0)))
    all_or_none = (swapped[:, 0] == swapped[:, 1]).sum()
    assert 20 < all_or_none < 80

    first, second = changes(old, new, draws=99)

    assert (first.difference, first.p) == pytest.approx((5 / 12, (1 + all_or_none) / 100))
    assert (second.difference, second.p) == pytest.approx((-1 / 10, 1))


def test_a_swap_that_leaves_one_side_without_a_number_says_nothing():
    # 0/1 of the first picture before, 1/1 of the second after. With one of the two swapped, all is on one side.
    pictures = np.arange(2)
    old = Marks(np.array([[0.0], [0]]), np.array([[1.0], [0]]), pictures)
    new = Marks(np.array([[0.0], [1]]), np.array([[0.0], [1]]), pictures)

    (change,) = changes(old, new)

    assert (change.difference, change.p) == (1, 1), "swapped both or none, it is as large"
