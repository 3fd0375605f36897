"""What the HTML pages are made of: pictures inside the page, and boxes over them as SVG.

A page is one file that fetches nothing and needs no script, so it can be mailed and opened in ten years. All text comes
from questions, labels and models, hence from strangers: the templates escape every value. A page's own template stands
beside the code that fills it, and extends `page.html.j2` of this folder.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from groundling.errors import ImageError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image

Role = Literal["truth", "answer", "before", "after"]

MAX_SIDE = 640  # pixels of an embedded picture; sixty of them make a page of about 4 MB
_JPEG_QUALITY = 82
_FINE_JPEG_QUALITY = 92
_MOST_EXACT_PIXELS = 150_000  # at up to 3 bytes each
_MAX_RECTANGLES = 200  # of one layer; more hide the picture and swell the page
_MARGIN = 0.6  # of the boxes' extent, left around them in a close-up


class Region(NamedTuple):
    """A part of a picture, in its original pixels."""

    left: float
    top: float
    width: float
    height: float


class Layer(NamedTuple):
    """Boxes and points to draw in one colour."""

    role: Role
    rectangles: list[Region]
    dots: Sequence[tuple[float, float]] = ()


class View(NamedTuple):
    """A part of a picture with boxes over it. `picture` is a data URI; None shows grey, or `same_as`'s picture."""

    name: str  # unique in the page
    region: Region
    picture: str | None
    layers: list[Layer]
    same_as: str | None = None


# ---- pictures --------------------------------------------------------------------------------------------------


def open_or_none(path: Path | None) -> Image.Image | None:
    """The picture, upright; None where there is none or it cannot be read: a page is made all the same."""
    if path is None:
        return None
    try:
        return open_image(path)
    except ImageError:
        return None


def embed(image: Image.Image | None, region: Region, original: Frame) -> str | None:
    """A part of the picture as a small JPEG in a data URI; None without a picture.

    `image` may have other pixels than `original` says (it was changed since): the same share of it is shown.
    """
    if image is None:
        return None
    x_scale, y_scale = image.width / original.width, image.height / original.height
    left, top = math.floor(region.left * x_scale), math.floor(region.top * y_scale)
    right = max(left + 1, math.ceil((region.left + region.width) * x_scale))
    bottom = max(top + 1, math.ceil((region.top + region.height) * y_scale))
    part = image.crop((left, top, right, bottom))
    part.thumbnail((MAX_SIDE, MAX_SIDE))
    return _data_uri(part, "JPEG", quality=_JPEG_QUALITY)


def embed_exactly(image: Image.Image) -> str:
    """The whole picture at its own size in a data URI: a small one to the bit (PNG), a large one as a fine JPEG."""
    if image.width * image.height <= _MOST_EXACT_PIXELS:
        return _data_uri(image, "PNG")
    return _data_uri(image, "JPEG", quality=_FINE_JPEG_QUALITY, subsampling=0)


def _data_uri(image: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def whole(frame: Frame) -> Region:
    """All of a picture."""
    return Region(0, 0, *frame.size_wh)


def around(boxes: Sequence[Boxes], original: Frame, *, least: float, aspect: float) -> Region:
    """The part that holds all the boxes with a margin; all of the picture without boxes.

    It is at least the share `least` of each side, and `aspect` (width / height) where the picture is large enough.
    """
    corners = np.concatenate([group.clip().xyxy for group in boxes])
    if not len(corners):
        return whole(original)
    sides_wh = np.array(original.size_wh, dtype=np.float64)
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    width, height = np.maximum((high - low) * (1 + 2 * _MARGIN), sides_wh * least)
    lengths_wh = np.minimum([max(width, height * aspect), max(height, width / aspect)], sides_wh)
    start = np.clip((low + high - lengths_wh) / 2, 0, sides_wh - lengths_wh)
    return Region(*start.round(1).tolist(), *lengths_wh.round(1).tolist())


def layer(role: Role, boxes: Boxes, points: Points | None = None) -> Layer:
    """The boxes as rectangles and the points as dots, the first few hundred of them."""
    rows = boxes.xyxy[:_MAX_RECTANGLES].tolist()
    rectangles = [Region(x, y, max(right - x, 0), max(bottom - y, 0)) for x, y, right, bottom in rows]
    dots = [] if points is None else points.xy[:_MAX_RECTANGLES].tolist()
    return Layer(role, rectangles, [(x, y) for x, y in dots])


# ---- words and the page ----------------------------------------------------------------------------------------


def show_share(value: float, digits: int = 3) -> str:
    """A share for a table: 0.412; a dash where nothing was measured."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.{digits}f}"


def show_change(value: float, digits: int = 3) -> str:
    """A difference with its sign: +0.412; 0.000 without one."""
    if math.isnan(value):
        return "\N{EN DASH}"
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def show_p(value: float) -> str:
    """A p value as far as it means something: 0.24, 0.003, < 0.001."""
    if math.isnan(value):
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def write_page(path: Path, template: Path, **values: Any) -> None:
    """Fill a template and write it; characters that UTF-8 has no bytes for become references."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": show_share, "change": show_change, "p": show_p}
    text = environment.get_template(template.name).render(**values)
    path.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")
