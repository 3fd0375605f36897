"""Answers as a trained model gives them: right but for noise, or simply wrong; and mistakes to plant in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from groundling.data.formats.chat import resize_within
from groundling.data.record import Record, Target
from groundling.dialect.family import FAMILIES, Budget
from groundling.evaluation.cases import Case
from groundling.evaluation.sheet import Sheet, lay_out
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import THOUSANDTHS, Frame

SIZES = ((640, 480), (480, 640), (1024, 768), (1920, 1080), (1280, 960), (800, 1200), (500, 375), (2048, 1536))
LABELS = ("cup", "plate", "fork", "pan")
BUDGET = Budget(FAMILIES["qwen2_5_vl"], 3136, 1_003_520)


@dataclass(frozen=True)
class Kind:
    """How well a model answers: noise of corners in shares of a box's sides, and the share of random boxes."""

    count: int = 240
    noise: float = 0.03
    misses: float = 0.3
    targets: int = 1  # at most, of one record
    least: float = 0.05  # side of a target in shares of the picture's
    most: float = 0.4
    family: str = "qwen2_5_vl"
    sizes: tuple[tuple[int, int], ...] = SIZES


@dataclass(frozen=True)
class Answered:
    """One record, and the boxes answered to it in shares of the picture's sides: (M, 4)."""

    record: Record
    original: Frame
    seen: Frame
    unit: np.ndarray
    labels: list[str]


def make(seed: int, kind: Kind = Kind()) -> list[Answered]:
    rng = np.random.default_rng(seed)
    return [_make_one(rng, number, kind) for number in range(kind.count)]


def _make_one(rng: np.random.Generator, number: int, kind: Kind) -> Answered:
    original = Frame(*kind.sizes[int(rng.integers(len(kind.sizes)))])
    truth = _random_boxes(rng, int(rng.integers(1, kind.targets + 1)), kind)
    labels = [str(rng.choice(LABELS)) for _ in truth]
    pixels = Boxes(truth, Frame(1, 1)).to(original).xyxy.round()
    targets = tuple(Target(box=tuple(box), label=label) for box, label in zip(pixels.tolist(), labels, strict=True))
    record = Record(f"thing {number}", None, targets, str(number), original.width, original.height)
    sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    answered = truth + rng.normal(0, 1, truth.shape) * kind.noise * sides
    wrong = rng.random(len(truth)) < kind.misses
    answered[wrong] = _random_boxes(rng, int(wrong.sum()), kind)
    order = rng.permutation(len(truth))
    seen = resize_within(original, replace(BUDGET, family=FAMILIES[kind.family]))
    return Answered(record, original, seen, np.clip(answered, 0, 1)[order], [labels[place] for place in order])


def _random_boxes(rng: np.random.Generator, count: int, kind: Kind) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(kind.least), np.log(kind.most), (count, 2)))
    corners = rng.random((count, 2)) * (1 - sides)
    return np.hstack([corners, corners + sides])


Numbers = Callable[[Answered], np.ndarray]


def pixels_of(frame_of: Callable[[Answered], Frame]) -> Numbers:
    return lambda one: Boxes(one.unit, Frame(1, 1)).to(frame_of(one)).xyxy


IN_SEEN: Numbers = pixels_of(lambda one: one.seen)
IN_THOUSANDTHS: Numbers = pixels_of(lambda one: THOUSANDTHS)
IN_ORIGINAL: Numbers = pixels_of(lambda one: one.original)


def text_rows(answers: list[Answered], numbers: Numbers, *, decimals: int = 0) -> list[dict[str, Any]]:
    """Rows of id, text and seen; whole numbers, as a model writes them, unless it writes shares."""
    return [
        {"id": one.record.id, "seen": [*one.seen.size_wh], "text": write(numbers(one), one.labels, decimals=decimals)}
        for one in answers
    ]


def write(numbers: np.ndarray, labels: list[str], *, decimals: int = 0) -> str:
    rounded = np.floor(numbers * 10**decimals + 0.5) / 10**decimals
    rows = (rounded if decimals else rounded.astype(int)).tolist()
    return json.dumps([{"bbox_2d": row, "label": label} for row, label in zip(rows, labels, strict=True)])


