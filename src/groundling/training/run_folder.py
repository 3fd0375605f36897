"""What a run writes into its folder before the first step and after the last."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from groundling.data.check import write_findings
from groundling.data.record import Record
from groundling.evaluation.processes import from_main_process
from groundling.model.contract import write_contract
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.checkpoint import (
    RECIPE_FILE,
    copy_model,
    partial_name,
    put_in_place,
    set_damaged_aside,
    sweep_partial,
)
from groundling.training.disk import write_whole
from groundling.training.exhaustion import explain_ending
from groundling.training.records import Gathered, longest_answer, write_set_aside
from groundling.training.reload import Said, refuse_other_model

log = logging.getLogger(__name__)


def start_run_folder(settings: Settings, processor: Processor, records: Gathered, resume: Path | None) -> None:
    """Write the contract, the recipe as resolved, what was found in the data and set aside; say how much is left."""
    run = settings.run.dir
    log.info("%d lines read: %d to train on, %d to measure on", records.read, len(records.train), len(records.test))
    if PartialState().is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        sweep_partial(run)
        if resume is not None:
            set_damaged_aside(run, resume)
        write_whole(run / RECIPE_FILE, settings.to_yaml())
        write_contract(processor.contract, run)
        write_findings(records.findings, run)
        _tell_findings(records, settings)
        _warn_of_short_answers(records.test, processor, settings)
    PartialState().wait_for_everyone()


def _tell_findings(records: Gathered, settings: Settings) -> None:
    """How many records are set aside, and what else was found in the data, one line each."""
    run = settings.run.dir
    set_aside = write_set_aside(records, run / "set-aside.jsonl", settings)
    if set_aside:
        log.warning("%d records are set aside, each with its reason: %s", set_aside, run / "set-aside.jsonl")
    shared = {source.path.resolve() for source in settings.data.train} & {path.resolve() for path in settings.data.test}
    for file in sorted(shared):
        log.warning("%s is both trained on and measured on: its scores tell what was learned by heart", file)
    warnings = Counter(finding.code for finding in records.findings if finding.level == "warning")
    for code, count in warnings.most_common():
        log.warning("%s: %d findings in the data, listed in %s", code, count, run / "findings.jsonl")


def _warn_of_short_answers(test: Sequence[Record], processor: Processor, settings: Settings) -> None:
    longest = longest_answer(test, processor, settings.images.max_file_pixels)
    if longest > settings.evaluate.max_new_tokens:
        log.warning(
            "evaluate.max_new_tokens is %d, and a true answer in data.test has %d tokens: such answers are cut short",
            *(settings.evaluate.max_new_tokens, longest),
        )


def copy_last(checkpoint: Path, run: Path) -> None:
    """Write the last checkpoint's weights as the final ones: a run that was ended before has only that to do."""
    if PartialState().is_main_process:
        copy_model(checkpoint, partial_name(run / "final"))
    PartialState().wait_for_everyone()


def keep_final(settings: Settings, asked: Record, said: Said | None) -> None:
    """Give the final weights their name, once they have been loaded again and say what the trained model `said`."""
    final = settings.run.dir / "final"

    def keep() -> None:
        with explain_ending(settings.run.dir, "loaded again and asked"):
            refuse_other_model(partial_name(final), asked, said, max_pixels=settings.images.max_file_pixels)
        put_in_place(partial_name(final), final)

    from_main_process(keep)
