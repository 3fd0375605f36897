"""Sizes, scales and shifts found again from noisy answers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from made_answers import PHOTO, Kind, Numbers, case, in_square, longer_side, make, moved, sheet_of

from groundling.evaluation.fits import SQUARES, fit_line, fit_rules, fit_squares
from groundling.evaluation.sheet import lay_out


def test_a_longer_side_is_found_again_though_half_of_the_answers_are_wrong() -> None:
    sheet = sheet_of(make(0, Kind(noise=0.03, misses=0.5)), longer_side(700))
    found = next(iter(fit_rules(sheet, "xyxy", 0)))
    size = float(found.grid.words.rpartition(" ")[2])
    assert "its longer side resized to" in found.grid.words
    assert size == pytest.approx(700, rel=0.01)


def test_scale_and_offset_are_found_again_though_half_of_the_answers_are_wrong() -> None:
    sheet = sheet_of(make(0, Kind(noise=0.02, misses=0.5)), moved((1.25, 0.8), (50, -20)))
    line = fit_line(sheet, "xyxy", 0, in_pixels=True)
    assert line is not None
    np.testing.assert_allclose(line.scale, [1 / 1.25, 1 / 0.8], rtol=0.01)
    np.testing.assert_allclose(line.offset, [-50 / 1.25, 20 / 0.8], atol=3)


@pytest.mark.parametrize(
    ("words", "side", "numbers"),
    [
        ("pixels of a square", 500, [90, 170, 130, 210]),
        ("pixels of a square", 200, [20, 60, 40, 80]),
        ("thousandths of a square", 500, [180, 340, 260, 420]),
        ("shares, 0 to 1, of a square", 500, [0.18, 0.34, 0.26, 0.42]),
        ("the model's own units of a square", 500, [72, 68, 104, 84]),
    ],
)
def test_a_picture_is_shrunk_to_fit_its_square_and_never_enlarged(words: str, side: int, numbers: list[float]) -> None:
    """A photo of 400 x 200 lies at 50, 150 in the middle of a square of 500, and is 200 x 100 in one of 200."""
    square = next(square for square in SQUARES if square.words.startswith(words) and square.padding.share)
    placement = square.place(lay_out([case([numbers], (0, 0, 1, 1), read=PHOTO)]), side)
    np.testing.assert_allclose(
        (np.array([numbers]) - np.tile(placement.starts, 2)) / np.tile(placement.sides, 2), [[0.1, 0.1, 0.2, 0.3]]
    )


@pytest.mark.parametrize(
    ("numbers", "words", "side"),
    [
        (in_square(1024, 0.5), "pixels of a square", 1024),
        (in_square(700, 0.5, per=1000), "thousandths of a square", 700),
        (in_square(1024, 0), "pixels of the picture, padded at the right and bottom or not", 1024),
    ],
)
def test_the_side_of_a_square_is_found_again_though_half_of_the_answers_are_wrong(
    numbers: Numbers, words: str, side: int
) -> None:
    sheet = sheet_of(make(0, Kind(noise=0.03, misses=0.5)), numbers)
    found = max(fit_squares(sheet, "xyxy"), key=lambda undo: sheet.values(undo.place(sheet)).mean())
    told = re.search(r"\b(?:square of|at most) (\d+)", found.grid.words)
    assert found.grid.words.startswith(words) and told
    assert int(told[1]) == pytest.approx(side, rel=0.01)
