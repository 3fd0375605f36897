"""A run's reports: on the model as it comes, and on the weights that were kept."""

from __future__ import annotations

import dataclasses
import gc
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from groundling.data.record import Record
from groundling.errors import SettingsError
from groundling.evaluation.evaluate import evaluate
from groundling.evaluation.guard import read_guard
from groundling.evaluation.pace import tell_progress
from groundling.evaluation.processes import from_main_process
from groundling.evaluation.report import Report
from groundling.inference.predict import Grounder, load
from groundling.model.load import Checkpoint
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.card import BASE_REPORT, write_results
from groundling.training.exhaustion import explain_asking, explain_ending, explain_loading_base
from groundling.training.stop import StopAsked, StopRequest, stopped

log = logging.getLogger(__name__)


def refuse_impossible_measures(settings: Settings) -> None:
    """RecordError where the guard's questions cannot be read, SettingsError where the untrained model has no device."""
    if settings.data.test and settings.evaluate.guard is not None:
        read_guard(settings.evaluate.guard)
    if settings.evaluate.before and PartialState().distributed_type == DistributedType.DEEPSPEED:
        raise SettingsError(
            "evaluate.before: DeepSpeed would spread the untrained model over the devices; leave it false, and "
            f"`groundling evaluate {settings.model.name} RECORDS --to before` by itself"
        )


def measure_base(
    settings: Settings, base: Checkpoint, processor: Processor, test: Sequence[Record], stop: StopRequest
) -> None:
    """Report on the model as it comes, where the recipe wants it; once, however often the run goes on.

    It is asked as it will be trained: at the run's budget, in its words and form.
    """
    folder = settings.run.dir / BASE_REPORT
    if not settings.evaluate.before or from_main_process((folder / "report.json").is_file):
        return
    contract = dataclasses.replace(
        processor.contract, trained_on=base.contract.trained_on, made_with=base.contract.made_with
    )
    with _keeping_answers(stop):
        with explain_loading_base(settings):
            grounder = load(settings.model.name, revision=settings.model.revision)
        grounder = dataclasses.replace(grounder, processor=processor.with_contract(contract))
        with explain_asking(settings, processor.contract, "before the training"):
            _measure(grounder, test, folder, settings, stop)
    del grounder
    gc.collect()
    torch.cuda.empty_cache()


def measure_run(
    settings: Settings, base: Checkpoint, processor: Processor, test: Sequence[Record], stop: StopRequest
) -> None:
    """Load what was saved, the best weights where there are any, and report on all test records; write the card."""
    run = settings.run.dir
    if not test:
        log.info("no data.test: no report")
    else:
        if PartialState().is_main_process:
            (run / "report" / "report.json").unlink(missing_ok=True)  # of weights that it has gone on from
        with _keeping_answers(stop):
            with explain_ending(run, "loaded to be measured"):
                grounder = load(str(run))
            with explain_asking(settings, processor.contract, "after the training"):
                report = _measure(grounder, test, run / "report", settings, stop)
        for name in dict.fromkeys((settings.evaluate.metric, "parse_rate")):
            log.info("%s %.3f [%.3f, %.3f] on all test records", name, report.metrics[name], *report.ci95[name])
    if PartialState().is_main_process:
        write_results(settings, base)
    PartialState().wait_for_everyone()


@contextmanager
def _keeping_answers(stop: StopRequest) -> Iterator[None]:
    """Listens to Ctrl-C too, while a model is measured."""
    with stop.listen(signal.SIGINT), stop.promise("the answers so far are kept"):
        yield


def _measure(grounder: Grounder, test: Sequence[Record], folder: Path, settings: Settings, stop: StopRequest) -> Report:
    """Asked to stop meanwhile, it keeps the answers that there are."""
    tell = tell_progress(log, f"questions asked of {grounder.name}")

    def go_on(done: int, total: int) -> None:
        stop.leave_if_asked()
        tell(done, total)

    try:
        return evaluate(
            grounder,
            test,
            folder,
            batch_size=settings.evaluate.batch_size,
            max_new_tokens=settings.evaluate.max_new_tokens,
            free=settings.evaluate.free,
            max_pixels=settings.images.max_file_pixels,
            guard=settings.evaluate.guard,
            progress=go_on,
        )
    except StopAsked as asked:
        kept = "all weights and the answers so far are kept, and the same command goes on there"
        raise stopped(asked.number, f"while it was measured; {kept}") from None
