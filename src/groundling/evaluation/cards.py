"""Drawn pictures with known boxes, that tell apart what a model's numbers may count.

A red square and a blue circle on grey, large enough that any model which sees at all finds them. The sizes are chosen
so that conventions differ: small ones where whole tokens of 28 and of 32 pixels round differently, large ones that
budgets shrink, wide and tall ones; none is a multiple of a token's side throughout. Some are stored turned, as phones
store them, with the orientation in their EXIF, which not every server heeds.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame
from groundling.geometry.images import turn_image

MEDIA_TYPE = "image/jpeg"

SHOWN: tuple[tuple[int, int, int], ...] = (  # width and height once upright, and the orientation as in EXIF
    (640, 480, 1),
    (224, 224, 1),
    (100, 68, 1),
    (155, 95, 1),
    (120, 76, 1),
    (1600, 1200, 1),
    (2400, 1800, 1),
    (2000, 1500, 1),
    (2300, 1700, 8),
    (1500, 400, 1),
    (400, 1500, 1),
    (130, 90, 6),
    (100, 68, 3),
    (640, 480, 6),
    (640, 480, 8),
    (640, 480, 3),
    (480, 640, 6),
)
THINGS = ("red square", "blue circle")

_SEED = 0
_GREY, _RED, _BLUE = (150, 150, 150), (220, 40, 40), (40, 80, 220)
_STORING = {6: 8, 8: 6}  # the turn that undoes an orientation's; every other one undoes itself


class Card(NamedTuple):
    """A question about one thing of a drawn picture."""

    file: bytes  # a JPEG, as a camera stores it
    orientation: int
    question: str
    box: Boxes  # (1, 4), in the frame of the upright picture

    @property
    def upright(self) -> Frame:
        """The picture's size as a viewer shows it."""
        return self.box.frame

    @property
    def stored(self) -> Frame:
        """Its size for whoever passes over the orientation."""
        return self.upright.turned(self.orientation)


def draw_cards() -> list[Card]:
    """The same cards every time: a question about each thing of each picture of SHOWN, in its order."""
    rng = np.random.default_rng(_SEED)
    return [card for width, height, orientation in SHOWN for card in _draw(rng, Frame(width, height), orientation)]


def _draw(rng: np.random.Generator, frame: Frame, orientation: int) -> list[Card]:
    square, circle = _place_two(rng, frame)
    picture = Image.new("RGB", frame.size_wh, _GREY)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((square[0], square[1], square[2] - 1, square[3] - 1), fill=_RED)
    draw.ellipse((circle[0], circle[1], circle[2] - 1, circle[3] - 1), fill=_BLUE)
    file = _as_stored(picture, orientation)
    placed = zip(THINGS, (square, circle), strict=True)
    return [Card(file, orientation, f"the {name}", Boxes([box], frame)) for name, box in placed]


def _place_two(rng: np.random.Generator, frame: Frame) -> list[tuple[int, int, int, int]]:
    """Two boxes as high as wide, a third of the shorter side and more, that keep clear of each other."""
    shorter = min(frame.size_wh)
    while True:
        boxes: list[tuple[int, int, int, int]] = []
        for share in rng.uniform(0.33, 0.42, size=2):
            side = round(share * shorter)
            left, top = (int(rng.integers(0, whole - side + 1)) for whole in frame.size_wh)
            boxes.append((left, top, left + side, top + side))
        (a, b), gap = boxes, shorter // 20
        if a[2] + gap < b[0] or b[2] + gap < a[0] or a[3] + gap < b[1] or b[3] + gap < a[1]:
            return boxes


def _as_stored(upright: Image.Image, orientation: int) -> bytes:
    """A JPEG that a viewer turns upright."""
    stored = turn_image(upright, _STORING.get(orientation, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()
