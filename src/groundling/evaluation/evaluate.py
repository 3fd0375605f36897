"""Measuring a model on records: it is asked, its answers are read, and they are held against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from groundling.data.record import Record
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.report import Report, build_report, write_report
from groundling.geometry.images import MAX_PIXELS
from groundling.inference.predict import BATCH_SIZE, MAX_NEW_TOKENS, Grounder, Question
from groundling.model.contract import installed_versions

Progress = Callable[[int, int], None]  # answered so far, of how many


def evaluate(
    grounder: Grounder,
    records: Sequence[Record],
    to: str | Path | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Report:
    """The model's scores on the records; with `to`, also a folder of report.json, predictions.jsonl and report.html.

    General instruction data among the records is not asked. ImageError names a picture that cannot be
    read: `check` finds those beforehand, and `data.check.usable` leaves their records out.
    """
    asked = [record for record in records if record.answer is None]
    predictions = predict_records(
        grounder,
        asked,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        max_pixels=max_pixels,
        progress=progress,
    )
    report = build_report(
        predictions,
        contract=grounder.contract.to_json(),
        versions=installed_versions(),
        name=grounder.name,
    )
    if to is not None:
        write_report(report, to)
    return report


def predict_records(
    grounder: Grounder,
    records: Sequence[Record],
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> list[Prediction]:
    """The model's answer to each record's question, in order."""
    questions = [Question(_picture_of(record), record.question) for record in records]
    answers = grounder.answer_each(
        questions, batch_size=batch_size, max_new_tokens=max_new_tokens, max_pixels=max_pixels
    )
    predictions: list[Prediction] = []
    for record, found in zip(records, answers, strict=True):
        predictions.append(Prediction(record, found.answer, found.original))
        if progress is not None:
            progress(len(predictions), len(records))
    return predictions


def _picture_of(record: Record) -> Path:
    assert record.image is not None, "a record without an answer text has a picture"
    return record.image
