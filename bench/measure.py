"""What is measured of a training: the same way in every framework that trains with transformers' Trainer.

`Trainer.training_step` is wrapped to count what each batch holds, the LM head to count the positions it computes, and
Pillow's loader to count decoded pictures. Time is read after the last optimizer step of each epoch, so a span is whole
epochs with everything in them: pictures, batches, steps. CPU seconds are those of all threads and child processes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from PIL import ImageFile
from transformers import Trainer, TrainerCallback

IGNORED = -100  # a label that is not learned

Batch = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One measurement: a framework, what it trains on, and how."""

    framework: str
    mode: str  # train, or data: the batches alone, without the model
    checkpoint: str
    records: str  # groundling's record file
    dialogues: str  # the same for the others: JSONL of chat turns (`messages`, with `<image>` in them) and `images`
    max_pixels: int  # of a picture as the model sees it
    batch_size: int
    accumulate: int
    epochs: int  # the first one warms up and is not counted
    overrides: tuple[str, ...]  # of groundling's recipe
    folder: str  # an empty one, to write to
    floats: bool = False  # in mode data: with what turns groundling's bytes into floats, in the step otherwise


class Measured(BaseException):
    """Ends the process's work when all is measured: saving and reporting are not part of it."""


class Meter:
    """Running totals of one training, and their values at the end of each epoch."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.marks: list[dict[str, float]] = []
        self.before: dict[str, float] | None = None  # totals when the first batch is at the model
        self.stepped: dict[str, float] | None = None  # totals behind the first optimizer step
        self.finish_batch: Callable[[Trainer, Batch], Batch] = lambda _, batch: batch  # work a framework does later

    def read(self) -> dict[str, float]:
        """The totals, and the seconds since the process began."""
        wall = time.time() - psutil.Process().create_time()
        return {**self.totals, "cpu_seconds": cpu_seconds(), "wall_seconds": wall}

    def count(self, batch: Batch) -> None:
        """Add one batch to the totals; a sample is a run of labels, in packed and in padded rows alike."""
        if self.before is None:
            self.before = self.read()
        learned = batch["labels"] != IGNORED
        mask = batch.get("attention_mask")
        pixels = batch.get("pixel_values", batch.get("pixels"))
        self.totals["samples"] += int((learned[:, 1:] & ~learned[:, :-1]).sum())
        self.totals["labelled"] += int(learned.sum())
        self.totals["positions"] += batch["input_ids"].numel()
        self.totals["padded"] += 0 if mask is None else int((mask == 0).sum())
        self.totals["patches"] += 0 if pixels is None else len(pixels)

    def figures(self) -> dict[str, float]:
        """What is reported: of the epochs after the first, most of it per sample."""
        assert self.before is not None and len(self.marks) > 1, "a warm-up epoch and one to count"
        first, last = self.marks[0], self.marks[-1]
        span = {name: last[name] - first.get(name, 0) for name in last}
        samples = span["samples"]
        per_sample = ("positions", "labelled", "head", "patches", "decodes")
        kibibyte = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
        return {
            "samples_per_cpu_second": samples / span["cpu_seconds"],
            "samples_per_wall_second": samples / span["wall_seconds"],
            "samples_per_epoch": samples / (len(self.marks) - 1),
            **({"samples_per_step": samples / span["steps"]} if "steps" in span else {}),
            "padded_share": span["padded"] / span["positions"],
            **{f"{name}_per_sample": span[name] / samples for name in per_sample if name in span},
            "decodes_before": self.before.get("decodes", 0),
            "first_batch_cpu_seconds": self.before["cpu_seconds"],
            "first_batch_wall_seconds": self.before["wall_seconds"],
            **({"first_step_cpu_seconds": self.stepped["cpu_seconds"]} if self.stepped else {}),
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibyte / 1e6,
        }


def cpu_seconds() -> float:
    """Of this process and its children, living ones and those that have ended."""
    ended = os.times()
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        living += times.user + times.system
    return time.process_time() + ended.children_user + ended.children_system + living


class Dialogue(NamedTuple):
    """One question about one picture, and its answer as text."""

    image: str
    question: str
    answer: str


def load_dialogues(job: Job) -> list[Dialogue]:
    """The job's dialogues, out of chat turns."""
    rows = [json.loads(line) for line in Path(job.dialogues).read_text(encoding="utf-8").splitlines()]
    turns = [(row["images"][0], *(message["content"] for message in row["messages"])) for row in rows]
    return [Dialogue(image, question.removeprefix("<image>"), answer) for image, question, answer in turns]


# ---- watching --------------------------------------------------------------------------------------------------


class _EpochMarks(TrainerCallback):
    """Reads the meter after every optimizer step; the last reading of an epoch stays."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.meter.marks.append({})

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.meter.totals["steps"] += 1
        self.meter.marks[-1] = self.meter.read()
        self.meter.stepped = self.meter.stepped or self.meter.marks[-1]


def watch(job: Job) -> Meter:
    """A meter of what any Trainer of this process does from here on; `Trainer.train` ends in Measured."""
    meter = Meter()
    torch.set_num_threads(1)
    _count_decodes(meter)
    _count_batches(meter)
    train = Trainer.train

    def measured_train(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if job.mode == "data":
            _read_batches(trainer, meter, epochs=job.epochs)
        else:
            _count_head(trainer.model, meter)
            trainer.add_callback(_EpochMarks(meter))
            train(trainer, *args, **kwargs)
        raise Measured

    Trainer.train = measured_train
    return meter


def _read_batches(trainer: Trainer, meter: Meter, *, epochs: int) -> None:
    """The epochs without the model: everything up to batches that it could take."""
    loader = trainer.get_train_dataloader()
    for _ in range(epochs):
        for batch in loader:
            meter.count(meter.finish_batch(trainer, batch))
        meter.marks.append(meter.read())


def _count_batches(meter: Meter) -> None:
    step = Trainer.training_step

    def counted_step(trainer: Trainer, model: torch.nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        meter.count(inputs)
        return step(trainer, model, inputs, *args, **kwargs)

    Trainer.training_step = counted_step


def _count_head(model: Any, meter: Meter) -> None:
    def add_positions(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        meter.totals["head"] += args[0].shape[:-1].numel()

    model.get_output_embeddings().register_forward_pre_hook(add_positions)


def _count_decodes(meter: Meter) -> None:
    load = ImageFile.ImageFile.load

    def counted_load(image: ImageFile.ImageFile) -> Any:
        if image.tile:  # empty once the pixels are there
            meter.totals["decodes"] += 1
        return load(image)

    ImageFile.ImageFile.load = counted_load
