"""Pictures of a run: what the model is really shown, and what it answers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from groundling.evaluation.metrics import Prediction, judge
from groundling.geometry.draw import Layer, draw_boxes
from groundling.geometry.images import MAX_PIXELS, open_image
from groundling.training.shown import ShownSample

TRUTH, ANSWER = "#2ca25f", "#f07818"  # green for what is true, orange for what was answered
_INK, _FAINT = "#202124", "#80868b"

TILE = 400  # longest side of one picture on a sheet, in pixels
COLUMNS = 4
_GAP = 14
_LETTERS = 13  # size of the captions' letters
_LINE = 17  # from one line of a caption to the next
_CHARACTERS = 60  # that fit below a picture
_MOST_LINES = 6  # of one text


class Caption(NamedTuple):
    """One text below a picture, wrapped to its width."""

    text: str
    color: str


class Tile(NamedTuple):
    """One picture of a sheet, None for words alone, and what stands below it."""

    picture: Image.Image | None
    captions: Sequence[Caption]


# ---- what a run shows ------------------------------------------------------------------------------------------


def draw_first_batch(samples: Sequence[ShownSample], file: Path) -> None:
    """The first samples as the model sees them, as they were read back from patches and tokens."""
    legend = [Caption("what the model is shown", _INK), Caption("what it learns to answer", TRUTH)]
    save_sheet([_sample_tile(sample) for sample in samples], legend, file)


def draw_predictions(predictions: Sequence[Prediction], file: Path, *, max_pixels: int = MAX_PIXELS) -> None:
    """Truth in green and answers in orange, on the original pictures."""
    legend = [Caption("true", TRUTH), Caption("answered", ANSWER)]
    save_sheet([_prediction_tile(prediction, max_pixels) for prediction in predictions], legend, file)


# ---- tiles -----------------------------------------------------------------------------------------------------


def _sample_tile(shown: ShownSample) -> Tile:
    counts = shown.counts
    captions = [
        Caption(f"{counts['picture']} visual tokens, {counts['prompt']} of words, {counts['learned']} learned", _FAINT),
        Caption(shown.prompt, _INK),
        Caption(shown.learned, TRUTH),
    ]
    if shown.picture is None or shown.answer is None:
        return Tile(None, captions)
    boxes, labels = shown.answer.boxes, shown.answer.labels
    return Tile(draw_boxes(_fit(shown.picture), [Layer(boxes, TRUTH, labels[: len(boxes)])]), captions)


def _prediction_tile(prediction: Prediction, max_pixels: int) -> Tile:
    assert prediction.record.image is not None, "only records with a picture are asked"
    picture = _fit(open_image(prediction.record.image, max_pixels=max_pixels))
    layers = [Layer(prediction.truth, TRUTH), Layer(prediction.answer.boxes, ANSWER)]
    verdict = f"IoU {judge(prediction)['miou'].earned:.2f}" if prediction.is_single else f"{len(prediction.truth)} true"
    flaw = f", {prediction.answer.flaw}" if prediction.answer.flaw else ""
    captions = [
        Caption(prediction.record.question, _INK),
        Caption(f"{verdict}, {len(prediction.answer.boxes)} answered{flaw}", _FAINT),
        Caption(prediction.answer.text, ANSWER),
    ]
    return Tile(draw_boxes(picture, layers), captions)


def _fit(picture: Image.Image) -> Image.Image:
    """The picture at the size of a tile; one enlarged much keeps its pixels as squares."""
    scale = TILE / max(picture.size)
    kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), kind)


# ---- sheets ----------------------------------------------------------------------------------------------------


def save_sheet(tiles: Sequence[Tile], legend: Sequence[Caption], file: Path) -> None:
    """The tiles side by side, COLUMNS in a row, below a legend, as one JPEG; nothing is written for none."""
    if not tiles:
        return
    columns = min(COLUMNS, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(_height(tile) for tile in row) + _GAP for row in rows]
    top = _LINE + 2 * _GAP
    sheet = Image.new("RGB", (columns * (TILE + _GAP) + _GAP, top + sum(heights)), "white")
    _write_legend(sheet, legend)
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            _paste(sheet, tile, left=_GAP + column * (TILE + _GAP), top=top)
        top += height
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, quality=90, subsampling=0)  # thin lines keep their color


def _height(tile: Tile) -> int:
    picture = 0 if tile.picture is None else tile.picture.height
    return picture + _LINE * sum(len(_wrapped(caption)) for caption in tile.captions) + _GAP


def _wrapped(caption: Caption) -> list[str]:
    return textwrap.wrap(caption.text, _CHARACTERS, max_lines=_MOST_LINES, placeholder=" ...") or [""]


def _write_legend(sheet: Image.Image, legend: Sequence[Caption]) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_LETTERS)
    left = _GAP
    for caption in legend:
        pen.rectangle((left, _GAP + 2, left + 11, _GAP + 13), fill=caption.color)
        pen.text((left + 18, _GAP), caption.text, fill=_INK, font=font)
        left += 18 + round(pen.textlength(caption.text, font=font)) + 2 * _GAP


def _paste(sheet: Image.Image, tile: Tile, *, left: int, top: int) -> None:
    """Put a tile's picture and captions on the sheet, below one another."""
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_LETTERS)
    if tile.picture is not None:
        sheet.paste(tile.picture, (left, top))
        top += tile.picture.height
    top += _GAP // 2
    for caption in tile.captions:
        for line in _wrapped(caption):
            pen.text((left, top), line, fill=caption.color, font=font)
            top += _LINE
