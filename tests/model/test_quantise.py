"""Four bits: what is quantised and what is not, and what a machine that cannot is told."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

import groundling as gl
from groundling.model import quantise
from groundling.model.load import find_checkpoint, load_model
from groundling.model.tune import Adapter, add_adapter
from groundling.settings import Settings


def test_a_machine_that_cannot_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "find_spec", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(gl.SettingsError, match=r'bitsandbytes is not installed; pip install "groundling\[qlora\]"'):
        quantise.refuse_no_4_bits()
    monkeypatch.setattr(quantise, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(gl.SettingsError, match=r"needs a GPU, and there is none; set tune\.method=lora"):
        quantise.refuse_no_4_bits()


def test_the_decoder_is_stored_in_nf4_and_computed_with_in_bfloat16() -> None:
    config: Any = quantise.loading_in_4_bits()["quantization_config"]
    assert config.load_in_4bit and config.bnb_4bit_use_double_quant
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_layers_that_stay_are_those_outside_the_decoder(family: str) -> None:
    from families import build_family_model, build_family_processor
    from transformers.quantizers.quantizers_utils import should_convert_module

    model = build_family_model(build_family_processor(family))
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    changed = {name for name in linear if should_convert_module(name, quantise.KEPT)}
    assert changed == {name for name in linear if "language_model.layers." in name} != set()


def test_qlora_has_adapters_and_freezes_nothing_else() -> None:
    values = {"model": {"name": "tiny"}, "data": {"train": "a"}, "run": {"dir": "x"}}
    assert Settings.model_validate(values | {"tune": {"method": "qlora"}}).tune.has_adapters
    with pytest.raises(ValueError, match="with method qlora, which freezes every weight already"):
        Settings.model_validate(values | {"tune": {"method": "qlora", "freeze": ["vision"]}})


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra `qlora`")
def test_a_model_in_4_bits_learns() -> None:
    model = load_model(find_checkpoint("tiny"), dtype=torch.bfloat16, in_4_bits=True)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["model.language_model.layers.0.mlp.up_proj"] == "Linear4bit"
    assert kinds["model.visual.blocks.0.mlp.up_proj"] == kinds["lm_head"] == "Linear"
    tuned = add_adapter(model, Adapter(4, 8, 0.0, ["language"]), family="qwen2_5_vl", base="tiny")
    learning = {parameter.dtype for parameter in tuned.parameters() if parameter.requires_grad}
    staying = {parameter.dtype for parameter in tuned.parameters() if not parameter.requires_grad}
    assert learning == {torch.float32} and staying == {torch.uint8, torch.bfloat16}
    loss = tuned(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits.float().square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in tuned.parameters() if parameter.requires_grad)
