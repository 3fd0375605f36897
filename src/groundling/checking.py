"""The data doctor with a model in mind: findings of the data room, at the budget and within the lengths of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from groundling.data.census import Lengths
from groundling.data.check import Examination, Finding, examine
from groundling.data.check import check as check_records
from groundling.data.findings import finding_of, sort_findings
from groundling.data.judge import Case
from groundling.data.record import Record
from groundling.data.shards import open_records, refuse_empty
from groundling.errors import SettingsError
from groundling.geometry.images import MAX_PIXELS

if TYPE_CHECKING:
    from groundling.inference.batch import Sample
    from groundling.inference.predict import Grounder
    from groundling.model.processor import Processor
    from groundling.settings import Settings

Progress = Callable[[int, int], None]  # told (done, in all)


def check(records: Sequence[Record], model: str | Grounder | None = None) -> list[Finding]:
    """What is wrong or odd with the records; with a model, also what its budget of pixels makes too small to see.

    `model` is a loaded grounder or the name of a checkpoint. The findings are ordered by file and line.
    """
    if model is None:
        return check_records(records)
    if isinstance(model, str):
        from groundling.model.load import find_checkpoint

        return check_records(records, budget=find_checkpoint(model).contract.budget)
    return check_records(records, budget=model.contract.budget)


def examine_files(
    files: Sequence[Path],
    *,
    settings: Settings | None = None,
    model: str | None = None,
    allow_absolute: bool = False,
    max_pixels: int | None = None,
    progress: Progress | None = None,
) -> Examination:
    """Everything about the records of some files; of several, leaks between them too.

    A recipe's settings or a model give the budget to judge at, and the tokens of samples to measure. `max_pixels` of a
    picture file are those of the recipe, else MAX_PIXELS, where it is None. SettingsError for both recipe and model.
    """
    if settings is not None and model is not None:
        raise SettingsError("both --recipe and --model; the budget comes from one of them")
    scans = [open_records(file, allow_absolute=allow_absolute) for file in files]
    for file, scan in zip(files, scans, strict=True):
        refuse_empty([file], [scan])
    processor = None if settings is None and model is None else _load_processor(settings, model)
    examination = examine(
        [record for scan in scans for record in scan.records],
        rejected=[bad for scan in scans for bad in scan.rejected],
        budget=processor.contract.budget if processor else None,
        max_pixels=max_pixels or (settings.images.max_file_pixels if settings else MAX_PIXELS),
        progress=progress,
    )
    return examination if processor is None else _with_lengths(examination, processor, settings)


def _load_processor(settings: Settings | None, model: str | None) -> Processor:
    from groundling.model.contract import recipe_contract
    from groundling.model.load import find_checkpoint, load_processor

    if settings is None:
        return load_processor(find_checkpoint(str(model)))
    base = find_checkpoint(settings.model.name, revision=settings.model.revision)
    contract = recipe_contract(base.contract, settings, is_derived=base.is_contract_derived)
    return load_processor(base).with_contract(contract)


# ---- lengths ---------------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """Tokens of one record's sample: all of them, and those of its answer with the end token."""

    record: Record
    tokens: int
    answer: int


def _with_lengths(examination: Examination, processor: Processor, settings: Settings | None) -> Examination:
    """The examination with the lengths of its samples, and with the findings that they bring."""
    cases = [case for case in examination.cases if case.look is None or case.look.frame is not None]
    tried = [_measure(case, processor) for case in cases]  # nothing can be made of the others, which is found already
    measured = [sample for sample in tried if isinstance(sample, _Measured)]
    findings = [*examination.findings, *(found for found in tried if isinstance(found, Finding))]
    limit = _longest_sample(settings) if settings else None
    if limit is not None:
        findings += _find_too_long(measured, limit)
    lengths = _sum_up(measured, limit, settings.evaluate.max_new_tokens if settings else None)
    census = replace(examination.census, lengths=lengths)
    return replace(examination, census=census, findings=sort_findings(findings))


def _longest_sample(settings: Settings) -> int:
    from groundling.training.records import longest_sample

    return longest_sample(settings)


def _measure(case: Case, processor: Processor) -> _Measured | Finding:
    """A record's sample in tokens; a finding where the answer form cannot hold it."""
    from groundling.inference.batch import IGNORED

    try:
        sample = _expect_sample(case, processor)
    except SettingsError as error:
        return finding_of("unwritable", case.record, str(error))
    return _Measured(case.record, len(sample.input_ids), sum(label != IGNORED for label in sample.labels))


def _expect_sample(case: Case, processor: Processor) -> Sample:
    """A record's sample without its pixels."""
    from groundling.inference.batch import encode_seen, encode_words

    if case.look is None or case.look.frame is None:
        return encode_words(processor, case.record, None)
    return encode_seen(processor, case.record, case.look.frame, processor.expect(case.look.frame))


def _find_too_long(measured: Iterable[_Measured], limit: int) -> Iterator[Finding]:
    for record, tokens, answer in measured:
        if tokens > limit:
            message = f"its sample has {tokens} tokens, {answer} of them the answer; {limit} are taken at most"
            yield finding_of("too_long", record, message)


def _sum_up(measured: Sequence[_Measured], limit: int | None, max_new_tokens: int | None) -> Lengths | None:
    if not measured:
        return None
    tokens = sorted(sample.tokens for sample in measured)
    return Lengths(
        samples=len(tokens),
        median=tokens[len(tokens) // 2],
        longest=tokens[-1],
        limit=limit,
        too_long=0 if limit is None else sum(count > limit for count in tokens),
        longest_answer=max(sample.answer for sample in measured),
        max_new_tokens=max_new_tokens,
    )
