"""Measuring a model on records: it is asked, its answers are read, and they are held against the truth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from groundling.data.record import Record
from groundling.dialect.answer import Answer
from groundling.errors import ImageError
from groundling.evaluation.answers import AnswerLog, KeptAnswer, open_answers
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.protocols import refuse_protocol
from groundling.evaluation.report import Report, build_report, hash_records, write_report
from groundling.geometry.images import MAX_PIXELS
from groundling.inference.predict import BATCH_SIZE, MAX_NEW_TOKENS, Grounder, Question
from groundling.model.contract import installed_versions

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # answered so far, of how many


def evaluate(
    grounder: Grounder,
    records: Sequence[Record],
    to: str | Path | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    free: bool = False,
    max_pixels: int = MAX_PIXELS,
    protocol: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """The model's scores on the records; with `to`, also a folder of report.json, predictions.jsonl and report.html.

    Answers are held to the contract's form, so that each can be read, unless they are `free` to say anything. Broken
    off and called again, it says so and goes on from the answers that it had written to that folder.

    A `protocol` (docs/metrics.md) names the benchmark whose number heads the report: SettingsError where none has that
    name, RecordError where it fits no record.

    General instruction data among the records is not asked. ImageError names a picture that cannot be
    read: `check` finds those beforehand, and `data.check.usable` leaves their records out.
    """
    asked = [record for record in records if record.answer is None]
    if protocol is not None:
        refuse_protocol(protocol, asked)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "free": free}
    with _open_log(to, grounder, asked, options) as log:
        predictions = predict_records(
            grounder, asked, batch_size=batch_size, max_pixels=max_pixels, progress=progress, log=log, **options
        )
        report = build_report(
            predictions,
            contract=grounder.contract.to_json(),
            versions=installed_versions(),
            name=grounder.name,
            protocol=protocol,
        )
        if to is not None:
            write_report(report, to)
    return report


def _open_log(
    to: str | Path | None, grounder: Grounder, asked: Sequence[Record], options: Mapping[str, Any]
) -> AbstractContextManager[AnswerLog | None]:
    """Where answers are kept: nowhere without a folder, or while the weights change."""
    if to is None or grounder.weights is None:
        return nullcontext()
    told = {
        "weights": grounder.weights,
        "contract": grounder.contract.to_json(),
        "records": hash_records(asked),
        **options,
    }
    return open_answers(Path(to), told, questions=len(asked))


def predict_records(
    grounder: Grounder,
    records: Sequence[Record],
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    free: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    log: AnswerLog | None = None,
) -> list[Prediction]:
    """The model's answer to each record's question, in order; those that the log holds already are not asked again.

    ImageError names a picture that cannot be read.
    """
    predictions: dict[int, Prediction] = {}
    for place, kept in (log.kept if log else {}).items():
        if answer := _recall(grounder, kept):
            predictions[place] = Prediction(records[place], answer, kept.original)
    if predictions:
        logger.info("%d of %d answers were there already", len(predictions), len(records))
    places = [place for place in range(len(records)) if place not in predictions]
    questions = [Question(_picture_of(records[place]), records[place].question) for place in places]
    for number, found in grounder.answer_each(
        questions, batch_size=batch_size, max_new_tokens=max_new_tokens, free=free, max_pixels=max_pixels
    ):
        if isinstance(found, ImageError):
            raise found
        answer, place = found.answer, places[number]
        predictions[place] = Prediction(records[place], answer, found.original)
        if log is not None:
            assert answer.scores is not None, "whoever answers knows how sure it was"
            scores = answer.scores.tolist()
            log.keep(place, KeptAnswer(answer.text, answer.seen, found.original, scores, answer.none_score))
        if progress is not None:
            progress(len(predictions), len(records))
    return [predictions[place] for place in range(len(records))]


def _recall(grounder: Grounder, kept: KeptAnswer) -> Answer | None:
    """The answer as it was given; None where its text was read otherwise then."""
    answer = grounder.read(kept.text, kept.seen, kept.original).answer
    if len(kept.scores) != len(answer.boxes):
        return None
    return replace(answer, scores=np.array(kept.scores), none_score=kept.none_score)


def _picture_of(record: Record) -> Path:
    assert record.image is not None, "a record without an answer text has a picture"
    return record.image
