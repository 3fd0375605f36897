"""Faults to plant in the clean set, each with the code that finds it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from clean_set import Row, clouds, read_rows, write_rows
from PIL import Image


class Set(NamedTuple):
    """What a fault is planted in: the rows of train.jsonl, and the folder with everything else."""

    folder: Path
    rows: list[Row]

    @property
    def row(self) -> Row:
        """The second question about the first picture: a thing in the middle of it."""
        return self.rows[1]

    def box(self, *numbers: float) -> None:
        self.row["targets"][0]["box"] = list(numbers)

    def picture(self, row: Row | None = None) -> Image.Image:
        return Image.open(self.folder / (row or self.row)["image"])

    def write(self, name: str, content: bytes) -> str:
        """Another picture file; returns what a record calls it."""
        (self.folder / "images" / name).write_bytes(content)
        return f"images/{name}"

    def use(self, name: str, content: bytes, **size: int) -> None:
        """Another picture for one record."""
        self.row.update(image=self.write(name, content), **size)

    def boxes(self) -> list[tuple[Row, dict]]:
        return [(row, target) for row in self.rows for target in row["targets"]]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few pixels do not have."""
    png = encoded(Image.new("RGB", (8, 8)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def copied(plant: Set, image: Image.Image, **options: object) -> None:
    """The first picture of test.jsonl is another file of a training picture."""
    rows = read_rows(plant.folder / "test.jsonl")
    name = plant.write("copy.jpg", encoded(image, "JPEG", **options))
    rows[0].update(image=name, width=image.width, height=image.height, targets=[])
    write_rows(rows, plant.folder / "test.jsonl")


def as_xywh(plant: Set) -> None:
    for _, target in plant.boxes():
        left, top, right, bottom = target["box"]
        target["box"] = [left, top, right - left, bottom - top]


def as_thousandths(plant: Set) -> None:
    for row, target in plant.boxes():
        sides = [row["width"], row["height"]] * 2
        target["box"] = [round(1000 * number / side) for number, side in zip(target["box"], sides, strict=True)]


def as_resized(plant: Set) -> None:
    for row, target in plant.boxes():
        scale = 128 / max(row["width"], row["height"])
        target["box"] = [round(number * scale, 1) for number in target["box"]]


def unbalance(plant: Set) -> None:
    """One target each of three classes, all the others of the fourth; test.jsonl without labels."""
    for number, (_, target) in enumerate(plant.boxes()):
        target["label"] = ["cup", "plate", "fork", "pan"][number if number < 4 else 0]
    rows = read_rows(plant.folder / "test.jsonl")
    write_rows([row | {"targets": []} for row in rows], plant.folder / "test.jsonl")


def rename_class(plant: Set) -> None:
    for _, target in plant.boxes():
        if target["label"] == "cup":
            target["label"] = "cup " * 60


def turned(plant: Set) -> None:
    metadata = Image.Exif()
    metadata[0x0112] = 6
    stored = clouds(np.random.default_rng(0), 300, 400)
    plant.use("turned.jpg", encoded(stored, "JPEG", exif=metadata), width=300, height=400)
    plant.box(100, 100, 200, 200)


def animated(plant: Set) -> None:
    frames = [clouds(np.random.default_rng(seed), *plant.picture().size) for seed in range(2)]
    plant.use("moving.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def thumbnail(plant: Set) -> None:
    plant.use("small.png", encoded(clouds(np.random.default_rng(0), 12, 12), "PNG"), width=12, height=12)
    plant.box(1, 1, 10, 10)


def again(plant: Set, **changes: object) -> None:
    plant.rows.append(plant.row | {"id": "again"} | changes)


def near_twin(plant: Set) -> None:
    left, top, right, bottom = plant.row["targets"][0]["box"]
    plant.row["targets"].append({"label": plant.row["targets"][0]["label"], "box": [left, top, right + 1, bottom]})


FAULTS: dict[str, tuple[str, Callable[[Set], object]]] = {
    "a number that is no JSON": ("unreadable_record", lambda p: p.box(float("nan"), 20, 60, 80)),
    "a box of three numbers": ("unreadable_record", lambda p: p.box(20, 60, 80)),
    "a path out of the folder": ("unreadable_record", lambda p: p.row.update(image="../out.jpg")),
    "a picture that is not there": ("missing_picture", lambda p: p.row.update(image="images/gone.jpg")),
    "a picture cut short": ("unreadable_picture", lambda p: p.use("cut.jpg", encoded(p.picture(), "JPEG")[:2000])),
    "a drawing named as a picture": ("unreadable_picture", lambda p: p.use("drawing.jpg", b"<svg/>")),
    "an empty file": ("unreadable_picture", lambda p: p.use("empty.jpg", b"")),
    "a decompression bomb": ("unfit_size", lambda p: p.use("bomb.png", claiming(30_000, 30_000))),
    "a picture like a thread": ("unfit_size", lambda p: p.use("thread.png", encoded(Image.new("L", (900, 4)), "PNG"))),
    "the size of another picture": ("wrong_size", lambda p: p.row.update(width=1000, height=700)),
    "the size before EXIF turned it": ("wrong_size", turned),
    "one box of x, y, width, height": ("looks_like_xywh", lambda p: p.box(180, 150, 50, 60)),
    "a file of x, y, width, height": ("looks_like_xywh", as_xywh),
    "a file of thousandths": ("looks_thousandths", as_thousandths),
    "a file of resized pixels": ("looks_resized", as_resized),
    "a box of fractions": ("looks_normalized", lambda p: p.box(0.1, 0.2, 0.5, 0.9)),
    "corners the wrong way round": ("inverted", lambda p: p.box(230, 200, 180, 190)),
    "a box without area": ("empty", lambda p: p.box(20, 30, 20, 90)),
    "a box beyond its picture": ("outside", lambda p: p.box(20, 30, 900, 90)),
    "a point beyond its picture": ("point_outside", lambda p: p.row.update(targets=[{"point": [50, 999]}])),
    "a question without words": ("empty_question", lambda p: p.row.update(question=" \n")),
    "one picture in two files": ("leak", lambda p: p.row.update(image="images/test-0.jpg", targets=[], **wh(p, 0))),
    "a picture compressed again": ("near_leak", lambda p: copied(p, p.picture(), quality=60)),
    "a picture of half the size": ("near_leak", lambda p: copied(p, half(p.picture()))),
    "a brightened copy in one file": ("near_duplicate", lambda p: p.use("b.png", encoded(brighter(p), "PNG"))),
    "a converter in doubt": ("doubtful", lambda p: p.row.update(doubt="stored or upright?")),
    "two answers to one question": ("ambiguous", lambda p: again(p, targets=[])),
    "a record twice": ("duplicate_record", again),
    "a target twice": ("duplicate_box", lambda p: p.row["targets"].append(p.row["targets"][0])),
    "a target nearly twice": ("duplicate_box", near_twin),
    "an id twice": ("duplicate_id", lambda p: p.row.update(id=p.rows[5]["id"])),
    "a box a pixel too wide": ("clipped", lambda p: p.box(20, 30, p.row["width"] + 1, 90)),
    "a point a pixel too low": ("clipped", lambda p: p.row.update(targets=[{"point": [50, p.row["height"] + 1]}])),
    "a box of three pixels": ("tiny", lambda p: p.box(100, 100, 103, 140)),
    "a thumbnail": ("small_picture", thumbnail),
    "a class in two spellings": ("label_variants", lambda p: p.row["targets"][0].update(label=" Cup")),
    "a question of a page": ("long_text", lambda p: p.row.update(question="where " * 200)),
    "a label of a page": ("long_text", rename_class),
    "an animation": ("more_frames", animated),
    "a class of one": ("rare_class", lambda p: p.row["targets"][0].update(label="spork")),
    "a class of nearly all": ("unbalanced", unbalance),
    "a box around everything": ("whole_picture", lambda p: p.box(0, 0, p.row["width"], p.row["height"])),
    "a control token": ("control_tokens", lambda p: p.row.update(question="the <|im_end|> sign")),
}


def wh(plant: Set, test_row: int) -> dict[str, int]:
    row = read_rows(plant.folder / "test.jsonl")[test_row]
    return {"width": row["width"], "height": row["height"]}


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def brighter(plant: Set) -> Image.Image:
    return plant.picture().point(lambda level: round(255 * (level / 255) ** 0.8))
