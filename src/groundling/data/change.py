"""A change of a training picture: what is done to its pixels, and where its boxes and points are afterwards.

Every change that moves pixels is one thing: pictures pasted on a canvas, each turned, cut to a window, and brought to
the size that it has there. A mirrored picture is one that covers its canvas, a mosaic is four in the quarters of one.
So there is one way for coordinates, `Pasted.carry` through `Boxes` and `Points`, and one for pixels, `change_picture`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageEnhance

from groundling.data.record import Target
from groundling.data.words import mirror_words
from groundling.errors import ImageError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, turn_image

Places = TypeVar("Places", Boxes, Points)
Window = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels

TURNS = (1, 6, 3, 8)  # EXIF orientations, each a quarter more clockwise than the one before
MIRRORED_TURNS = (2, 7, 4, 5)  # the same after left and right are swapped
GREY = (123, 117, 104)  # around smaller pictures: the mean that the families' processors subtract, which leaves 0
GONE = 0.1  # share of a target's area below which it counts as cut away: nobody would draw a box around so little
LONGEST_JPEG = 65500  # pixels of a side that libjpeg takes


class Colour(NamedTuple):
    """Factors around 1, applied in this order. Hues stay as they are: a question may name one."""

    brightness: float
    contrast: float
    saturation: float


@dataclass(frozen=True)
class Pasted:
    """One picture on a canvas: turned, cut to a window, brought to a size, put in its place."""

    image: Path
    original: Frame
    turn: int  # as an EXIF orientation
    window: Window  # of the turned picture
    size: Frame  # of the window on the canvas
    left: int
    top: int

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are swapped."""
        return self.turn in MIRRORED_TURNS

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the picture is cut away."""
        return self.window == (0, 0, *turned_frame(self.original, self.turn).size_wh)

    @property
    def window_frame(self) -> Frame:
        """The size of the window, before it is brought to its size on the canvas."""
        left, top, right, bottom = self.window
        return Frame(right - left, bottom - top)

    def cut(self, places: Places) -> Places:
        """Boxes or points of the original picture in the window's frame; what lies outside of it is cut away."""
        left, top, _, _ = self.window
        return places.clip().turned(self.turn).onto(self.window_frame, -left, -top)

    def carry(self, places: Places, canvas: Frame) -> Places:
        """Boxes or points of the original picture on the canvas, as far as they are in the window."""
        return self.cut(places).clip().to(self.size).onto(canvas, self.left, self.top)


@dataclass(frozen=True)
class Change:
    """What is done to a picture, the first of `pictures`, and the frame that it has afterwards.

    Colours and JPEG, of a quality in 1..95, come last and are those of the whole canvas.
    """

    pictures: tuple[Pasted, ...]
    canvas: Frame
    colour: Colour | None = None
    jpeg: int | None = None

    @property
    def is_still(self) -> bool:
        """Whether every pixel stays in its place."""
        own = self.pictures[0]
        return len(self.pictures) == 1 and own.turn == 1 and own.is_whole and own.size == own.original == self.canvas

    @property
    def stilled(self) -> Change:
        """The change with every pixel left in its place."""
        own = self.pictures[0]
        whole = (0, 0, *own.original.size_wh)
        still = Pasted(own.image, own.original, turn=1, window=whole, size=own.original, left=0, top=0)
        return replace(self, pictures=(still,), canvas=own.original)

    @property
    def or_none(self) -> Change | None:
        """The change, or None where there is nothing to do."""
        return None if self.is_still and self.colour is None and self.jpeg is None else self


def turned_frame(frame: Frame, turn: int) -> Frame:
    """The frame of a picture that is turned as its EXIF orientation says."""
    return Boxes([], frame).turned(turn).frame


# ---- targets ---------------------------------------------------------------------------------------------------


