"""Sizes, scales and shifts found again from noisy answers."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import Kind, longer_side, make, moved, sheet_of

from groundling.evaluation.fits import RULES, fit_line, fit_rules


def test_a_longer_side_is_found_again_though_half_of_the_answers_are_wrong() -> None:
    sheet = sheet_of(make(0, Kind(noise=0.03, misses=0.5)), longer_side(700))
    found = next(iter(fit_rules(sheet, "xyxy", 0)))
    size = float(found.grid.words.rpartition(" ")[2])
    assert RULES[0].words.startswith("pixels of the picture, its longer side")
    assert size == pytest.approx(700, rel=0.01)


def test_scale_and_offset_are_found_again_though_half_of_the_answers_are_wrong() -> None:
    sheet = sheet_of(make(0, Kind(noise=0.02, misses=0.5)), moved((1.25, 0.8), (50, -20)))
    line = fit_line(sheet, "xyxy", 0, in_pixels=True)
    assert line is not None
    np.testing.assert_allclose(line.scale, [1 / 1.25, 1 / 0.8], rtol=0.01)
    np.testing.assert_allclose(line.offset, [-50 / 1.25, 20 / 0.8], atol=3)
