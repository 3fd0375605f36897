"""Pictures that look alike: copies are found, different pictures are not, and a hundred thousand take seconds."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clean_set import clouds
from PIL import Image, ImageDraw

from groundling.data.likeness import FAR, SIDE, difference_hash, match, sketch
from groundling.geometry.images import open_image

PICTURES = sorted((Path(__file__).parents[1] / "pictures" / "images").iterdir())


def sketches_of(*pictures: Image.Image) -> np.ndarray:
    return np.frombuffer(b"".join(map(sketch, pictures)), dtype=np.uint8).reshape(-1, SIDE, SIDE)


def alike(*pictures: Image.Image) -> list[int]:
    """For each picture the number of an earlier one that it looks like, or -1."""
    return match(sketches_of(*pictures), np.zeros(len(pictures), dtype=int)).same_file.tolist()


def distance(a: Image.Image, b: Image.Image) -> int:
    first, second = difference_hash(sketches_of(a, b))
    return int((first != second).sum())


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return open_image(file.getvalue())


def resized(image: Image.Image, parts: int) -> Image.Image:
    return image.resize((image.width // parts, image.height // parts), Image.Resampling.LANCZOS)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": lambda image: compressed(image, 60),
    "JPEG of quality 20": lambda image: compressed(image, 20),
    "half the size": lambda image: resized(image, 2),
    "a quarter of the size, JPEG of quality 50": lambda image: compressed(resized(image, 4), 50),
    "brighter in the middle tones": lambda image: image.point(lambda level: round(255 * (level / 255) ** 0.8)),
    "darker": lambda image: image.point(lambda level: round(level * 0.75)),
    "without its lowest pixels": lambda image: image.crop((0, 0, image.width, image.height - 2)),
}


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [open_image(path) for path in PICTURES]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_looks_like_its_picture_alone(photographs: list[Image.Image], copy: str) -> None:
    """Every copy within the threshold, where the nearest other picture is at more than four times of it."""
    copies = [COPIES[copy](image) for image in photographs]
    assert alike(*photographs, *copies) == [-1] * len(photographs) + list(range(len(photographs)))
    assert max(distance(a, b) for a, b in zip(photographs, copies, strict=True)) <= FAR
    others = [distance(a, b) for i, a in enumerate(photographs) for j, b in enumerate(copies) if i != j]
    assert min(others) > 4 * FAR


def test_a_mirrored_picture_is_another(photographs: list[Image.Image]) -> None:
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in photographs]
    assert alike(*photographs, *mirrored) == [-1] * 2 * len(photographs)


def test_the_real_pictures_differ_and_their_copies_do_not(shared_data: Path) -> None:
    """46 photographs, scans and screenshots, several of one program; the measurement that the thresholds come from."""
    import pyarrow.parquet as parquet

    rows = [
        row for file in (shared_data / "textvqa_like/data").iterdir() for row in parquet.read_table(file).to_pylist()
    ]
    pictures = [open_image(content) for content in dict.fromkeys(row["image"]["bytes"] for row in rows)]
    assert len(pictures) >= 40 and alike(*pictures) == [-1] * len(pictures)
    for copy in ("JPEG of quality 60", "half the size"):
        copies = [COPIES[copy](image) for image in pictures]
        assert alike(*pictures, *copies)[len(pictures) :] == list(range(len(pictures)))


# ---- pictures with little in them ------------------------------------------------------------------------------


def blank(level: int) -> Image.Image:
    return Image.new("RGB", (400, 300), (level, level, level))


def diagram(number: int) -> Image.Image:
    """A white page with one thin shape somewhere."""
    picture = blank(255)
    x, y = 30 + 37 * number % 300, 20 + 53 * number % 220
    ImageDraw.Draw(picture).ellipse((x, y, x + 60, y + 40), outline="black")
    return picture


def screen(number: int) -> Image.Image:
    """One window with bars at its sides, filled with lines of other lengths."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (640, 400), (245, 245, 247))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, 640, 25), fill=(40, 60, 90))
    pen.rectangle((0, 25, 110, 400), fill=(225, 228, 232))
    for row in range(12):
        pen.rectangle((125, 40 + 28 * row, 125 + int(rng.integers(60, 480)), 58 + 28 * row), fill=(120, 120, 120))
    return picture


def test_blank_pictures_look_like_none() -> None:
    assert alike(*[blank(level) for level in (0, 10, 128, 250, 255)], blank(128)) == [-1] * 6


def test_diagrams_on_white_pages_differ() -> None:
    assert set(alike(*[diagram(number) for number in range(20)])) == {-1}


def test_screens_of_one_program_differ_but_their_copies_do_not() -> None:
    screens = [screen(number) for number in range(40)]
    assert set(alike(*screens)) == {-1}
    assert alike(screens[0], compressed(screens[0], 60)) == [-1, 0]


# ---- files and numbers -----------------------------------------------------------------------------------------


def test_partners_are_earlier_and_told_by_file() -> None:
    rng = np.random.default_rng(0)
    first, second = clouds(rng, 200, 150), clouds(rng, 200, 150)
    pictures = [first, second, resized(first, 2), compressed(first, 60)]
    found = match(sketches_of(*pictures), np.array([0, 0, 0, 1]))
    assert found.same_file.tolist() == [-1, -1, 0, -1]
    assert found.other_file[:3].tolist() == [-1, -1, -1] and found.other_file[3] in (0, 2)


def test_no_pictures_no_matches() -> None:
    found = match(np.zeros((0, SIDE, SIDE), dtype=np.uint8), np.zeros(0, dtype=int))
    assert len(found.same_file) == len(found.other_file) == 0


def many_sketches(count: int) -> np.ndarray:
    """Smooth random pictures, lighter above than below for two of three, as outdoors."""
    rng = np.random.default_rng(0)
    frequencies = np.fft.fftfreq(SIDE)
    falloff = np.maximum(np.hypot(frequencies[:, None], frequencies[None]), frequencies[1]) ** 1.2
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, SIDE, SIDE))) / falloff).real
    levels = noise / noise.std(axis=(1, 2), keepdims=True) * 45 + 120
    levels += np.linspace(40, -40, SIDE)[:, None] * (rng.random((count, 1, 1)) < 0.66)
    return np.clip(levels, 0, 255).astype(np.uint8)


def test_twenty_thousand_pictures_take_a_moment_and_every_copy_is_found() -> None:
    sketches = many_sketches(20_000)
    noise = np.random.default_rng(1).integers(-3, 4, size=(200, SIDE, SIDE))
    sketches[10_000:10_200] = np.clip(sketches[:200].astype(int) + noise, 0, 255)
    start = time.process_time()
    found = match(sketches, np.repeat([0, 1], 10_000))
    assert time.process_time() - start < 10
    assert found.other_file[10_000:10_200].tolist() == list(range(200))
    assert (found.other_file >= 0).sum() == 200 and (found.same_file >= 0).sum() == 0


def test_pictures_that_all_look_the_same_do_not_hang() -> None:
    """Frames of a camera that stands still: each finds a partner without being held against all."""
    rng = np.random.default_rng(0)
    frames = np.clip(many_sketches(1) + rng.integers(-1, 2, size=(5000, SIDE, SIDE)), 0, 255).astype(np.uint8)
    start = time.process_time()
    found = match(frames, np.zeros(5000, dtype=int))
    assert time.process_time() - start < 10
    assert (found.same_file >= 0).mean() > 0.95
