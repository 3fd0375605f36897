"""Drawn scenes with exact boxes: coloured shapes for the tiny model's schooling, icons on screens for the demo.

A scene is drawn on a square canvas of CANVAS pixels; the tiny model sees it at half that side. Objects do not overlap,
and a question names exactly one of them. A blob, a polygon like no other, has no name: it is the thing that an unknown
word may mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 224

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 50, 180),
    "orange": (245, 130, 30),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}

Draw = ImageDraw.ImageDraw
Corners = tuple[int, int, int, int]  # left, top, right, bottom, half-open
Paint = Callable[[Draw, Corners, tuple[int, int, int]], None]
Ground = Callable[[np.random.Generator], Image.Image]


class Placed(NamedTuple):
    """One object of a scene."""

    name: str  # what a question calls it; empty for a blob
    box: Corners  # original pixels


class Scene(NamedTuple):
    """A picture and what is in it."""

    picture: Image.Image
    objects: list[Placed]


# ---- shapes ----------------------------------------------------------------------------------------------------


def _polygon(points: list[tuple[float, float]]) -> Paint:
    """A painter of a polygon given in shares of the box's sides."""

    def paint(draw: Draw, box: Corners, color: tuple[int, int, int]) -> None:
        left, top, right, bottom = box
        width, height = right - left - 1, bottom - top - 1
        draw.polygon([(left + x * width, top + y * height) for x, y in points], fill=color)

    return paint


