"""A loss or a gradient that is no number: the run stops before the step is made, and names the records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import Recipe, read_weights
from safetensors.torch import save_file

import groundling as gl
from groundling.errors import TrainingError
from groundling.model.processor import Processor
from groundling.training.bad_batch import RowLoss, choose_bad, write_bad_batch
from groundling.training.checkpoint import list_checkpoints


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_rows_without_a_number_are_told_or_all_where_each_has_one(tmp_path: Path) -> None:
    records = [gl.Record(question=f"q{number}", image=Path(f"{number}.png"), id=f"id{number}") for number in range(4)]
    rows = [RowLoss([0, 3], 1.5), RowLoss([2], float("nan")), RowLoss([1], float("inf"))]
    assert list(choose_bad(rows)) == [1, 2] and list(choose_bad(rows[:1])) == [0]
    assert write_bad_batch(tmp_path / "bad.jsonl", rows, records, step=7) == 2
    first, second = read_lines(tmp_path / "bad.jsonl")
    assert first == {
        **{"step": 7, "row": 1, "loss": "nan", "id": "id2", "image": "2.png", "question": "q2"},
        **{"file": None, "line": None},
    }
    assert (second["id"], second["loss"], second["row"]) == ("id1", "inf", 2)


def poison(folder: Path, base: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a model with other weights, and with a head of its own beside its embedding."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {name: tensor.clone() for name, tensor in read_weights(base).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_names_its_records(
    recipe: Recipe,
    scenes: Path,
    tmp_path: Path,
    tiny_model_folder: Path,
    tiny_processor: Processor,
    accumulate: int,
) -> None:
    """A word that one record alone has, whose embedding is no number; every other row has a loss as ever."""
    records = gl.read_records(scenes / "train.jsonl")
    records[13] = replace(records[13], question="q")
    gl.write_records(records, scenes / "poisoned.jsonl")
    (token,) = tiny_processor.tokenizer("q", add_special_tokens=False)["input_ids"]
    nan = float("nan")
    model = poison(
        tmp_path / "model", tiny_model_folder, lambda all_: all_["model.embed_tokens.weight"][token].fill_(nan)
    )
    file = recipe(
        model={"name": str(model)},
        data={"train": str(scenes / "poisoned.jsonl")},
        train={"max_steps": 20, "batch_size": 4 // accumulate, "accumulate": accumulate},
    )
    with pytest.raises(TrainingError, match=r"the loss is not finite after \d+ steps; .* are in .*bad-batch\.jsonl"):
        gl.train(file)
    told = read_lines(tmp_path / "run" / "bad-batch.jsonl")
    assert len(told) == 4 // accumulate and {line["loss"] for line in told} == {"nan"}
    assert records[13].id in {line["id"] for line in told}
    assert {line["line"] for line in told if line["id"] == records[13].id} == {14}
    assert not (tmp_path / "run" / "final").exists()


def test_a_gradient_that_is_no_number_stops_the_step(recipe: Recipe, tmp_path: Path, tiny_model_folder: Path) -> None:
    """Logits of 1e20 and more have a loss, but the square of their gradient is beyond float32."""
    model = poison(tmp_path / "model", tiny_model_folder, lambda all_: all_["model.norm.weight"].fill_(1e25))
    with pytest.raises(
        TrainingError, match=r"the gradient is not finite after 0 steps; no checkpoint had been written"
    ):
        gl.train(recipe(model={"name": str(model)}, run={"save_every": 1}))
    told = read_lines(tmp_path / "run" / "bad-batch.jsonl")
    assert len(told) == 4 and all(isinstance(line["loss"], float) and line["step"] == 1 for line in told)
    assert not list_checkpoints(tmp_path / "run")


def test_numbers_of_a_step_that_is_fine_leave_nothing(recipe: Recipe) -> None:
    run = gl.train(recipe(train={"max_steps": 1}))
    assert not (run / "bad-batch.jsonl").exists() and all(map(_is_finite, read_weights(run / "final").values()))


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
