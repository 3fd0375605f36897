"""Measuring a model on records: it is asked, its answers are read, and they are held against the truth."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from groundling.data.record import Record, record_to_json
from groundling.dialect.answer import Answer
from groundling.errors import ImageError, RecordError, SettingsError
from groundling.evaluation.answers import AnswerLog, KeptAnswer, open_answers
from groundling.evaluation.guard import GENERAL, Found, Guard, read_guard, retell_guard, tell_guard
from groundling.evaluation.lock import hold_folder
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.pace import Progress, StopAsked
from groundling.evaluation.processes import choose_share, from_main_process, this_process
from groundling.evaluation.protocols import refuse_protocol
from groundling.evaluation.report import Report, build_report, hash_records, read_report, write_report
from groundling.geometry.images import MAX_PIXELS, open_image
from groundling.inference.batch import Sample, encode_words
from groundling.inference.likelihood import Likelihood, answer_likelihoods
from groundling.inference.predict import BATCH_SIZE, MAX_NEW_TOKENS, Grounder, Question
from groundling.model.contract import installed_versions

_NONE = "none"  # where something was left out, in what makes one evaluation another

logger = logging.getLogger(__name__)


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
    guard: str | Path | None = GENERAL,
    progress: Progress | None = None,
) -> Report:
    """The model's scores on the records; with `to`, also a folder of report.json, predictions.jsonl and report.html.

    Answers are held to the contract's form, so that each can be read, unless they are `free` to say anything. Broken
    off and called again, it says so and goes on from the answers that it had written to that folder. Several processes
    of one launch ask about their share each; one of them writes, and all return the report. SettingsError where that
    folder holds the finished report of another evaluation: of other weights, records, options, protocol or guard. The
    same one again takes its place.

    `guard` are questions that are not grounding, for which the likelihood of the right answers is taken, so that
    `compare` can tell whether other abilities suffered: a record file with answers, or `general`, 43 short ones.

    A `protocol` (docs/metrics.md) names the benchmark whose number heads the report: SettingsError where none has that
    name, RecordError where it fits no record.

    General instruction data among the records is not asked. ImageError names a picture that cannot be
    read: `check` finds those beforehand, and `data.check.usable` leaves their records out.
    """
    asked = [record for record in records if record.answer is None]
    if protocol is not None:
        refuse_protocol(protocol, asked)
    guarded = [] if guard is None else read_guard(guard)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "free": free}
    weights = from_main_process(lambda: grounder.weights)
    told: dict[str, Any] = {
        "weights": weights,
        "contract": grounder.contract.to_json(),
        "records": hash_records(asked),
        **options,
    }
    if to is not None:
        judged = {"protocol": protocol or _NONE, "guard": tell_guard(str(guard), guarded)}
        from_main_process(lambda: refuse_other_report(Path(to), {**told, **judged}))
    with _open_log(to, told, questions=len(asked)) as log:
        predictions = predict_records(
            grounder, asked, batch_size=batch_size, max_pixels=max_pixels, progress=progress, log=log, **options
        )
        report = build_report(
            predictions,
            contract=grounder.contract.to_json(),
            versions=installed_versions(),
            name=grounder.name,
            protocol=protocol,
            guard=from_main_process(lambda: measure_guard(grounder, guarded, str(guard), max_pixels=max_pixels)),
            options=options,
            weights=weights,
        )
        if to is not None and this_process().is_main_process:
            write_report(report, to)
    return report


def measure_guard(
    grounder: Grounder, records: Sequence[Record], name: str, *, max_pixels: int = MAX_PIXELS
) -> Guard | None:
    """How likely the model finds the answers of general instruction data; None without any records.

    ImageError names a picture that cannot be read.
    """
    if not records:
        return None
    by_picture = choose_share([record.image for record in records], processes=1, process=0)
    samples: list[Sample] = []
    image, seen = None, None
    for record in (records[place] for place in by_picture):
        if record.image != image:
            image = record.image
            seen = None if image is None else grounder.processor.see(open_image(image, max_pixels=max_pixels))
        samples.append(encode_words(grounder.processor, record, seen))
    likelihoods = answer_likelihoods(grounder.model, grounder.processor, samples)
    found = {
        place: _to_found(records[place], likelihood) for place, likelihood in zip(by_picture, likelihoods, strict=True)
    }
    return Guard(Path(name).name, [found[place] for place in range(len(records))])


def _to_found(record: Record, likelihood: Likelihood) -> Found:
    assert record.answer is not None, "a guard is made of records with an answer"
    folder = record.file.parent if record.file else Path()
    image = record_to_json(record, folder).get("image")
    return Found(record.id, record.question, record.answer, image, likelihood.tokens, likelihood.mean)


def _open_log(
    to: str | Path | None, told: Mapping[str, Any], *, questions: int
) -> AbstractContextManager[AnswerLog | None]:
    """Where answers are kept: nowhere without a folder, or while the weights change."""
    if to is None or told["weights"] is None:
        return nullcontext()
    return _keep_answers(Path(to), told, questions)


@contextmanager
def _keep_answers(folder: Path, told: Mapping[str, Any], questions: int) -> Iterator[AnswerLog]:
    with hold_folder(folder, "--to"), open_answers(folder, told, questions=questions) as log:
        yield log


def refuse_other_report(folder: Path, told: Mapping[str, Any]) -> None:
    """SettingsError that names what differs, where a folder holds the finished report of another evaluation.

    What an older report does not tell counts as the same. A file that is no report is in nobody's way.
    """
    try:
        report = read_report(folder)
    except RecordError:
        return
    found = {"weights": report.weights, "contract": report.contract, "records": report.records_sha256}
    if report.options is not None:
        found |= {**report.options, "protocol": report.protocol or _NONE, "guard": retell_guard(report.guard)}
    differing = [_differing(name, found.get(name), told[name]) for name in told]
    if any(differing):
        raise SettingsError(
            f"{folder} holds the finished report of another evaluation; these differ: "
            f"{', '.join(filter(None, differing))}; choose another folder (--to), or delete this one"
        )


def _differing(name: str, before: Any, now: Any) -> str:
    """What differs, in words; empty where nothing does."""
    if before is None or now is None or before == now:
        return ""
    if name == "contract":
        keys = [key for key in now if key in before and before[key] != now[key]]
        return f"contract ({', '.join(keys)})" if keys else ""
    if name == "weights":
        return name if ":" in before else ""  # an older groundling's is of sizes and times: it tells no content
    return name if name == "records" else f"{name} ({before}, now {now})"


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

    Of several processes each asks about its share, and all get all answers. Each is told its progress; where one raises
    StopAsked, all do. ImageError names a picture that cannot be read.
    """
    state = this_process()
    predictions = _read_kept(grounder, records, log)
    left = [place for place in range(len(records)) if place not in predictions]
    images = [records[place].image for place in left]
    share = choose_share(images, processes=state.num_processes, process=state.process_index)
    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "free": free, "max_pixels": max_pixels}
    tell = progress or _tell_nobody
    mine: dict[int, Prediction] = {}
    stopped_by = 0
    try:
        tell(len(predictions), len(records))
        for place, prediction in _ask(grounder, records, [left[number] for number in share], options):
            mine[place] = prediction
            if log is not None:
                log.keep(place, _to_keep(prediction))
            tell(min(len(predictions) + len(mine) * state.num_processes, len(records)), len(records))
    except StopAsked as asked:
        stopped_by = asked.number
    told = [(stopped_by, mine)]
    for number, found in told if state.num_processes == 1 else gather_object(told):
        stopped_by = max(stopped_by, number)
        predictions |= found
    if stopped_by:
        raise StopAsked(stopped_by)
    return [predictions[place] for place in range(len(records))]


