"""How much room a run takes on its disk, before it starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from groundling.errors import SettingsError
from groundling.settings import Settings
from groundling.training.checkpoint import list_checkpoints
from groundling.training.disk import free_bytes, show_bytes

if TYPE_CHECKING:  # a plan does without it, and a fifth of a second
    from transformers import TrainingArguments

_ADAM = "adamw_torch"  # its kinds keep two numbers for each that is trained; of other optimizers nothing is counted
_MASTERS = 12  # bytes for each trained number in DeepSpeed's state: it in float32, and Adam's two


class Sizes(NamedTuple):
    """Bytes of what a run writes, BESIDE_WEIGHTS not counted."""

    weights: int  # of `best/` and of `final/`
    checkpoint: int


def expect_sizes(model: torch.nn.Module, *, engine: str, optimizer: str, is_adapter: bool) -> Sizes:
    """What is written of a model that is trained so; of a model spread by ZeRO-3 too, before its first step."""
    whole = [(_count(each), each) for each in model.parameters()]
    trained = [(numbers, each) for numbers, each in whole if each.requires_grad]
    weights = sum(numbers * each.element_size() for numbers, each in (trained if is_adapter else whole))
    states = 2 * sum(numbers * each.element_size() for numbers, each in trained) if optimizer.startswith(_ADAM) else 0
    return sizes_under(engine, weights=weights, states=states, trained=sum(numbers for numbers, _ in trained))


def sizes_under(engine: str, *, weights: int, states: int, trained: int) -> Sizes:
    """Of so many bytes of weights and optimizer states, for so many numbers; engines keep the weights twice."""
    if engine.startswith("zero"):
        return Sizes(weights, 2 * weights + _MASTERS * trained)
    return Sizes(weights, (2 if engine.startswith("fsdp") else 1) * weights + states)


def _count(parameter: torch.nn.Parameter) -> int:
    """The numbers in all of a parameter; DeepSpeed 0.19 keeps the shape beside what ZeRO-3 leaves on one device."""
    return getattr(parameter, "ds_shape", parameter.shape).numel()


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
