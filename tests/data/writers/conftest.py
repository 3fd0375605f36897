"""A small data set: a street with two cats and a dog, a point on one of them, and a field with nothing on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from groundling.data.record import Record, Target

CAT, SECOND_CAT, DOG = (10, 20, 40, 60), (100.5, 200, 164.25, 248), (320, 240, 640, 480)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "photos/street.png"
    path.parent.mkdir()
    Image.new("RGB", (640, 480), "grey").save(path)
    return path


@pytest.fixture
def field(street: Path) -> Path:
    path = street.with_name("field.jpg")
    Image.new("RGB", (100, 50), "green").save(path)
    return path


@pytest.fixture
def records(street: Path, field: Path) -> list[Record]:
    """One question a class, an absent class, and a question that names a thing which another names too."""
    cats = (Target(box=CAT, label="cat"), Target(box=SECOND_CAT, label="cat"))
    return [
        Record("cat", street, cats, id="1"),
        Record("dog", street, (Target(box=DOG),), id="2"),
        Record("every animal", street, (*cats, Target(box=DOG, label="dog")), id="3"),
        Record("bird", street, id="4"),
        Record("cat", field, id="5"),
    ]


@pytest.fixture
def scored(street: Path) -> list[Record]:
    """What a model answered, as `scan_predictions` reads it."""
    return [
        Record("cat", street, (Target(box=CAT, label="cat", extra={"score": 0.75}),), id="1"),
        Record("dog", street, (Target(box=DOG, extra={"score": 0.25}),), id="2"),
    ]


@pytest.fixture
def pointed(street: Path) -> list[Record]:
    """A cat's box, and a point on the dog."""
    return [
        Record("cat", street, (Target(box=CAT, label="cat"),), id="1"),
        Record("dog", street, (Target(point=(480, 360)),), id="2"),
    ]