def _to_keep(prediction: Prediction) -> KeptAnswer:
    answer = prediction.answer
    assert answer.scores is not None, "whoever answers knows how sure it was"
    sure = answer.scores.tolist(), answer.none_score
    return KeptAnswer(answer.text, answer.seen, prediction.original, *sure, answer.is_full)


def _read_kept(grounder: Grounder, records: Sequence[Record], log: AnswerLog | None) -> dict[int, Prediction]:
    """What the log holds, by the place of its record."""
    predictions: dict[int, Prediction] = {}
    for place, kept in (log.kept if log else {}).items():
        if answer := _recall(grounder, kept):
            predictions[place] = Prediction(records[place], answer, kept.original)
    if predictions:
        logger.info("%d of %d answers were there already", len(predictions), len(records))
    return predictions


def _ask(
    grounder: Grounder, records: Sequence[Record], places: Sequence[int], options: Mapping[str, Any]
) -> Iterator[tuple[int, Prediction]]:
    """Places of records with what was answered, as the answers come."""
    questions = [Question(_picture_of(records[place]), records[place].question) for place in places]
    for number, found in grounder.answer_each(questions, **options):
        if isinstance(found, ImageError):
            raise found
        place = places[number]
        yield place, Prediction(records[place], found.answer, found.original)


def _tell_nobody(_: int, __: int) -> None:
    return


def _recall(grounder: Grounder, kept: KeptAnswer) -> Answer | None:
    """The answer as it was given; None where its text was read otherwise then."""
    answer = grounder.read(kept.text, kept.seen, kept.original).answer
    if len(kept.scores) != len(answer.boxes):
        return None
    return replace(answer, scores=np.array(kept.scores), none_score=kept.none_score, is_full=kept.is_full)


def _picture_of(record: Record) -> Path:
    assert record.image is not None, "a record without an answer text has a picture"
    return record.image
