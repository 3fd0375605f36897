"""Merging: one plain checkpoint that answers as the run did."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from taught import Taught
from transformers import AutoModelForImageTextToText, PreTrainedModel

from groundling.errors import SettingsError, TrainingError
from groundling.inference.merge import merge
from groundling.inference.predict import Question, load
from groundling.model.contract import installed_versions
from groundling.model.load import find_checkpoint, load_model, load_processor
from groundling.model.tune import Adapter, add_adapter


@pytest.fixture
def adapter_folder(taught: Taught, tmp_path: Path) -> Path:
    """An adapter on the taught model that changes its weights a little, and none of its answers."""
    base = find_checkpoint(str(taught.folder))
    adapter = Adapter(rank=2, alpha=4, dropout=0.0, parts=("language", "vision"))
    torch.manual_seed(0)
    model = add_adapter(load_model(base, dtype=torch.float32), adapter, family="qwen2_5_vl", base=base.name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.003)
    model.save_pretrained(tmp_path / "adapter")
    load_processor(base).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def questions_of(taught: Taught) -> list[Question]:
    return [Question(*question) for question in taught.questions]


def test_an_adapter_becomes_a_plain_checkpoint_that_answers_the_same(
    taught: Taught, adapter_folder: Path, tmp_path: Path
):
    questions = questions_of(taught)

    merged = merge(str(adapter_folder), tmp_path / "out", questions=questions)

    assert merged == (tmp_path / "out", len(questions), len(questions))
    found = find_checkpoint(str(tmp_path / "out"))
    assert (found.base, found.is_contract_derived) == (None, False)
    assert found.contract.made_with == installed_versions()
    base, weights = load_file(taught.folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert base.keys() == weights.keys(), "the names of the published layout"
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    changed = {name for name, value in weights.items() if not torch.equal(value, base[name].bfloat16())}
    assert any("visual.blocks" in name for name in changed) and any("self_attn" in name for name in changed)
    answers = load(str(tmp_path / "out")).predict_many(questions)
    assert [answer.text for answer in answers] == [
        answer.text for answer in load(str(adapter_folder)).predict_many(questions)
    ]


def test_a_merged_product_is_rounded_once(adapter_folder: Path, tmp_path: Path):
    merge(str(adapter_folder), tmp_path / "out")

    exact = load_model(find_checkpoint(str(adapter_folder)), dtype=torch.float32).merge_and_unload()  # type: ignore[operator]
    saved = load_model(find_checkpoint(str(tmp_path / "out")), dtype=torch.bfloat16)
    for (name, value), (_, rounded) in zip(exact.named_parameters(), saved.named_parameters(), strict=True):
        assert torch.equal(value.bfloat16(), rounded), name


def test_a_product_that_is_not_the_adapters_is_refused(
    taught: Taught, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right = LoraModel.merge_and_unload

    def wrong(model: LoraModel) -> torch.nn.Module:
        merged = right(model)
        torch.nn.init.normal_(merged.get_input_embeddings().weight)
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)

    with pytest.raises(TrainingError, match=r"sample answers differ .*nothing was written"):
        merge(str(adapter_folder), tmp_path / "out", questions=questions_of(taught))

    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_read_back_as_written_are_refused(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = PreTrainedModel.save_pretrained

    def damage(model: PreTrainedModel, folder: Path) -> None:
        save(model, folder)
        weights = load_file(folder / "model.safetensors")
        next(iter(weights.values())).add_(1)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", damage)

    with pytest.raises(TrainingError, match=r"\d weights were not read back as written"):
        merge(str(taught.folder), tmp_path / "out")


def test_a_run_is_merged_from_its_best_weights(taught: Taught, tmp_path: Path):
    shutil.copytree(taught.folder, tmp_path / "run" / "best")

    merged = merge(str(tmp_path / "run"), str(tmp_path / "out"), questions=questions_of(taught))

    assert merged.same == merged.asked == len(taught.records)
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"
    plain, loading = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert plain.dtype == torch.bfloat16


def test_changed_answers_are_said_not_hidden(adapter_folder: Path, taught: Taught, tmp_path: Path, caplog):
    """An adapter whose product drowns in its base's rounding: answers of noise, some of which fall the other way."""
    weights = load_file(adapter_folder / "adapter_model.safetensors")
    save_file({name: value * 30 for name, value in weights.items()}, adapter_folder / "adapter_model.safetensors")

    with caplog.at_level(logging.WARNING, logger="groundling"):
        merged = merge(str(adapter_folder), tmp_path / "out", questions=questions_of(taught))

    changed = merged.asked - merged.same
    said = f"{changed} of {merged.asked} sample answers changed by rounding to bfloat16"
    assert caplog.messages == ([said] if changed else [])
    assert changed


def test_a_folder_that_holds_something_is_refused(taught: Taught, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()

    for out in (tmp_path / "full", tmp_path / "full" / "notes.txt"):
        with pytest.raises(SettingsError, match="is not an empty folder; choose another one to merge into"):
            merge(str(taught.folder), out)

    (tmp_path / "empty").mkdir()
    assert merge(str(taught.folder), tmp_path / "empty") == (tmp_path / "empty", 0, 0)
