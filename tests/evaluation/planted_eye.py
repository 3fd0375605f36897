"""A model that is right about every card, and answers in whatever convention is planted.

It finds things by their colour in the file itself, and moves boxes by sums of its own: nothing here is ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

Size = tuple[float, float]
Box = tuple[float, float, float, float]


@lru_cache
def find(file: bytes, color: str, heeds_exif: bool) -> tuple[Box, Size]:
    """Where that colour is in a picture, in its pixels, half-open, and the picture's width and height."""
    picture = Image.open(io.BytesIO(file))
    levels = np.asarray(ImageOps.exif_transpose(picture) if heeds_exif else picture)
    channel, other = (0, 2) if color == "red" else (2, 0)
    is_it = levels[..., channel] > levels[..., other].astype(np.int16) + 70
    xs, ys = np.flatnonzero(is_it.any(axis=0)), np.flatnonzero(is_it.any(axis=1))
    return (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1), (levels.shape[1], levels.shape[0])


def within(least: int, most: int, side: int = 28) -> Callable[[Size], Size]:
    """The size that the published processors resize to."""

    def resized(size: Size) -> Size:
        height, width = smart_resize(int(size[1]), int(size[0]), side, min_pixels=least, max_pixels=most)
        return width, height

    return resized


QWEN = within(3136, 1_003_520)  # Qwen2.5-VL, as transformers has it by default


@dataclass(frozen=True)
class Eye:
    """What its numbers count, in what order, and whether it sees pictures upright."""

    frame: Callable[[Size], Size] = QWEN  # of the square where there is one
    order: str = "xyxy"  # or a point's: xy, yx
    square: str = ""  # middle, corner: where the picture is in a square of its longer side
    least: int = 0  # of that square's side, in pixels of the picture: what is smaller is not enlarged
    heeds_exif: bool = True
    decimals: int = 0
    noise: float = 0.0  # standard deviation of each edge, in sides of the picture
    closed: bool = False  # right and bottom are the last pixels inside
    form: str = '[{{"bbox_2d": [{}, {}, {}, {}], "label": "it"}}]'

    def answer(self, file: bytes, text: str, rng: np.random.Generator | None = None) -> str:
        """What it says to a question that names a colour."""
        (left, top, right, bottom), (width, height) = find(file, "red" if "red" in text else "blue", self.heeds_exif)
        (whole_x, whole_y), (start_x, start_y) = self._whole(width, height)
        far_x, far_y = self.frame((whole_x, whole_y))
        box = np.array([left + start_x, top + start_y, right + start_x, bottom + start_y])
        box = box / [whole_x, whole_y, whole_x, whole_y]
        if rng is not None:
            box = box + rng.normal(0, self.noise, 4)
        left, top, right, bottom = box * [far_x, far_y, far_x, far_y] - [0, 0, self.closed, self.closed]
        numbers = {
            "xyxy": (left, top, right, bottom),
            "yxyx": (top, left, bottom, right),
            "xywh": (left, top, right - left, bottom - top),
            "cxcywh": ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
            "xy": ((left + right) / 2, (top + bottom) / 2),
            "yx": ((top + bottom) / 2, (left + right) / 2),
        }[self.order]
        return self.form.format(*(f"{number:.{self.decimals}f}" for number in numbers))

    def _whole(self, width: float, height: float) -> tuple[Size, Size]:
        """What it sees: its size, and where the picture begins in it."""
        if not self.square:
            return (width, height), (0, 0)
        side = max(width, height, self.least)
        return (side, side), ((side - width) // 2, (side - height) // 2) if self.square == "middle" else (0, 0)


def thousandths(size: Size) -> Size:
    return 1000, 1000


def itself(size: Size) -> Size:
    return size


def stretched(side: int) -> Callable[[Size], Size]:
    """A square of that side, whatever the picture's shape."""
    return lambda size: (side, side)


def shrunk(most: int) -> Callable[[Size], Size]:
    """Pictures whose longer side is larger are resized."""
    return lambda size: (size[0] * min(1, most / max(size)), size[1] * min(1, most / max(size)))
