"""What answers are worth, and what chance makes of them."""

from __future__ import annotations

import numpy as np
from made_answers import case

from groundling.evaluation.sheet import lay_out, overlaps, settle, shuffled
from groundling.evaluation.undo import Undo
from groundling.geometry.boxes import Boxes, iou
from groundling.geometry.frame import Frame


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
