"""Drawn records for tests that really train, and what is compared afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import groundling as gl
from groundling.tiny.scenes import draw_shapes

Recipe = Callable[..., Path]  # the fixture `recipe` of tests/training


def draw_records(images: Path, name: str, *, count: int, seed: int) -> list[gl.Record]:
    """Questions about the first shape of drawn scenes, its box the answer."""
    images.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    records: list[gl.Record] = []
    for number in range(count):
        scene, file = draw_shapes(rng), images / f"{name}-{number}.png"
        scene.picture.save(file)
        shape = scene.objects[0]
        target = gl.Target(box=shape.box, label=shape.name)
        records.append(gl.Record(question=f"the {shape.name}", image=file, targets=(target,), id=f"{name}-{number}"))
    return records


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint or an adapter, by name."""
    return load_file(next(folder.glob("*model.safetensors")))


def changed_weights(before: Path, after: Path) -> set[str]:
    """The names of the tensors that differ in a bit between two checkpoints, which hold the same names."""
    old, new = read_weights(before), read_weights(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; NaN and its kin are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in metrics.jsonl")

    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


@contextmanager
def at_step(step: int, act: Callable[[], None]) -> Iterator[None]:
    """While the block trains, `act` once that step's line is written: after the step, before its checkpoint."""

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(f"step {step}/") and "loss" in record.getMessage():
                act()

    logger, watching = logging.getLogger("groundling"), Watching()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(watching)
    try:
        yield
    finally:
        logger.removeHandler(watching)
        logger.setLevel(level)
