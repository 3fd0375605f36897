"""Small sources in other people's formats, and what a reader makes of them, in a form that is easy to compare."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cameras import as_stored, exif
from hypothesis import strategies as st
from PIL import Image

from groundling.data.formats.detection import Annotated
from groundling.data.formats.found import Found
from groundling.data.record import Record, Rejected
from groundling.errors import GroundlingError

BROKEN_NUMBERS = ["NaN", "-Infinity", "1e999", "1" * 5000, "null", '"10"', "true", "[]", "{}", '{"a": 1, "a": 2}']
"""What may stand in JSON where a number should."""

DEEP = "[" * 100_000 + "]" * 100_000


def save_picture(file: Path, width: int = 640, height: int = 428, *, orientation: int = 1) -> Path:
    """A picture of that upright size, stored as a camera with that orientation stores it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = as_stored(Image.new("RGB", (width, height), (90, 60, 30)), orientation)
    out = io.BytesIO()
    kind = "JPEG" if file.suffix == ".jpg" else "PNG"
    image.save(out, kind, exif=exif(orientation)) if orientation > 1 else image.save(out, kind)
    file.write_bytes(out.getvalue())
    return file


def save_json(file: Path, value: object) -> Path:
    """The value as JSON; a text and bytes are written as they are."""
    return save_text(file, value if isinstance(value, str | bytes) else json.dumps(value))


def save_text(file: Path, text: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return file


def things_of(items: Iterable[Any]) -> list[tuple[str, str, tuple[float, ...]]]:
    """Picture, label and numbers of every thing without a fault, in order."""
    return [
        (item.image_name, thing.label, thing.numbers)
        for item in items
        if isinstance(item, Annotated)
        for thing in item.things
        if not thing.fault
    ]


def faults_of(items: Iterable[Any]) -> str:
    """Why things cannot be used and why items were rejected, a line each."""
    lines: list[str] = []
    for item in items:
        if isinstance(item, Rejected):
            lines.append(item.reason)
        elif isinstance(item, Annotated):
            lines += [thing.fault for thing in item.things if thing.fault]
    return "\n".join(lines)


def answers_of(records: Iterable[Record]) -> dict[str, list[tuple[float, ...]]]:
    """By question, the numbers of the targets."""
    return {record.question: [target.numbers for target in record.targets] for record in records}


def expected_boxes(shared_data: Path, format: str) -> dict[str, list[tuple[str, list[float], str]]]:
    """By annotation file, the label, box and shape of what an independent reader found in the shared real files."""
    found: dict[str, list[tuple[str, list[float], str]]] = {}
    for line in (shared_data / "formats/expected.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["format"] == format:
            shape = entry.get("shape", "")
            found.setdefault(entry["file"], []).append((entry["image"], entry["label"], entry["box"], shape))
    return found


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([7, 3, "7.png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
"""Any small JSON, and what Python writes beyond it."""


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def entries(*keys: str) -> st.SearchStrategy[Any]:
    """Objects with some of these keys and anything in them, and other things."""
    return st.dictionaries(st.sampled_from(keys), anything, max_size=6) | anything


def documents(structure: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON of that structure, of another one, and no JSON."""
    return structure.map(as_json) | anything.map(as_json) | st.binary(max_size=50)


def assert_read_or_refused(read: Callable[[], Iterable[object]]) -> None:
    """Whatever the input is: items, or an error of ours."""
    try:
        items = list(read())
    except GroundlingError:
        return
    assert all(isinstance(item, Found | Annotated | Rejected) for item in items)
