"""What a recipe will take before it is started: memory, tokens, steps, time, disk, and the line that starts it.

Nothing is loaded but configuration, tokenizer and headers of pictures. Where one of them is not at hand the rest is
still told, with a note of what could not be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from groundling.errors import ContractError, GroundlingError, SettingsError
from groundling.model.contract import DEFAULT_MAX_TOKENS, recipe_contract
from groundling.model.load import find_checkpoint, find_description, load_processor
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.memory import (
    OPTIMIZERS,
    Memory,
    Numbers,
    count_numbers,
    estimate_memory,
    name_optimizer,
    read_subject,
)
from groundling.training.rehearsal import RowShape
from groundling.training.remedies import Remedy, find_remedies
from groundling.training.scripts import start_command
from groundling.training.space import bytes_to_come, count_sizes
from groundling.training.workload import Samples, Workload, measure_samples, plan_rows, worst_row


class Rate(NamedTuple):
    """How fast all devices together are, in one of two measures."""

    samples: float | None = None  # a second
    tokens: float | None = None  # a second


class Disk(NamedTuple):
    """What a run keeps, in bytes."""

    checkpoint: int  # weights and the optimizer's states
    checkpoints: int  # kept at once
    whole: int  # with best/ and final/


@dataclass(frozen=True)
class Plan:
    """All that is known of a training before it starts."""

    name: str
    settings: Settings
    numbers: Numbers
    row: RowShape  # that memory is estimated for
    memory: Memory
    device_bytes: int | None  # of one device; None where it is not known
    remedies: list[Remedy]  # where it does not fit, `find_remedies`
    workload: Workload | None  # None where processor or data are not at hand
    seconds: float | None  # None without a rate
    command: str
    notes: list[str]

    @property
    def fits(self) -> bool | None:
        """Whether the devices have room; None where that is not known."""
        return None if self.device_bytes is None else self.memory.fits(self.device_bytes)

    @property
    def evaluations(self) -> int | None:
        """On the way; None where the steps are not known."""
        every = self.settings.evaluate.every
        return None if self.steps is None else self.steps // every if every else 0

    @property
    def steps(self) -> int | None:
        """Of the optimizer, in all."""
        return self.settings.train.max_steps if self.workload is None else self.workload.steps

    @property
    def warmup_steps(self) -> int | None:
        """In which the learning rate rises."""
        return None if self.steps is None else math.ceil(self.steps * self.settings.train.warmup)

    @property
    def saves(self) -> int | None:
        """Checkpoints written on the way, the last step's among them."""
        if self.steps is None:
            return None
        run, every = self.settings.run, self.settings.evaluate.every
        between = run.save_every or every or (self.workload.steps_an_epoch if self.workload else self.steps)
        return -(-self.steps // between)

    @property
    def disk(self) -> Disk:
        """What is written."""
        settings, keep = self.settings, self.settings.run.keep
        sizes = count_sizes(self.numbers, settings, engine=settings.launch.engine or "ddp", has_gpu=True)
        saves = keep + 1 if self.saves is None else self.saves
        most = bytes_to_come(sizes, saves=saves, keep=keep, has_best=settings.evaluate.every > 0)
        return Disk(sizes.checkpoint, keep, most)

    def to_json(self) -> dict[str, Any]:
        """All of it, bytes as bytes."""
        memory = {"moments": [moment._asdict() | {"total": moment.total} for moment in self.memory.moments]}
        memory |= {"most": self.memory.most.total, "device": self.device_bytes, "fits": self.fits}
        memory |= {"row": {"tokens": self.row.tokens, "patches": self.row.patches, "learned": self.row.learned}}
        memory["remedies"] = [
            {
                "changes": [str(change) for change in remedy.changes],
                "costs": remedy.costs,
                "bytes": remedy.total,
                "fits": remedy.fits,
            }
            for remedy in self.remedies
        ]
        return {
            "recipe": self.name,
            "launch": self.settings.launch.model_dump() | {"devices": self.settings.launch.devices},
            "parameters": dict(self.numbers.parameters),
            "trained": dict(self.numbers.trained),
            "memory": memory,
            "data": None if self.workload is None else _workload_to_json(self.workload),
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "evaluations": self.evaluations,
            "checkpoints": self.saves,
            "disk": self.disk._asdict(),
            "seconds": self.seconds,
            "command": self.command,
            "notes": self.notes,
        }


def _workload_to_json(workload: Workload) -> dict[str, Any]:
    found = workload._asdict() | {"tokens": workload.tokens._asdict()}
    del found["largest"]
    return found


def build_plan(
    settings: Settings,
    *,
    name: str,
    recipe: str,
    overrides: Sequence[str] = (),
    device_bytes: int | None = None,
    rate: Rate,
) -> Plan:
    """The plan of a recipe. SettingsError or ContractError where its model's configuration cannot be had or used.

    `device_bytes` is the memory of one device; by default that of the GPU here, if there is one.
    """
    if settings.launch.engine not in (None, "ddp") and settings.tune.method == "qlora":
        raise SettingsError(
            f"tune.method is qlora, and {settings.launch.engine} would have to cut weights of 4 bits; use ddp"
        )
    folder = find_description(settings.model.name, revision=settings.model.revision)
    subject, notes = read_subject(folder), []
    try:
        processor = _load_processor(settings, str(folder))
    except ContractError as error:
        processor = None
        notes.append(f"tokens and steps are not known: {error}")
    samples = None if processor is None else _measure(settings, processor, notes)
    workload = None if samples is None else plan_rows(samples, settings)
    max_tokens = settings.images.max_tokens or (
        DEFAULT_MAX_TOKENS if processor is None else processor.contract.budget.max_tokens
    )
    row = worst_row(settings, max_tokens=max_tokens) if workload is None else workload.largest
    device_bytes = device_bytes or _memory_of_gpu()
    numbers = count_numbers(subject, settings)
    memory = estimate_memory(subject, settings, row, numbers=numbers)
    _note_settings(settings, notes)
    return Plan(
        name=name,
        settings=settings,
        numbers=numbers,
        row=row,
        memory=memory,
        device_bytes=device_bytes,
        remedies=[]
        if device_bytes is None or memory.fits(device_bytes)
        else find_remedies(subject, settings, row, samples=samples, device_bytes=device_bytes),
        workload=workload,
        seconds=_seconds(workload, rate),
        command=start_command(settings.launch, recipe, overrides),
        notes=notes,
    )


def _load_processor(settings: Settings, folder: str) -> Processor:
    base = find_checkpoint(folder)
    return load_processor(base).with_contract(
        recipe_contract(base.contract, settings, is_derived=base.is_contract_derived)
    )


def _measure(settings: Settings, processor: Processor, notes: list[str]) -> Samples | None:
    try:
        return measure_samples(settings, processor)
    except (GroundlingError, OSError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        notes.append(f"tokens and steps are not known: {told}")
        return None


def _note_settings(settings: Settings, notes: list[str]) -> None:
    if any(value for key, value in settings.augment.model_dump().items() if key in _CHANCES):
        notes.append("augment changes pictures, and with them the lengths of samples")
    optimizer = name_optimizer(settings)
    if optimizer not in OPTIMIZERS:
        notes.append(
            f"trainer.optim is {optimizer}, and what it keeps is not known: counted like AdamW in memory, and not on "
            "the disk"
        )


_CHANCES = ("flip", "rotate", "crop", "scale", "mosaic")


def _memory_of_gpu() -> int | None:
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _seconds(workload: Workload | None, rate: Rate) -> float | None:
    if workload is None or not (rate.samples or rate.tokens):
        return None
    epochs = workload.steps / workload.steps_an_epoch
    if rate.samples:
        return epochs * workload.records / rate.samples
    return epochs * workload.epoch_tokens / (rate.tokens or 1)
