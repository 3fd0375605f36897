"""Final weights are loaded again and asked before the run says that it is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawn import Recipe, read_weights
from safetensors.torch import save_file

import groundling as gl
from groundling.errors import TrainingError
from groundling.training.reload import Said, choose_asked, refuse_other_model, say

Change = Callable[[dict[str, torch.Tensor]], object]
EMBEDDING = "embed_tokens.weight"


def first(tensors: dict[str, torch.Tensor], ending: str) -> str:
    return next(name for name in tensors if name.endswith(ending))


CHANGES: dict[str, tuple[Change, str]] = {
    "a weight less": (lambda all_: all_.pop(first(all_, "norm.weight")), "cannot be loaded and asked: .* missing"),
    "another weight": (
        lambda all_: all_[first(all_, "layers.0.mlp.up_proj.weight")].mul_(1.5),
        "is not the model that was trained: asked .*train.jsonl:1, its logits are",
    ),
    "no number": (
        lambda all_: all_[first(all_, EMBEDDING)].fill_(float("nan")),
        "with numbers that are none|cannot be loaded",
    ),
}


@pytest.fixture(scope="module")
def asked(scenes: Path) -> gl.Record:
    return gl.read_records(scenes / "train.jsonl")[0]


def said_by(folder: Path, record: gl.Record) -> Said:
    grounder = gl.load(folder)
    return say(grounder.model, grounder.processor, record, 10**8)


def test_what_was_saved_is_what_was_trained(tiny_model_folder: Path, asked: gl.Record) -> None:
    refuse_other_model(tiny_model_folder, asked, said_by(tiny_model_folder, asked), max_pixels=10**8)
    refuse_other_model(tiny_model_folder, asked, None, max_pixels=10**8)


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_is_refused(tmp_path: Path, tiny_model_folder: Path, asked: gl.Record, change: str) -> None:
    said, folder = said_by(tiny_model_folder, asked), tmp_path / "final"
    shutil.copytree(tiny_model_folder, folder)
    tensors = {name: tensor.clone() for name, tensor in read_weights(folder).items()}
    make, told = CHANGES[change]
    make(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=told):
        refuse_other_model(folder, asked, said, max_pixels=10**8)


def test_weights_that_were_computed_in_bfloat16_may_be_rounded(tiny_model_folder: Path, asked: gl.Record) -> None:
    said = said_by(tiny_model_folder, asked)
    noise = torch.randn(said.logits.shape, generator=torch.Generator().manual_seed(0)) * said.logits.std() * 0.02
    rounded = said.logits + noise
    refuse_other_model(tiny_model_folder, asked, Said(rounded, is_exact=False), max_pixels=10**8)
    with pytest.raises(TrainingError, match=r"0\.016 of their spread away from the trained model's, where 0\.001 is"):
        refuse_other_model(tiny_model_folder, asked, Said(rounded, is_exact=True), max_pixels=10**8)


def test_a_record_with_a_picture_is_asked_where_there_is_one(asked: gl.Record) -> None:
    words = gl.Record(question="count", image=None, answer="one two")
    assert choose_asked([], [words, asked]) is asked
    assert choose_asked([asked], [words]) is asked
    assert choose_asked([], [words]) is words


@pytest.mark.parametrize("tune", [{}, {"method": "lora"}], ids=["full", "lora"])
def test_a_training_on_words_alone_ends_too(recipe: Recipe, scenes: Path, tune: dict[str, str]) -> None:
    run = gl.train(recipe(data={"train": str(scenes / "words.jsonl")}, train={"max_steps": 1}, tune=tune))
    assert (run / "final" / "manifest.json").is_file() and not list(run.glob("*.partial"))
