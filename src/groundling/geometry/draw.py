"""Boxes drawn on their picture, with labels: for previews, predictions and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageColor, ImageDraw, ImageFont

from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame

Color = str | tuple[int, int, int]  # a name or #rrggbb that Pillow knows, or red, green, blue in 0..255

_LABEL_CHARACTERS = 60  # of a longer label the beginning is written
_MARGIN = 2  # pixels around a label's letters


class Layer(NamedTuple):
    """Boxes that are drawn alike, the true ones or the answered ones. `labels`: none, or one (a text or None) a box."""

    boxes: Boxes
    color: Color
    labels: Sequence[str | None] = ()


def draw_boxes(image: Image.Image, layers: Sequence[Layer | tuple[Boxes, Color, Sequence[str | None]]]) -> Image.Image:
    """A copy of an upright picture with the layers drawn in order, the last on top.

    Boxes in any frame of the picture are brought to its pixels, rounded to them, and clipped; corners out of order are
    put in order. Lines run just outside their boxes, or along the picture's border; lines and letters grow with the
    picture.
    """
    drawn = image.convert("RGB")
    for boxes, color, labels in layers:
        assert not labels or len(labels) == len(boxes), (len(labels), len(boxes))
        rgb = ImageColor.getrgb(color)[:3] if isinstance(color, str) else color
        corners = _pixel_corners(boxes, Frame(*drawn.size))
        for box in corners:
            _draw_outline(drawn, box, rgb)
        for box, label in zip(corners, labels, strict=False):
            if label:
                _draw_label(drawn, box, " ".join(label.split())[:_LABEL_CHARACTERS], rgb)
    return drawn


def _pixel_corners(boxes: Boxes, frame: Frame) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom in whole pixels, in order and inside the frame."""
    corners = boxes.to(frame).clip().xyxy.round().astype(int).tolist()
    return [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in corners]


def _line_width(image: Image.Image) -> int:
    return max(2, round(max(image.size) / 400))


def _draw_outline(image: Image.Image, box: tuple[int, int, int, int], rgb: tuple[int, ...]) -> None:
    """A line around the box; Pillow counts the right and bottom pixel in, boxes do not."""
    left, top, right, bottom = box
    width = _line_width(image)
    around = (
        max(left - width, 0),
        max(top - width, 0),
        min(right + width, image.width) - 1,
        min(bottom + width, image.height) - 1,
    )
    ImageDraw.Draw(image).rectangle(around, outline=rgb, width=width)


def _draw_label(image: Image.Image, box: tuple[int, int, int, int], text: str, rgb: tuple[int, ...]) -> None:
    """Letters on a patch of the box's color: above the box, or in its top left corner where there is no room above."""
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(11, round(max(image.size) / 60)))
    _, _, width, height = (round(side) for side in pen.textbbox((_MARGIN, _MARGIN), text, font=font))
    left = max(min(box[0], image.width - width - _MARGIN), 0)
    above = box[1] - _line_width(image) - height - _MARGIN
    top = above if above >= 0 else box[1]
    pen.rectangle((left, top, left + width + _MARGIN - 1, top + height + _MARGIN - 1), fill=rgb)
    pen.text((left + _MARGIN, top + _MARGIN), text, fill=_ink(rgb), font=font)


def _ink(rgb: tuple[int, ...]) -> str:
    """Black on light colors, white on dark ones, by luma (ITU-R BT.601)."""
    red, green, blue = rgb
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
