"""Out of memory: what was being done, and what would make it fit, in place of a traceback.

Nothing is changed by itself: a step of other records, or another model, is not what the recipe asked for.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, PartialState
from transformers import TrainerState, TrainingArguments

from groundling.errors import GroundlingError, TrainingError
from groundling.inference.batch import IGNORED
from groundling.model.contract import Contract
from groundling.model.load import find_description
from groundling.model.processor import Processor
from groundling.settings import Launch, Settings
from groundling.training.asking import tell_asking_remedies
from groundling.training.checkpoint import list_checkpoints, tell_way_on
from groundling.training.memory import GIB, Subject, estimate_memory, read_subject, show_memory
from groundling.training.processes import name_engine
from groundling.training.rehearsal import RowShape
from groundling.training.remedies import find_remedies
from groundling.training.rows import RowSampler
from groundling.training.workload import Samples, measure_samples, worst_row

_OF_A_CPU = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")  # a RuntimeError without a class
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ [KMG]iB|\d+ bytes)")
_MOST_NAMED = 8  # records

log = logging.getLogger(__name__)


class Training(Protocol):
    """A trainer, as far as it has to tell what it was doing."""

    args: TrainingArguments
    state: TrainerState
    accelerator: Accelerator
    train_dataset: Any
    settings: Settings
    processor: Processor
    sampler: RowSampler


@contextmanager
def explain_exhaustion(trainer: Training, row: Mapping[str, Any] | None = None) -> Iterator[None]:
    """TrainingError in place of a lack of memory: the step, the row if that is it, and the three cheapest remedies."""
    with _explaining(lambda: _place(trainer, row), lambda: _tell_training(trainer, row)):
        yield


@contextmanager
def explain_loading(settings: Settings, processor: Processor) -> Iterator[None]:
    """The same while the model to train is loaded and put on its device."""

    def tell() -> Iterator[str]:
        row = worst_row(settings, max_tokens=processor.contract.budget.max_tokens)
        return _tell_remedies(settings, row, processor)

    with _explaining(lambda: "while the model was loaded", tell):
        yield


@contextmanager
def explain_asking(settings: Settings, contract: Contract, when: str, *, in_training: bool = False) -> Iterator[None]:
    """The same while a model is asked about the test records; `when`, such as `after step 8`."""

    def tell() -> Iterator[str]:
        yield "what takes less, and learns the same:"
        config = _read_recipe_subject(settings).config
        options = {"max_tokens": contract.budget.max_tokens, "in_training": in_training}
        yield from (f"  {line}" for line in tell_asking_remedies(config, settings, **options))
        yield tell_way_on(settings.run.dir)

    with _explaining(lambda: f"while test records were asked {when}", tell):
        yield


@contextmanager
def explain_loading_base(settings: Settings) -> Iterator[None]:
    """The same while the model as it comes is loaded to be measured, which a recipe can leave out."""

    def tell() -> Iterator[str]:
        yield "evaluate.before=false leaves that out"
        yield tell_way_on(settings.run.dir)

    with _explaining(lambda: "while the model was loaded to be measured before the training", tell):
        yield


@contextmanager
def explain_ending(run: Path, doing: str) -> Iterator[None]:
    """The same while the final weights are written, tried or loaded: the next start has them alone in memory."""
    with _explaining(lambda: f"while the final weights were {doing}", lambda: iter([tell_way_on(run)])):
        yield


@contextmanager
def _explaining(place: Callable[[], str], tell: Callable[[], Iterator[str]]) -> Iterator[None]:
    """TrainingError in place of a lack of memory: where it was, and the lines that follow."""
    message = None
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_exhaustion(error):
            raise
        message = str(error)
    if message is not None:  # outside of the handler, so that the traceback's frames, and the tensors in them, are gone
        process = PartialState().process_index
        asked = _ASKED.search(message)
        wanted = f": {asked[1]} more were asked for" if asked else ""
        told = "\n".join([f"out of memory on process {process}, {place()}{wanted}{_tell_room()}", *_try_to(tell)])
        if process:
            log.error("error: %s", told)  # the command line speaks for the first process only
        raise TrainingError(told)


def _try_to(tell: Callable[[], Iterator[str]]) -> list[str]:
    """Its lines; the first message counts, whatever fails behind it."""
    try:
        return list(tell())
    except (GroundlingError, RuntimeError, ValueError) as error:
        return [f"(no remedy could be planned: {error})"]


def is_exhaustion(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_OF_A_CPU.search(str(error)))


def _place(trainer: Training, row: Mapping[str, Any] | None) -> str:
    step = trainer.state.global_step + 1
    if row is None:
        return f"at step {step}, outside of its rows"
    shape = shape_of(row)
    records = name_records(trainer)
    named = f", records {', '.join(records)}" if records else ""
    return f"at step {step}, in a row of {shape.tokens} tokens with {len(shape.grids)} pictures{named}"


def shape_of(row: Mapping[str, Any]) -> RowShape:
    """The shape of a row from `pack_row`; `labels` may be gone by now."""
    grids = [tuple(grid) for grid in row["image_grid_thw"].tolist()]
    labels = row.get("labels")
    learned = row["input_ids"].shape[1] // 20 if labels is None else int((labels != IGNORED).sum())
    return RowShape(row["layout"].stretches, grids, learned)  # type: ignore[arg-type]


def name_records(trainer: Training) -> list[str]:
    """Ids of the records that this process has in this step, those of its largest row first; some of many."""
    mine = trainer.sampler.draw_step(trainer.state.global_step)[trainer.args.process_index :: trainer.args.world_size]
    lengths = trainer.sampler.lengths
    mine.sort(key=lambda row: sum(lengths[number].tokens for number in row.numbers), reverse=True)
    records = trainer.train_dataset.records
    names = [records[number].id for row in mine for number in row.numbers]
    return names[:_MOST_NAMED] + (["..."] if len(names) > _MOST_NAMED else [])


def _tell_room() -> str:
    if not torch.cuda.is_available():
        return ""
    free, whole = torch.cuda.mem_get_info()
    return f", {free / GIB:.1f} of {whole / GIB:.1f} GiB are free"


def _tell_training(trainer: Training, row: Mapping[str, Any] | None) -> Iterator[str]:
    settings, processor = trainer.settings.model_copy(update={"launch": running_launch(trainer)}), trainer.processor
    max_tokens = processor.contract.budget.max_tokens
    return _tell_remedies(
        settings, worst_row(settings, max_tokens=max_tokens) if row is None else shape_of(row), processor
    )


def _tell_remedies(settings: Settings, row: RowShape, processor: Processor) -> Iterator[str]:
    yield "what takes less, cheapest first (`groundling plan` tells more):"
    subject = _read_recipe_subject(settings)
    room = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    now = estimate_memory(subject, settings, row).most.total
    yield f"  as it is: {show_memory(now)}, an estimate for a GPU"
    remedies = find_remedies(
        subject,
        settings,
        row,
        samples=_measure(settings, processor),
        device_bytes=room,
        has_gpu=room is not None,
    )
    yield from (f"  {remedy}" for remedy in remedies)
    if not remedies:
        yield "  no change that is known takes less"
    if kept := list_checkpoints(settings.run.dir):
        way = f"goes on with run.resume={kept[-1]}, where its optimizer's state fits"
        yield f"a changed recipe {way}, or begins in a new run.dir"


def _measure(settings: Settings, processor: Processor) -> Samples | None:
    """The training records as a plan has them; None where they are not what they were at the start."""
    try:
        return measure_samples(settings, processor)
    except (GroundlingError, OSError):
        return None


def _read_recipe_subject(settings: Settings) -> Subject:
    return read_subject(find_description(settings.model.name, revision=settings.model.revision))


def running_launch(trainer: Training) -> Launch:
    """The engine and the devices of a training that runs."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", trainer.args.world_size))
    machines = max(1, trainer.args.world_size // local)
    return Launch(processes=local, machines=machines, engine=name_engine(trainer.accelerator))  # type: ignore[arg-type]
