"""Pairs of boxes and of points: as many as can be, none twice."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from answered import predict

from groundling.evaluation.matching import count_pairs, find_partners, match_points


def test_matching_is_optimal_where_a_greedy_one_is_not():
    # The first truth overlaps both answers, best the first; the second truth overlaps the first answer only.
    overlaps = np.array([[0.9, 0.6], [0.7, 0.1]])

    assert count_pairs(overlaps, 0.5) == 2
    assert count_pairs(overlaps, 0.75) == 1
    assert count_pairs(np.zeros((0, 3)), 0.5) == count_pairs(np.zeros((2, 3)), 0.5) == 0


def test_partners_are_found_at_every_threshold_by_itself():
    overlaps = np.array([[0.9, 0.6], [0.7, 0.1], [0.0, 0.2]])

    assert find_partners(overlaps, np.array([0.5, 0.75, 0.95])).tolist() == [
        [True, True, False],
        [True, False, False],
        [False, False, False],
    ]
    assert find_partners(np.zeros((2, 0)), np.array([0.5])).tolist() == [[False, False]]


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_as_many_as_trying_all_ways_finds(seed: int):
    overlaps = np.random.default_rng(seed).random((4, 5))
    thresholds = np.array([0.3, 0.5, 0.7, 0.9])

    most = [
        max(sum(overlaps[row, column] >= t for row, column in enumerate(way)) for way in permutations(range(5), 4))
        for t in thresholds
    ]

    assert find_partners(overlaps, thresholds).sum(axis=1).tolist() == most
    assert find_partners(overlaps.T, thresholds).sum(axis=1).tolist() == most


def test_points_pair_by_distance_and_hit_by_place():
    # As Molmo has it: the answers pair with the nearest targets, the sum of distances least; only then is asked whether
    # each lies in its own. Here both answers lie in the large box, and one of them is given to the small one.
    large, small = ("a", [0.0, 0.0, 400.0, 400.0]), ("b", [600.0, 600.0, 620.0, 620.0])
    one = predict([large, small], [("a", [100.0, 100.0]), ("b", [300.0, 300.0])])

    assert match_points(one.record, one.answer, one.original) == (2, 2, 1)


def test_no_target_is_hit_twice():
    one = predict([("a", [500.0, 500.0])], [("a", [500.0, 500.0]), ("a", [501.0, 500.0])])

    assert match_points(one.record, one.answer, one.original) == (1, 2, 1)


def test_boxes_point_with_their_middles_unless_there_are_points():
    target = ("a", [100.0, 100.0, 200.0, 200.0])
    boxes = predict([target], [("a", [140.0, 140.0, 160.0, 160.0]), ("a", [0.0, 0.0, 10.0, 10.0])])
    both = predict([target], [("a", [140.0, 140.0, 160.0, 160.0]), ("a", [0.0, 0.0])])

    assert match_points(boxes.record, boxes.answer, boxes.original) == (1, 2, 1)
    assert match_points(both.record, both.answer, both.original) == (1, 1, 0)
