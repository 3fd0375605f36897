"""Out of memory: what was being done, and what would make it fit, in place of a traceback.

Nothing is changed by itself: a step of other records, or another model, is not what the recipe asked for.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import TrainerState, TrainingArguments

from groundling.errors import GroundlingError, TrainingError
from groundling.inference.batch import IGNORED
from groundling.model.load import find_description
from groundling.model.processor import Processor
from groundling.settings import Launch, Settings
from groundling.training.memory import GIB, estimate_memory, read_subject
from groundling.training.processes import name_engine
from groundling.training.rehearsal import RowShape
from groundling.training.remedies import find_remedies
from groundling.training.rows import RowSampler
from groundling.training.workload import worst_row

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
    message = None
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_exhaustion(error):
            raise
        message = str(error)
    if message is not None:  # outside of the handler, so that the traceback's frames, and the tensors in them, are gone
        told = "\n".join(_explain(trainer, row, message))
        if trainer.args.process_index:
            log.error("error: %s", told)  # the command line speaks for the first process only
        raise TrainingError(told)


def is_exhaustion(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_OF_A_CPU.search(str(error)))


def _explain(trainer: Training, row: Mapping[str, Any] | None, message: str) -> Iterator[str]:
    asked = _ASKED.search(message)
    wanted = f": {asked[1]} more were asked for" if asked else ""
    yield f"out of memory on process {trainer.args.process_index}, {_place(trainer, row)}{wanted}{_tell_room()}"
    try:
        remedies = list(_find_remedies(trainer, row))
    except (GroundlingError, RuntimeError, ValueError) as error:  # the first message counts, whatever fails behind it
        remedies = [f"(no remedy could be planned: {error})"]
    yield "what takes less, with the same records in every step (`groundling plan` tells more):"
    yield from (f"  {remedy}" for remedy in remedies)


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


def _find_remedies(trainer: Training, row: Mapping[str, Any] | None) -> Iterator[str]:
    settings = trainer.settings.model_copy(update={"launch": running_launch(trainer)})
    subject = read_subject(find_description(settings.model.name, revision=settings.model.revision))
    budget = trainer.processor.contract.budget
    shape = worst_row(settings, max_tokens=budget.max_tokens) if row is None else shape_of(row)
    room = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    now = estimate_memory(subject, settings, shape).most.total
    yield f"as it is: {now / GIB:.1f} GiB, an estimate for a GPU"
    for remedy in find_remedies(subject, settings, shape, device_bytes=room):
        yield str(remedy)


def running_launch(trainer: Training) -> Launch:
    """The engine and the devices of a training that runs."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", trainer.args.world_size))
    machines = max(1, trainer.args.world_size // local)
    return Launch(processes=local, machines=machines, engine=name_engine(trainer.accelerator))  # type: ignore[arg-type]
