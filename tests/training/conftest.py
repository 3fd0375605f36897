"""Drawn record files, and recipes of a few steps on the tiny model with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn import Recipe, draw_records

import groundling as gl
from groundling.recipe_file import write_yaml


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of record files.

    train.jsonl: 20 questions about drawn shapes; test.jsonl: 6 others; none.jsonl: 8 with nothing to find;
    words.jsonl: 4 of words alone; uneven.jsonl: 4 with 1, 4, 7 and 10 targets.
    """
    folder = tmp_path_factory.mktemp("scenes")
    images = folder / "images"
    gl.write_records(draw_records(images, "train", count=20, seed=1), folder / "train.jsonl")
    gl.write_records(draw_records(images, "test", count=6, seed=2), folder / "test.jsonl")
    none = [replace(record, targets=()) for record in draw_records(images, "none", count=8, seed=3)]
    gl.write_records(none, folder / "none.jsonl")
    words = [gl.Record(question="count", image=None, answer=" ".join(map(str, range(end)))) for end in (2, 4, 8, 16)]
    gl.write_records(words, folder / "words.jsonl")
    drawn = draw_records(images, "uneven", count=4, seed=4)
    uneven = [replace(record, targets=record.targets * (1 + 3 * number)) for number, record in enumerate(drawn)]
    gl.write_records(uneven, folder / "uneven.jsonl")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, scenes: Path, tiny_model_folder: Path) -> Recipe:
    """Writes a recipe of few steps: `recipe("other", train={"max_steps": 3})` changes a section, in a run `other`."""

    def write(name: str = "run", **sections: Any) -> Path:
        values: dict[str, Any] = {
            "model": {"name": str(tiny_model_folder)},
            "data": {"train": str(scenes / "train.jsonl")},
            "train": {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-3, "warmup": 0, "bf16": False},
            "evaluate": {"max_new_tokens": 8},
            "run": {"dir": str(tmp_path / name), "log_every": 2, "pictures": 0},
        }
        for section, changed in sections.items():
            values[section] = values.get(section, {}) | changed if isinstance(changed, dict) else changed
        file = tmp_path / f"{name}.yaml"
        file.write_text(write_yaml(values), encoding="utf-8")
        return file

    return write
