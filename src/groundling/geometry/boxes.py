"""Boxes and points that know their frame. Only `.to(frame)` multiplies a coordinate; the others turn and shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from groundling.errors import FrameError
from groundling.geometry.frame import SWAPS_SIDES, Frame

LARGEST = 1e100  # in absolute value: the areas and sums of such coordinates are still finite


@dataclass(frozen=True, eq=False)
class Boxes:
    """`xyxy` is (N, 4) float64: left, top, right, bottom, half-open, in the units of `frame`.

    Numbers up to LARGEST are held, in or out of the frame, corners in any order: `check` judges, this class carries.
    Raises FrameError for another shape, or for what is no such number. `[]` is no boxes.
    """

    xyxy: np.ndarray
    frame: Frame

    def __init__(self, xyxy: ArrayLike, frame: Frame) -> None:
        object.__setattr__(self, "xyxy", _frozen_rows(xyxy, 4, "boxes are (N, 4): left, top, right, bottom"))
        object.__setattr__(self, "frame", frame)

    def to(self, frame: Frame) -> Boxes:
        """The same places in another frame of the same picture."""
        return Boxes(_moved(self.xyxy, self.frame, frame), frame)

    def turned(self, orientation: int) -> Boxes:
        """The boxes after their picture is turned as a viewer turns one that is stored with that EXIF orientation.

        1 to 8: 2 mirrors left and right, 3 turns by half, 6 by a quarter clockwise, 8 by a quarter the other way.
        """
        return Boxes(*_turned(self.xyxy, self.frame, orientation))

    def onto(self, canvas: Frame, left: int, top: int) -> Boxes:
        """The boxes on a canvas, with their picture's corner at `left`, `top` of it: below 0 for what is cut out."""
        return Boxes(self.xyxy + np.array([left, top] * 2), canvas)

    def clip(self) -> Boxes:
        """The parts inside the frame; a box wholly outside becomes one without area on the border."""
        return Boxes(np.clip(self.xyxy, 0, [*self.frame.size_wh] * 2), self.frame)

    def areas(self) -> np.ndarray:
        """(N,) in square units of the frame; 0 where the corners are out of order."""
        return np.prod(np.maximum(self.xyxy[:, 2:] - self.xyxy[:, :2], 0), axis=1)

    def centers(self) -> Points:
        """The middles of the boxes, in order."""
        return Points((self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.frame)

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> Boxes:
        return Boxes(self.xyxy[rows], self.frame)

    def __repr__(self) -> str:
        return f"Boxes({self.xyxy.tolist()}, frame={self.frame})"


@dataclass(frozen=True, eq=False)
class Points:
    """`xy` is (N, 2) float64: x to the right, y down, in the units of `frame`. Raises FrameError as `Boxes` does."""

    xy: np.ndarray
    frame: Frame

    def __init__(self, xy: ArrayLike, frame: Frame) -> None:
        object.__setattr__(self, "xy", _frozen_rows(xy, 2, "points are (N, 2): x, y"))
        object.__setattr__(self, "frame", frame)

    def to(self, frame: Frame) -> Points:
        """The same places in another frame of the same picture."""
        return Points(_moved(self.xy, self.frame, frame), frame)

    def turned(self, orientation: int) -> Points:
        """The points after their picture is turned as its EXIF orientation says; see `Boxes.turned`."""
        return Points(*_turned(self.xy, self.frame, orientation))

    def onto(self, canvas: Frame, left: int, top: int) -> Points:
        """The points on a canvas, with their picture's corner at `left`, `top` of it: below 0 for what is cut out."""
        return Points(self.xy + np.array([left, top]), canvas)

    def clip(self) -> Points:
        """The nearest places inside the frame."""
        return Points(np.clip(self.xy, 0, self.frame.size_wh), self.frame)

    def __len__(self) -> int:
        return len(self.xy)

    def __repr__(self) -> str:
        return f"Points({self.xy.tolist()}, frame={self.frame})"


def iou(a: Boxes, b: Boxes) -> np.ndarray:
    """(N, M) overlaps in 0..1 of every box of `a` with every box of `b`; 0 where either has no area.

    Intersection over union (Jaccard index). Stretching a picture changes no IoU and mixing frames changes all of them,
    so boxes of two frames raise FrameError.
    """
    if a.frame != b.frame:
        raise FrameError(f"IoU of boxes in two frames, {a.frame} and {b.frame}; bring them to one with .to(frame)")
    top_left = np.maximum(a.xyxy[:, None, :2], b.xyxy[None, :, :2])
    bottom_right = np.minimum(a.xyxy[:, None, 2:], b.xyxy[None, :, 2:])
    shared = np.prod(np.maximum(bottom_right - top_left, 0), axis=2)
    area_a, area_b = a.areas()[:, None], b.areas()[None, :]
    has_area = (area_a > 0) & (area_b > 0)
    return np.divide(shared, area_a + area_b - shared, out=np.zeros_like(shared), where=has_area)


def _moved(rows: np.ndarray, old: Frame, new: Frame) -> np.ndarray:
    """(N, 2) or (N, 4) coordinates in another frame. Multiplied before divided, so the border stays on the border."""
    if new == old:
        return rows
    corners = rows.shape[1] // 2
    return rows * (new.size_wh * corners) / (old.size_wh * corners)


_X_MIRRORS = (2, 3, 6, 7)  # orientations, as in EXIF; after the sides are swapped
_Y_MIRRORS = (3, 4, 7, 8)


def _turned(rows: np.ndarray, frame: Frame, orientation: int) -> tuple[np.ndarray, Frame]:
    """(N, 2) or (N, 4) coordinates and their frame, turned; starts stay before ends."""
    turned = frame.turned(orientation)
    xs, ys = rows[:, ::2], rows[:, 1::2]
    if orientation in SWAPS_SIDES:
        xs, ys = ys, xs
    if orientation in _X_MIRRORS:
        xs = turned.width - xs[:, ::-1]
    if orientation in _Y_MIRRORS:
        ys = turned.height - ys[:, ::-1]
    return np.stack([xs, ys], axis=2).reshape(rows.shape), turned


def _frozen_rows(values: ArrayLike, columns: int, expected: str) -> np.ndarray:
    try:
        rows = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # words, rows of several lengths, an int beyond float64
        raise FrameError(f"{expected}, all numbers: {error}") from None
    if rows.shape == (0,):
        rows = rows.reshape(0, columns)
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise FrameError(f"{expected}, not an array of shape {rows.shape}")
    is_held = np.abs(rows) <= LARGEST  # NaN is not
    if not is_held.all():
        raise FrameError(
            f"{expected}, all finite (at most {LARGEST:g}); found {rows[~is_held.all(axis=1)][0].tolist()}"
        )
    rows.setflags(write=False)
    return rows
