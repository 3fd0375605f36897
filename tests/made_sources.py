"""Annotation files made by hand, and pictures for them to be about."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cameras import as_stored, exif
from hypothesis import strategies as st
from PIL import Image

from groundling.data.convert import Conversion, convert
from groundling.data.formats.found import Reading
from groundling.data.record import Rejected
from groundling.data.sources import FORMATS, Item
from groundling.errors import GroundlingError


@cache
def picture(width: int = 640, height: int = 480, *, orientation: int = 1, kind: str = "JPEG") -> bytes:
    """A plain photograph of this upright size, as a camera of that orientation stores it."""
    upright = Image.new("RGB", (width, height), (90, 120, 60))
    out = io.BytesIO()
    as_stored(upright, orientation).save(out, kind, exif=exif(orientation))
    return out.getvalue()


def save_picture(file: Path, width: int = 640, height: int = 480, *, orientation: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture(width, height, orientation=orientation))
    return file


def save_lines(file: Path, *entries: object) -> Path:
    """JSONL; a text stands as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def boxes(conversion: Conversion) -> dict[str, list[tuple[float, ...]]]:
    """The numbers of every target, by question."""
    return {
        record.question: [tuple(round(number, 3) for number in target.numbers) for target in record.targets]
        for record in conversion.records
    }


def reasons(conversion: Conversion) -> str:
    return "\n".join(f"{bad.line}: {bad.reason}" for bad in conversion.rejected)


def make(format: str, source: Path, out: Path, **options: Any) -> Conversion:
    return convert(format, source, out / "out" / "r.jsonl", **options)


# ---- garbage ---------------------------------------------------------------------------------------------------

_SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)


def garbage(keys: Sequence[str], words: Sequence[str]) -> st.SearchStrategy[Any]:
    """JSON values of any shape in which those keys and words are common."""
    leaves = _SCALARS | st.sampled_from(words) | st.text(max_size=8)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), inner),
        max_leaves=25,
    )


def read_all(format: str, source: Path, **reading: Any) -> list[Item]:
    """All that a reader hands over; a source that it refuses whole is nothing. Any other exception is a bug."""
    try:
        return list(FORMATS[format].read(str(source), Reading(**reading)))
    except GroundlingError:
        return []


def rejected_lines(items: Sequence[Item]) -> list[int | None]:
    return [item.line for item in items if isinstance(item, Rejected)]
