"""Pictures of a run: what the model is really shown, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from groundling.dialect.answer import read_answer
from groundling.evaluation.metrics import Prediction
from groundling.geometry.draw import Layer, draw_boxes
from groundling.geometry.images import open_image
from groundling.inference.batch import IGNORED, Sample
from groundling.model.processor import Patches, Processor

TRUTH, ANSWER = "#2ca25f", "#f07818"  # green for what is true, orange for what was answered
TILE = 384  # longest side of one picture on a sheet, in pixels
COLUMNS = 4


def draw_first_batch(samples: Sequence[Sample], processor: Processor, file: Path) -> None:
    """The first samples as the model sees them: patches put together again, boxes read back from the trained tokens.

    Nothing here comes from the records, so a picture that looks right proves the whole way to the model.
    """
    tiles: list[Image.Image] = []
    for sample in samples:
        if sample.patches is None:
            continue
        learned = [label for label in sample.labels if label not in (IGNORED, processor.end_token_id)]
        text = processor.tokenizer.decode(learned)
        answer = read_answer(str(text), family=processor.family.name, seen=sample.patches.seen)
        labels = [label or "" for label in answer.labels[: len(answer.boxes)]]
        tiles.append(draw_boxes(restore_picture(sample.patches, processor), [Layer(answer.boxes, TRUTH, labels)]))
    save_sheet(tiles, file)


def draw_predictions(predictions: Sequence[Prediction], file: Path) -> None:
    """Truth in green and answers in orange, on the original pictures."""
    tiles: list[Image.Image] = []
    for prediction in predictions:
        if prediction.record.image is None:
            continue
        layers = [Layer(prediction.truth, TRUTH, ()), Layer(prediction.answer.boxes, ANSWER, ())]
        tiles.append(draw_boxes(open_image(prediction.record.image), layers))
    save_sheet(tiles, file)


def restore_picture(patches: Patches, processor: Processor) -> Image.Image:
    """The picture that lies in a processor's patches: its cutting and normalising undone."""
    images = processor.images
    time, rows, columns = patches.grid
    side, merge = images.patch_size, images.merge_size
    assert time == 1, "a still picture"
    shape = (rows // merge, columns // merge, merge, merge, 3, images.temporal_patch_size, side, side)
    cut = patches.pixels.numpy().reshape(shape)[:, :, :, :, :, 0]
    whole = cut.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * side, columns * side, 3)
    pixels = (whole * np.array(images.image_std) + np.array(images.image_mean)) * 255
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def save_sheet(tiles: Sequence[Image.Image], file: Path) -> None:
    """Pictures side by side, COLUMNS in a row, as one JPEG; nothing is written for none."""
    if not tiles:
        return
    small = [_fit(tile) for tile in tiles]
    columns = min(COLUMNS, len(small))
    rows = -(-len(small) // columns)
    sheet = Image.new("RGB", (columns * TILE, rows * TILE), "white")
    for number, tile in enumerate(small):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * TILE + (TILE - tile.width) // 2, row * TILE + (TILE - tile.height) // 2))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, quality=88)


def _fit(tile: Image.Image) -> Image.Image:
    scale = (TILE - 8) / max(tile.size)
    kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), kind)
