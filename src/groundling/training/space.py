"""How much room a run takes on its disk, before it starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from groundling.errors import SettingsError
from groundling.model.load import find_description
from groundling.settings import Settings
from groundling.training.checkpoint import list_checkpoints
from groundling.training.disk import free_bytes, show_bytes
from groundling.training.memory import Numbers, count_numbers, read_subject

if TYPE_CHECKING:  # a plan does without it, and a fifth of a second
    from transformers import TrainingArguments

_ADAM = "adamw_torch"  # its kinds, the Trainer's own among them, keep two numbers for each trained; others count none
_MASTERS = 12  # bytes for each trained number in DeepSpeed's state: it in float32, and Adam's two


class Sizes(NamedTuple):
    """Bytes of what a run writes, BESIDE_WEIGHTS not counted."""

    weights: int  # of `best/` and of `final/`
    checkpoint: int


def find_sizes(settings: Settings, *, engine: str, has_gpu: bool) -> Sizes:
    """What a training under this engine writes, known before its weights are loaded.

    SettingsError or ContractError where its model's configuration cannot be had.
    """
    subject = read_subject(find_description(settings.model.name, revision=settings.model.revision))
    return count_sizes(count_numbers(subject, settings, has_gpu=has_gpu), settings, engine=engine, has_gpu=has_gpu)


def count_sizes(numbers: Numbers, settings: Settings, *, engine: str, has_gpu: bool) -> Sizes:
    """What is written of a model of these numbers: of adapters' them alone; the engines keep all weights twice."""
    trained = sum(numbers.trained.values())
    weights = numbers.gradients if settings.tune.has_adapters else numbers.weights
    if engine.startswith("zero"):
        in_bf16 = has_gpu if settings.train.bf16 == "auto" else settings.train.bf16
        if in_bf16 and not settings.tune.has_adapters:
            weights = 2 * sum(numbers.parameters.values())  # DeepSpeed has them in bf16, beside its masters
        return Sizes(weights, 2 * weights + _MASTERS * trained)
    is_adam = str(settings.trainer.get("optim", _ADAM)).startswith(_ADAM)
    states = 2 * numbers.gradients if is_adam else 0
    return Sizes(weights, (2 if engine.startswith("fsdp") else 1) * weights + states)


def count_steps(settings: Settings, *, steps_an_epoch: int) -> int:
    """How many optimizer steps a whole run makes."""
    return settings.train.max_steps or math.ceil(settings.train.epochs * steps_an_epoch)


def count_saves(settings: Settings, arguments: TrainingArguments, *, steps_an_epoch: int) -> int:
    """How many checkpoints a whole run writes, kept or not."""
    steps = count_steps(settings, steps_an_epoch=steps_an_epoch)
    between = arguments.save_steps if arguments.save_strategy == "steps" else steps_an_epoch
    return math.ceil(steps / between)


def most_bytes(sizes: Sizes, *, saves: int, keep: int, has_best: bool) -> int:
    """What lies in the run folder when it holds most: while a checkpoint or the final weights are written."""
    best = sizes.weights * has_best
    saving = min(keep + 1, saves) * sizes.checkpoint + best
    ending = min(keep, saves) * sizes.checkpoint + best + sizes.weights
    return max(saving, ending)


def refuse_small_disk(settings: Settings, sizes: Sizes, *, saves: int) -> None:
    """SettingsError where the disk has less room than the run will take, beyond what it has taken already."""
    run, keep, has_best = settings.run.dir, settings.run.keep, settings.evaluate.every > 0
    wanted = most_bytes(sizes, saves=saves, keep=keep, has_best=has_best)
    needed, free = wanted - bytes_taken(run), free_bytes(run)
    if needed > free:
        raise SettingsError(
            f"{run}: {show_bytes(needed)} are needed, and {show_bytes(free)} are free on its disk (a checkpoint has "
            f"{show_bytes(sizes.checkpoint)}, the weights alone {show_bytes(sizes.weights)}, and run.keep is {keep}); "
            "make room, lower run.keep, or choose a run.dir on another disk"
        )


def bytes_taken(run: Path) -> int:
    """Bytes of what the run has kept so far, in whose place later things come; what is damaged is never removed."""
    kept = [*list_checkpoints(run), run / "best", run / "final"]
    return sum(file.stat().st_size for folder in kept for file in folder.rglob("*") if file.is_file())
