"""The sheets of a run: pictures put together again from patches, boxes read back from tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

import groundling as gl
from groundling.evaluation.metrics import Prediction
from groundling.geometry.images import open_image
from groundling.inference.batch import encode_record
from groundling.model.patches import resize
from groundling.model.processor import Processor
from groundling.training.pictures import (
    ANSWER,
    COLUMNS,
    TILE,
    TRUTH,
    Caption,
    Tile,
    draw_first_batch,
    draw_predictions,
    save_sheet,
)
from groundling.training.shown import restore_picture, show_sample


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def count_pixels(sheet: Path, color: str) -> int:
    """How many pixels of a sheet have about this color."""
    rgb = np.array(ImageColor.getrgb(color))
    return int((np.abs(np.asarray(Image.open(sheet)).astype(int) - rgb).max(axis=2) < 24).sum())


@pytest.mark.parametrize("size_wh", [(112, 112), (300, 90), (57, 211), (20, 20)])
def test_the_picture_in_the_patches_is_the_resized_one(tiny_processor: Processor, size_wh: tuple[int, int]) -> None:
    picture = noise(*size_wh)
    patches = tiny_processor.see(picture)
    restored = restore_picture(patches, tiny_processor)
    assert restored.size == patches.seen.size_wh
    assert np.array_equal(np.asarray(restored), resize(picture, patches.seen, "torch"))


def test_the_first_batch_shows_boxes_prompts_and_words_alone(
    tiny_processor: Processor, scenes: Path, tmp_path: Path
) -> None:
    records = gl.read_records(scenes / "train.jsonl")[:3]
    samples = [encode_record(tiny_processor, record, open_image(record.image)) for record in records if record.image]
    words = gl.read_records(scenes / "words.jsonl")[0]
    unlearned = [sample._replace(labels=[-100] * len(sample.labels)) for sample in samples]
    samples.append(encode_record(tiny_processor, words, None))
    for name, chosen in (("first", samples), ("none", unlearned)):
        shown = [show_sample(sample, tiny_processor) for sample in chosen]
        draw_first_batch(shown, tmp_path / f"{name}.jpg")
    assert Image.open(tmp_path / "first.jpg").width == 4 * TILE + 5 * 14
    assert count_pixels(tmp_path / "first.jpg", TRUTH) > count_pixels(tmp_path / "none.jpg", TRUTH) + 1000, "boxes"


def test_predictions_are_drawn_beside_the_truth(scenes: Path, tmp_path: Path) -> None:
    record = gl.read_records(scenes / "test.jsonl")[0]
    assert record.image is not None
    frame = gl.Frame(*open_image(record.image).size)
    for name, text in (("right", '[{"bbox_2d": [30, 30, 150, 150]}]'), ("nothing", "I cannot see it")):
        answer = gl.read_answer(text, family="qwen2_5_vl", seen=frame)
        draw_predictions([Prediction(record, answer, frame)], tmp_path / f"{name}.jpg")
    assert count_pixels(tmp_path / "right.jpg", ANSWER) > count_pixels(tmp_path / "nothing.jpg", ANSWER) + 500
    assert count_pixels(tmp_path / "nothing.jpg", TRUTH) > 300


def test_a_sheet_has_as_many_rows_as_it_needs(tmp_path: Path) -> None:
    tile = Tile(noise(TILE, 100), [Caption("what is written below a picture " * 5, "black")])
    save_sheet([], [], tmp_path / "none.jpg")
    save_sheet([tile] * COLUMNS, [], tmp_path / "one.jpg")
    save_sheet([tile] * (COLUMNS + 1), [], tmp_path / "two.jpg")
    assert not (tmp_path / "none.jpg").exists()
    one, two = Image.open(tmp_path / "one.jpg"), Image.open(tmp_path / "two.jpg")
    assert one.width == two.width and two.height > one.height + 100