def box_rows(answers: list[Answered], numbers: Numbers) -> list[dict[str, Any]]:
    """Rows of id and boxes alone."""
    return [{"id": one.record.id, "boxes": numbers(one).round(2).tolist()} for one in answers]


def swapped(numbers: Numbers) -> Numbers:
    return lambda one: numbers(one)[:, [1, 0, 3, 2]]


def as_xywh(numbers: Numbers) -> Numbers:
    return lambda one: np.hstack([numbers(one)[:, :2], numbers(one)[:, 2:] - numbers(one)[:, :2]])


def as_middle(numbers: Numbers) -> Numbers:
    def middle(one: Answered) -> np.ndarray:
        rows = numbers(one)
        return np.hstack([(rows[:, :2] + rows[:, 2:]) / 2, rows[:, 2:] - rows[:, :2]])

    return middle


def resized(max_pixels: int, family: str = "qwen2_5_vl") -> Numbers:
    budget = Budget(FAMILIES[family], 3136, max_pixels)
    return pixels_of(lambda one: resize_within(one.original, budget))


def longer_side(length: int) -> Numbers:
    def frame_of(one: Answered) -> Frame:
        width, height = (round(side * length / max(one.original.size_wh)) for side in one.original.size_wh)
        return Frame(width, height)

    return pixels_of(frame_of)


def padded(one: Answered) -> np.ndarray:
    """In thousandths of a square of the longer side, with the picture in its middle."""
    width, height = one.original.size_wh
    longer = max(width, height)
    return (IN_ORIGINAL(one) + [(longer - width) / 2, (longer - height) / 2] * 2) / longer * 1000


def in_square(side: int, share: float, *, per: float | None = None, is_enlarged: bool = False) -> Numbers:
    """In a square that pictures are resized to fit, then padded to, a share of the border left of them and above.

    Pixels of it, or as many units of its side as `per` says.
    """

    def numbers(one: Answered) -> np.ndarray:
        scale = side / max(one.original.size_wh)
        width, height = (round(each * (scale if is_enlarged else min(scale, 1))) for each in one.original.size_wh)
        border = [int((side - width) * share), int((side - height) * share)]
        return (pixels_of(lambda one: Frame(width, height))(one) + border * 2) * (per or side) / side

    return numbers


def taken_for_stretched(side: int, numbers: Numbers) -> Numbers:
    """Numbers of a square of that side, scaled back as if the picture had filled it."""
    return lambda one: numbers(one) / side * [*one.original.size_wh * 2]


def moved(scale: tuple[float, float], offset: tuple[float, float]) -> Numbers:
    return lambda one: IN_ORIGINAL(one) * [*scale * 2] + [*offset * 2]


def turned(orientation: int, numbers: Numbers = IN_ORIGINAL) -> Numbers:
    return lambda one: Boxes(numbers(one), one.original).turned(orientation).xyxy


# ---- as cases --------------------------------------------------------------------------------------------------

PHOTO = Frame(400, 200)


def case(numbers: list[list[float]], *truth: tuple[float, ...], read: Frame = PHOTO, **more: object) -> Case:
    """One answer about a photo of 400 x 200."""
    record = Record("?", None, tuple(Target(box=box) for box in truth), "1", *PHOTO.size_wh)  # type: ignore[arg-type]
    values = {"labels": [None] * len(numbers), "text": None, "flaw": None, "is_raw": True, "seen": None} | more
    return Case(
        record=record, original=PHOTO, read=read, numbers=np.array(numbers, dtype=float).reshape(-1, 4), **values
    )  # type: ignore[arg-type]


def sheet_of(answers: list[Answered], numbers: Numbers) -> Sheet:
    """Numbers of texts that were read as original pixels."""
    return lay_out(
        [
            Case(one.record, one.original, None, one.original, numbers(one), one.labels, None, None, True)
            for one in answers
        ]
    )
