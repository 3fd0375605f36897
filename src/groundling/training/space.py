"""How much room a run takes on its disk, before it starts."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from groundling.errors import SettingsError
from groundling.model.load import find_description
from groundling.settings import Settings
from groundling.training.checkpoint import (
    find_resume,
    list_checkpoints,
    list_former,
    list_passed_over,
    list_unfinished,
    own_name,
)
from groundling.training.disk import free_bytes, show_bytes
from groundling.training.memory import Numbers, States, count_numbers, find_states, read_subject

if TYPE_CHECKING:  # a plan does without it, and a fifth of a second
    from transformers import TrainingArguments


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
    """What is written of a model of these numbers, of adapters' them alone.

    An optimizer that is in no table counts nothing, so that no run is refused which may fit.
    """
    trained, has_adapters = sum(numbers.trained.values()), settings.tune.has_adapters
    states = find_states(settings, engine, unknown=States())
    weights = numbers.gradients if has_adapters else numbers.weights
    if engine == "ddp":
        return Sizes(weights, weights + states.take(trained, numbers.gradients))
    if engine.startswith("fsdp"):  # which writes all weights in its own way too
        return Sizes(weights, 2 * weights + states.take(trained, numbers.gradients))
    parameters = trained if has_adapters else sum(numbers.parameters.values())
    in_bf16 = has_gpu if settings.train.bf16 == "auto" else settings.train.bf16
    if in_bf16 and not (has_adapters and engine == "zero3"):  # adapters it leaves in float32
        weights = 2 * parameters
    again = weights * (parameters - trained) // parameters if engine == "zero3" else weights  # what is in no master
    masters = 4 * trained  # in float32
    return Sizes(weights, weights + again + masters + states.take(trained, masters))


def count_steps(settings: Settings, *, steps_an_epoch: int) -> int:
    """How many optimizer steps a whole run makes."""
    return settings.train.max_steps or math.ceil(settings.train.epochs * steps_an_epoch)


def count_saves(settings: Settings, arguments: TrainingArguments, *, steps_an_epoch: int, done: int = 0) -> int:
    """How many checkpoints a run writes, kept or not, after so many steps are done."""
    steps = count_steps(settings, steps_an_epoch=steps_an_epoch)
    between = int(arguments.save_steps) if arguments.save_strategy == "steps" else steps_an_epoch
    return math.ceil(steps / between) - done // between if done < steps else 0


class Kept(NamedTuple):
    """What a run folder holds already."""

    checkpoints: int = 0  # that are whole, and no links to another disk
    has_best: bool = False
    unfinished: int = 0  # bytes of what the next start sweeps away


def find_kept(run: Path, resume: Path | None = None) -> Kept:
    """What is kept of a run that goes on from `resume`; what of it is damaged is passed over, and never removed."""
    passed_over = [] if resume is None else list_passed_over(run, resume)
    whole = [path for path in list_checkpoints(run) if path not in passed_over and not path.is_symlink()]
    back = [own_name(former) for former in list_former(run)]
    unfinished = [file for path in list_unfinished(run) for file in (path, *path.rglob("*")) if file.is_file()]
    return Kept(
        checkpoints=len(whole) + sum(path.name.isdecimal() for path in back),
        has_best=(run / "best").is_dir() or run / "best" in back,
        unfinished=sum(file.lstat().st_size for file in unfinished),
    )


def bytes_to_come(sizes: Sizes, kept: Kept | None = None, *, saves: int, keep: int, has_best: bool) -> int:
    """The most by which a run folder grows: while a checkpoint, or the final weights, are written beside what is kept.

    The oldest ones go once the next one is whole, the former best and final weights likewise.
    """
    kept = kept or Kept()
    most = left = kept.checkpoints
    if saves:
        most, left = max(left, min(left + saves - 1, keep)) + 1, min(left + saves, keep)
    saving, ending = ((count - kept.checkpoints) * sizes.checkpoint for count in (most, left))
    best = sizes.weights if has_best and not kept.has_best else 0
    return max(saving, ending + sizes.weights) + best - kept.unfinished


def refuse_full_disk(settings: Settings, sizes: Sizes) -> None:
    """SettingsError where there is not even room for the least that a run takes, before its steps are known.

    A finished run needs none, and is told as that.
    """
    run = settings.run.dir
    with suppress(FileNotFoundError):  # another run has the folder, which is told when the lock is taken
        kept = find_kept(run)
        least = bytes_to_come(sizes, kept, saves=0 if list_checkpoints(run) else 1, keep=1, has_best=False)
        if least > free_bytes(run) and (run / "final").is_dir():
            find_resume(settings)
        _refuse_less_than(least, settings, sizes, "at least ", "")


def refuse_small_disk(settings: Settings, sizes: Sizes, resume: Path | None, *, saves: int) -> None:
    """SettingsError where the disk has less room than a run, with so many saves to come, will take."""
    kept, keep = find_kept(settings.run.dir, resume), settings.run.keep
    needed, with_one = (
        bytes_to_come(sizes, kept, saves=saves, keep=number, has_best=settings.evaluate.every > 0)
        for number in (keep, 1)
    )
    helps = with_one <= free_bytes(settings.run.dir)
    _refuse_less_than(needed, settings, sizes, "", "lower run.keep, " if helps else "")


def _refuse_less_than(needed: int, settings: Settings, sizes: Sizes, at_least: str, lower: str) -> None:
    run, free = settings.run.dir, free_bytes(settings.run.dir)
    if needed > free:
        raise SettingsError(
            f"{run}: {at_least}{show_bytes(needed)} are needed, and {show_bytes(free)} are free on its disk (a "
            f"checkpoint has {show_bytes(sizes.checkpoint)}, the weights alone {show_bytes(sizes.weights)}, and "
            f"run.keep is {settings.run.keep}); make room, {lower}or choose a run.dir on another disk"
        )