def _circle(draw: Draw, box: Corners, color: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    draw.ellipse((left, top, right - 1, bottom - 1), fill=color)


def _ring(draw: Draw, box: Corners, color: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    draw.ellipse((left, top, right - 1, bottom - 1), outline=color, width=max(4, (right - left) // 5))


SHAPES: dict[str, Paint] = {
    "circle": _circle,
    "square": _polygon([(0, 0), (1, 0), (1, 1), (0, 1)]),
    "triangle": _polygon([(0.5, 0), (1, 1), (0, 1)]),
    "ring": _ring,
    "diamond": _polygon([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
    "cross": _polygon(
        [
            *((0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67)),
            *((0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)),
        ]
    ),
}


def _blob(rng: np.random.Generator) -> Paint:
    """A polygon of 5 to 8 corners that fills its box, star-shaped about its middle."""
    count = int(rng.integers(5, 9))
    turns = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    return _polygon(_fill_box(turns, rng.uniform(0.45, 1.0, count)))


def _fill_box(turns: np.ndarray, reach: np.ndarray) -> list[tuple[float, float]]:
    """Corners at these angles and distances from a middle, stretched to touch all four sides of their box."""
    xy = np.stack([np.sin(turns) * reach, -np.cos(turns) * reach], axis=1)
    low, high = xy.min(axis=0), xy.max(axis=0)
    return [(float(x), float(y)) for x, y in (xy - low) / (high - low)]


# ---- icons -----------------------------------------------------------------------------------------------------


def _heart(draw: Draw, box: Corners, color: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    width, height = right - left - 1, bottom - top - 1
    for start in (left, left + width * 0.46):
        draw.ellipse((start, top, start + width * 0.54, top + height * 0.56), fill=color)
    corners = [(0.05, 0.4), (0.95, 0.4), (0.5, 1)]
    draw.polygon([(left + x * width, top + y * height) for x, y in corners], fill=color)


def _star_points() -> list[tuple[float, float]]:
    return _fill_box(np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2 == 0, 1.0, 0.42))


ICONS: dict[str, Paint] = {
    "house": _polygon([(0.5, 0), (1, 0.45), (0.85, 0.45), (0.85, 1), (0.15, 1), (0.15, 0.45), (0, 0.45)]),
    "star": _polygon(_star_points()),
    "heart": _heart,
    "arrow": _polygon([(0, 0.32), (0.55, 0.32), (0.55, 0), (1, 0.5), (0.55, 1), (0.55, 0.68), (0, 0.68)]),
    "bolt": _polygon([(0.6, 0), (0, 0.58), (0.42, 0.58), (0.3, 1), (1, 0.38), (0.56, 0.38), (0.75, 0)]),
    "flag": _polygon([(0, 0), (1, 0.28), (0.18, 0.56), (0.18, 1), (0, 1)]),
}


# ---- grounds ---------------------------------------------------------------------------------------------------


def plain(rng: np.random.Generator) -> Image.Image:
    """Grey all over."""
    return Image.new("RGB", (CANVAS, CANVAS), (128, 128, 128))


def shade(rng: np.random.Generator) -> Image.Image:
    """Light or dark grey with a tint of a colour, shading from corner to corner."""
    corners = rng.uniform(70, 215) + rng.uniform(-20, 20, size=3) + rng.uniform(-30, 30, size=(2, 2, 1))
    small = Image.fromarray(corners.clip(0, 255).astype(np.uint8))
    return small.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)


def panel(rng: np.random.Generator) -> Image.Image:
    """A window of a light or dark theme: a bar on top, rules of greyed text below."""
    base = int(rng.choice([60, 90, 170, 200])) + int(rng.integers(-12, 13))
    ink = base + (30 if base < 128 else -30)
    picture = Image.new("RGB", (CANVAS, CANVAS), (base, base, base + 6))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, CANVAS, 14), fill=(ink, ink, ink + 8))
    for top in range(28, CANVAS, 16):
        draw.rectangle((10, top, 10 + int(rng.integers(40, CANVAS - 30)), top + 3), fill=(ink, ink, ink))
    return picture


# ---- scenes ----------------------------------------------------------------------------------------------------


def draw_shapes(
    rng: np.random.Generator, *, most: int = 4, grounds: Sequence[Ground] = (shade,), blobs: float = 0.0
) -> Scene:
    """One to `most` shapes, no two of the same colour and shape, on one of the grounds; with a blob in that share."""
    picture = grounds[int(rng.integers(len(grounds)))](rng)
    draw = ImageDraw.Draw(picture)
    objects: list[Placed] = []
    for _ in range(int(rng.integers(1, most + 1))):
        box = free_box(rng, [placed.box for placed in objects])
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(list(SHAPES)))
        name = f"{color} {shape}"
        if box is None or any(placed.name == name for placed in objects):
            continue
        SHAPES[shape](draw, box, COLORS[color])
        objects.append(Placed(name, box))
    box = free_box(rng, [placed.box for placed in objects])
    if box is not None and rng.random() < blobs:
        _blob(rng)(draw, box, COLORS[str(rng.choice(list(COLORS)))])
        objects.append(Placed("", box))
    return Scene(picture, objects)


def sample_scenes(count: int) -> list[Scene]:
    """The same few scenes of shapes every time."""
    return [draw_shapes(np.random.default_rng(seed)) for seed in range(count)]


def free_box(rng: np.random.Generator, taken: list[Corners], tries: int = 20) -> Corners | None:
    """A box of 16 to 45 % of the canvas's side that keeps clear of the taken ones; None where there is no room."""
    for _ in range(tries):
        width = int(rng.integers(36, 101))
        height = int(np.clip(width * rng.uniform(0.75, 1.33), 36, 100))
        left, top = int(rng.integers(0, CANVAS - width + 1)), int(rng.integers(0, CANVAS - height + 1))
        box = (left, top, left + width, top + height)
        if not any(_touch(box, other) for other in taken):
            return box
    return None


def _touch(a: Corners, b: Corners, gap: int = 4) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def draw_screen(rng: np.random.Generator, *, icons: int = 5) -> Scene:
    """`icons` different icons, each in some colour, on a screen with a title bar and lines of text."""
    picture = panel(rng)
    draw = ImageDraw.Draw(picture)
    objects: list[Placed] = []
    for name in rng.permutation(list(ICONS))[:icons]:
        box = free_box(rng, [placed.box for placed in objects])
        if box is None:
            continue
        ICONS[name](draw, box, COLORS[str(rng.choice(list(COLORS)))])
        objects.append(Placed(str(name), box))
    return Scene(picture, objects)
