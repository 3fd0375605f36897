"""Shapes that are no upright box: points, and what has an upright box around it, which is taken only when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from groundling.data.formats.detection import Thing, read_thing
from groundling.errors import GroundlingError, RecordError

Point = tuple[float, float]
Sides = tuple[float, float, float, float]


def read_shape(label: object, read_place: Callable[[], Sequence[float]], extra: Mapping[str, Any]) -> Thing:
    """A thing with that label at the place that is read: four numbers of a box, or two of a point.

    It has a fault where the label is none, or where `read_place` raises a GroundlingError.
    """
    thing = read_thing(label, (0, 0, 0, 0), extra=extra)
    if thing.fault:
        return thing
    try:
        return replace(thing, numbers=tuple(read_place()))
    except GroundlingError as error:
        return replace(thing, numbers=(), fault=str(error))


def reduced(box: Sides, what: str, *, reduce: bool) -> Sides:
    """The box around a shape; RecordError that names the shape where it is not to be reduced to it."""
    if not reduce:
        raise RecordError(f"{what} is no upright box; with --reduce the one around it is taken")
    return box


def box_around(points: Sequence[Point]) -> Sides:
    """Left, top, right, bottom of the points, of which there is at least one."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def box_around_turned(box: Sides, center: Point, degrees: float) -> Sides:
    """The box around a box that is turned clockwise on the screen (y runs down) about `center`."""
    left, top, right, bottom = box
    cos, sin = _cos_sin(degrees)
    x0, y0 = center
    corners = [(x - x0, y - y0) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
    return box_around([(x0 + x * cos - y * sin, y0 + x * sin + y * cos) for x, y in corners])


def box_around_ellipse(center: Point, radius_x: float, radius_y: float, degrees: float) -> Sides:
    """The box around an ellipse whose axes are turned clockwise by so much."""
    cos, sin = _cos_sin(degrees)
    half_width, half_height = math.hypot(radius_x * cos, radius_y * sin), math.hypot(radius_x * sin, radius_y * cos)
    x, y = center
    return x - half_width, y - half_height, x + half_width, y + half_height


def _cos_sin(degrees: float) -> Point:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
