"""groundling, from a recipe, by the function that `groundling train` calls."""

from __future__ import annotations

from pathlib import Path

import yaml
from measure import Job, Meter

import groundling
from groundling.dialect.family import find_family

NEVER = 10**9  # steps


def train(job: Job, meter: Meter) -> None:
    """Ends in Measured. Pixels leave the data path as bytes and become floats in the step, on its device."""
    if job.floats:
        meter.finish_batch = lambda trainer, batch: trainer.processor.normalise(batch)
    groundling.train(write_recipe(job), *job.overrides)


def write_recipe(job: Job) -> Path:
    """The recipe that asks and answers as the dialogues of the others do."""
    size = (
        {} if any(each.startswith("train.pack_tokens=") for each in job.overrides) else {"batch_size": job.batch_size}
    )
    recipe = {
        "model": {"name": job.checkpoint},
        "data": {"train": job.records},
        "images": {"max_tokens": job.max_pixels // find_family("qwen2_5_vl").token_side ** 2},
        "prompt": {"template": "{question}"},
        "answer": {"form": "bare"},
        "train": {"epochs": job.epochs, "accumulate": job.accumulate, "bf16": False, "workers": 0} | size,
        "run": {"dir": f"{job.folder}/run", "save_every": NEVER, "log_every": NEVER},
    }
    file = Path(job.folder, "recipe.yaml")
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file
