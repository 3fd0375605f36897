"""Choosing what is trained: parts, adapters, learning rates."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from families import build_family_model, build_family_processor
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from groundling.dialect.family import FAMILIES
from groundling.errors import SettingsError
from groundling.model.tune import (
    LORA_TARGETS,
    PARTS,
    Adapter,
    add_adapter,
    count_trained,
    freeze_parts,
    parameter_groups,
    part_of,
)

# Linear layers of one block, by family and part; every tiny model has two blocks of each
LAYERS = {
    "qwen2_vl": {"language": 7, "vision": 4},
    "qwen2_5_vl": {"language": 7, "vision": 5},
    "qwen3_vl": {"language": 7, "vision": 4},
}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> PreTrainedModel:
    return build_family_model(build_family_processor(family))


@pytest.fixture(scope="module")
def three_billion() -> PreTrainedModel:
    """Qwen2.5-VL-3B by its published geometry, without memory."""
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(config)


# ---- parts -----------------------------------------------------------------------------------------------------


def test_the_three_billion_are_counted_as_published(three_billion: PreTrainedModel):
    merger = 1280 + (5120 * 5120 + 5120) + (5120 * 2048 + 2048)  # a norm, two layers; 5120 is four patches of 1280
    freeze_parts(three_billion, [])

    counted = count_trained(three_billion)

    assert counted["all"] == 3_754_622_976
    assert counted["merger"] == merger == 36_708_608
    assert counted["vision"] + counted["merger"] == 668_684_288
    assert sum(counted[part] for part in PARTS) == counted["all"], "every parameter belongs to a part"


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_every_merger_of_qwen3_vl_is_a_merger(model: PreTrainedModel):
    mergers = [name for name, _ in model.named_parameters() if part_of(name) == "merger"]

    assert any(".visual.merger." in name for name in mergers)
    assert any(".visual.deepstack_merger_list.0." in name for name in mergers)


def test_each_part_is_where_its_name_says(model: PreTrainedModel):
    for name, _ in model.named_parameters():
        is_merger = ".merger." in name or ".deepstack_merger_list." in name
        expected = "merger" if is_merger else "vision" if name.startswith("model.visual.") else "language"
        assert part_of(name) == part_of(f"base_model.model.{name}") == expected


@pytest.mark.parametrize("frozen", [set(chosen) for size in range(4) for chosen in itertools.combinations(PARTS, size)])
def test_frozen_parts_are_frozen_and_no_others(frozen: set, model: PreTrainedModel):
    freeze_parts(model, PARTS)
    freeze_parts(model, frozen)

    assert {part_of(name) for name, value in model.named_parameters() if not value.requires_grad} == frozen
    assert {part_of(name) for name, value in model.named_parameters() if value.requires_grad} == {*PARTS} - frozen
    assert {part for part in PARTS if count_trained(model)[part] == 0} == frozen


# ---- adapters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("language",), ("vision",), ("language", "vision")], ids="+".join)
def test_an_adapter_sits_on_the_linear_layers_of_its_parts(parts: tuple, family: str, model: PreTrainedModel):
    tuned = add_adapter(model, Adapter(2, 4, 0.0, parts), family=family, base="acme/base")

    on = [name for name, module in tuned.named_modules() if hasattr(module, "lora_A")]
    assert len(on) == sum(2 * LAYERS[family][part] for part in parts)
    assert {part_of(name) for name in on} == set(parts)
    trained = [name for name, value in tuned.named_parameters() if value.requires_grad]
    assert len(trained) == 2 * len(on)
    assert all("lora_" in name for name in trained), "everything else is frozen"


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_an_adapter_keeps_the_name_of_its_base(family: str, model: PreTrainedModel, tmp_path: Path):
    tuned = add_adapter(model, Adapter(2, 4, 0.1, ("language",)), family=family, base="acme/base")
    tuned.save_pretrained(tmp_path)

    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))

    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("acme/base", 2, 4)


def test_the_targets_in_the_three_billion(three_billion: PreTrainedModel):
    names = [name for name, _ in three_billion.named_modules()]
    counted = {
        part: sum(re.fullmatch(target, name) is not None for name in names)
        for part, target in LORA_TARGETS["qwen2_5_vl"].items()
    }

    assert counted == {"language": 36 * 7, "vision": 32 * 5}


# ---- learning rates --------------------------------------------------------------------------------------------


def test_each_trained_parameter_is_in_one_group_at_its_parts_rate(model: PreTrainedModel):
    freeze_parts(model, ["vision"])
    rates = {"vision": 1.0, "merger": 2e-5, "language": 1e-5}

    groups = parameter_groups(model, rates=rates, weight_decay=0.1)

    place = {id(value): group for group in groups for value in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(place), "no parameter comes twice"
    for name, value in model.named_parameters():
        if not value.requires_grad:
            assert id(value) not in place, f"{name} is frozen"
            continue
        group = place[id(value)]
        assert group["lr"] == rates[part_of(name)]
        assert group["weight_decay"] == (0.1 if value.ndim > 1 else 0.0), f"{name} of {value.ndim} dimensions"
    assert len(groups) == 4, "two rates, with decay and without"


def test_equal_rates_share_a_group(model: PreTrainedModel):
    groups = parameter_groups(model, rates=dict.fromkeys(PARTS, 1e-5), weight_decay=0.0)

    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-5, 0.0)]
    assert len(groups[0]["params"]) == len(list(model.parameters()))


def test_nothing_to_train_is_refused(model: PreTrainedModel):
    freeze_parts(model, PARTS)

    with pytest.raises(SettingsError, match=r"nothing is trained: .* free one of vision, merger, language"):
        parameter_groups(model, rates=dict.fromkeys(PARTS, 1e-5), weight_decay=0.0)
