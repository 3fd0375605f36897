"""Predictions made by hand: what is to be found, and what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groundling.data.record import Record, Target
from groundling.dialect.answer import Answer
from groundling.evaluation.metrics import Prediction
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

PHOTO = Frame(1000, 1000)

Labelled = tuple[str | None, Sequence[float]]  # a label with the four numbers of a box, or the two of a point


def predict(
    truth: Sequence[Labelled],
    answered: Sequence[Labelled],
    *,
    question: str = "all of them",
    name: str = "a",
    scores: Sequence[float] | None = None,
    flaw: str | None = None,
    original: Frame = PHOTO,
) -> Prediction:
    targets = [
        Target(box=tuple(numbers), label=label) if len(numbers) == 4 else Target(point=tuple(numbers), label=label)  # type: ignore[arg-type]
        for label, numbers in truth
    ]
    boxes = [(label, numbers) for label, numbers in answered if len(numbers) == 4]
    points = [(label, numbers) for label, numbers in answered if len(numbers) == 2]
    answer = Answer(
        boxes=Boxes([numbers for _, numbers in boxes], original),
        points=Points([numbers for _, numbers in points], original),
        labels=[label for label, _ in boxes + points],
        text="",
        flaw=flaw,
        seen=original,
        scores=None if scores is None else np.array(scores, dtype=np.float64),
    )
    record = Record(question=question, image=Path(f"{name}.jpg"), targets=tuple(targets), id=f"{name}.jpg")
    return Prediction(record, answer, original)
