"""Accuracy over IoU thresholds as curves of a page: SVG points for `plot.html.j2`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from groundling.evaluation.metrics import Curve
from groundling.page.page import Role


class Axes(NamedTuple):
    """The plot in units of the SVG, its axes at the left and lower edge."""

    width: int
    height: int

    def x(self, threshold: float) -> float:
        """Where a threshold of 0..1 lies, from the left."""
        return round(threshold * self.width, 1)

    def y(self, share: float) -> float:
        """Where a share of 0..1 lies, from the top."""
        return round((1 - share) * self.height, 1)


AXES = Axes(600, 260)


class Line(NamedTuple):
    """A curve ready to be drawn: SVG points of the line, and of the band around it ("" for none)."""

    name: str
    role: Role
    points: str
    band: str


def trace(curve: Curve, name: str, role: Role) -> Line | None:
    """The curve in the units of the plot; None where nothing was measured, no band where there is no interval."""
    if not len(curve.accuracy) or math.isnan(curve.accuracy[0]):
        return None
    has_band = not math.isnan(curve.low[0])
    there, back = np.column_stack([curve.thresholds, curve.high]), np.column_stack([curve.thresholds, curve.low])
    return Line(
        name=name,
        role=role,
        points=_svg_points(np.column_stack([curve.thresholds, curve.accuracy])),
        band=_svg_points(np.vstack([there, back[::-1]])) if has_band else "",
    )


def _svg_points(places: np.ndarray) -> str:
    return " ".join(f"{AXES.x(threshold)},{AXES.y(share)}" for threshold, share in places.tolist())