def visible_shares(targets: Sequence[Target], pasted: Pasted) -> np.ndarray:
    """(targets,) in 0..1: how much of a box's area the window leaves; 1 for a point in it or on its border, else 0."""
    if pasted.is_whole:
        return np.ones(len(targets))
    boxes, points = _places(targets, pasted.original)
    boxes, points = pasted.cut(boxes), pasted.cut(points)
    areas = boxes.areas()
    of_boxes = np.divide(boxes.clip().areas(), areas, out=np.zeros_like(areas), where=areas > 0)
    of_points = np.all((points.xy >= 0) & (points.xy <= points.frame.size_wh), axis=1)
    shares = np.empty(len(targets))
    is_box = np.array([target.box is not None for target in targets], dtype=bool)
    shares[is_box], shares[~is_box] = of_boxes, of_points
    return shares


def change_targets(targets: Sequence[Target], pasted: Pasted, canvas: Frame) -> list[Target]:
    """The targets of one picture on the canvas, in order, without those that are GONE; labels mirrored if it is."""
    boxes, points = _places(targets, pasted.original)
    of_boxes = iter(pasted.carry(boxes, canvas).xyxy.tolist())
    of_points = iter(pasted.carry(points, canvas).xy.tolist())
    changed: list[Target] = []
    for target, share in zip(targets, visible_shares(targets, pasted), strict=True):
        label = change_words(target.label, pasted) if target.label else target.label
        if target.box is not None:
            moved = replace(target, box=tuple(next(of_boxes)), label=label)
        else:
            moved = replace(target, point=tuple(next(of_points)), label=label)
        changed += [moved] if share >= GONE else []
    return changed


def change_words(text: str, pasted: Pasted) -> str:
    """A question or a label as the changed picture has it; it is one that allows the change (`moves_allowed`)."""
    words = mirror_words(text) if pasted.is_mirrored else text
    assert words is not None, f"{text!r} cannot be mirrored"
    return words


def _places(targets: Sequence[Target], original: Frame) -> tuple[Boxes, Points]:
    boxes = Boxes([target.box for target in targets if target.box is not None], original)
    return boxes, Points([target.point for target in targets if target.point is not None], original)


# ---- pixels ----------------------------------------------------------------------------------------------------


def change_picture(change: Change, open_picture: Callable[[Path], Image.Image]) -> Image.Image:
    """The changed picture, RGB, of the size of the canvas; its pictures are opened one after the other.

    ImageError where one has another size than the change was decided for.
    """
    if len(change.pictures) == 1 and change.pictures[0].size == change.canvas:
        canvas = _cut_out(change.pictures[0], open_picture)
    else:
        canvas = Image.new("RGB", change.canvas.size_wh, GREY)
        for pasted in change.pictures:
            canvas.paste(_cut_out(pasted, open_picture), (pasted.left, pasted.top))
    if change.colour is not None:
        canvas = _recolour(canvas, change.colour)
    return canvas if change.jpeg is None else _recompress(canvas, change.jpeg)


def _cut_out(pasted: Pasted, open_picture: Callable[[Path], Image.Image]) -> Image.Image:
    """What of one picture comes on the canvas."""
    picture = open_picture(pasted.image)
    if picture.size != pasted.original.size_wh:
        raise ImageError(
            f"{pasted.image} is {picture.width}x{picture.height}, and was {pasted.original} when the training began; "
            "pictures have to stay as they are while a model learns from them"
        )
    picture = turn_image(picture, pasted.turn)
    if pasted.size == pasted.window_frame:
        return picture if pasted.is_whole else picture.crop(pasted.window)
    return picture.resize(pasted.size.size_wh, Image.Resampling.BICUBIC, box=pasted.window)


def _recolour(picture: Image.Image, colour: Colour) -> Image.Image:
    brighter = ImageEnhance.Brightness(picture).enhance(colour.brightness)
    contrasted = ImageEnhance.Contrast(brighter).enhance(colour.contrast)
    return ImageEnhance.Color(contrasted).enhance(colour.saturation)


def _recompress(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after it was saved as a JPEG of this quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return open_image(file.getvalue(), max_pixels=picture.width * picture.height)
