"""The frame contract: written, read, derived, and refused where it contradicts what stands beside it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from groundling.dialect.family import FAMILIES
from groundling.errors import ContractError, SettingsError
from groundling.geometry.images import IMAGE_POLICY
from groundling.model.contract import (
    CONTRACT_FILE,
    Contract,
    check_processor,
    derive_contract,
    installed_versions,
    read_contract,
    recipe_contract,
    write_contract,
)
from groundling.settings import Settings

TUNED = Contract(
    family="qwen2_5_vl",
    coordinates="seen_pixels",
    patch=14,
    merge=2,
    min_pixels=3136,
    max_pixels=1_003_520,
    prompt_template="Locate {question}.",
    answer_form="fenced",
    system_prompt="You point.",
    trained_on={"sha256": "0" * 64, "records": 3000},
    made_with={"groundling": "0.1.0"},
)
PROCESSOR = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 3136, "longest_edge": 1_003_520}}


def write_values(folder: Path, **changes: Any) -> None:
    """TUNED with some values changed; those of None are left out."""
    values = {name: value for name, value in (TUNED.to_json() | changes).items() if value is not None}
    (folder / CONTRACT_FILE).write_text(json.dumps(values), encoding="utf-8")


# ---- there and back --------------------------------------------------------------------------------------------


def test_a_contract_is_read_as_it_was_written(tmp_path: Path):
    write_contract(TUNED, tmp_path)

    assert read_contract(tmp_path) == TUNED


def test_the_file_says_what_the_design_promises(tmp_path: Path):
    write_contract(TUNED, tmp_path)
    written = json.loads((tmp_path / "groundling.json").read_text(encoding="utf-8"))

    assert next(iter(written)) == "version"
    assert written == {
        "version": 1,
        "family": "qwen2_5_vl",
        "coordinates": "seen_pixels",
        "patch": 14,
        "merge": 2,
        "min_pixels": 3136,
        "max_pixels": 1_003_520,
        "image_backend": "torch",
        "image_policy": IMAGE_POLICY,
        "prompt_template": "Locate {question}.",
        "system_prompt": "You point.",
        "answer_form": "fenced",
        "trained_on": {"sha256": "0" * 64, "records": 3000},
        "made_with": {"groundling": "0.1.0"},
    }


def test_what_has_a_default_may_be_left_out(tmp_path: Path):
    write_values(tmp_path, system_prompt=None, image_policy=None, image_backend=None, trained_on=None, made_with=None)

    assert read_contract(tmp_path) == dataclasses.replace(TUNED, system_prompt=None, trained_on=None, made_with={})


def test_an_unknown_key_only_informs(tmp_path: Path):
    write_values(tmp_path, colour="red")

    assert read_contract(tmp_path) == TUNED


def test_no_file_is_no_contract(tmp_path: Path):
    assert read_contract(tmp_path) is None


# ---- broken files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff"], ids=["empty", "cut", "deep", "not UTF-8"])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path):
    (tmp_path / CONTRACT_FILE).write_text(text, encoding="utf-8", errors="surrogateescape")

    with pytest.raises(ContractError, match=r"groundling\.json is not JSON"):
        read_contract(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [("[]", "[]"), ("null", "None"), ("{}", "None"), ('{"version": 2}', "2"), ('{"version": "1"}', "'1'")],
)
def test_another_version_is_refused(text: str, found: str, tmp_path: Path):
    (tmp_path / CONTRACT_FILE).write_text(text, encoding="utf-8")

    with pytest.raises(ContractError, match=re.escape(f"version {found} of the contract; this groundling reads 1")):
        read_contract(tmp_path)


def test_all_missing_keys_are_named(tmp_path: Path):
    write_values(tmp_path, family=None, max_pixels=None)

    with pytest.raises(ContractError, match=r"groundling\.json: family: .*required; max_pixels: .*required"):
        read_contract(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", ["qwen2_5_vl"]),
        ("family", "llava"),
        ("coordinates", "percent"),
        ("patch", 14.0),
        ("patch", "14"),
        ("min_pixels", True),
        ("max_pixels", {"value": 1}),
        ("max_pixels", 100),
        ("prompt_template", 7),
        ("prompt_template", "Locate it."),
        ("answer_form", "xml"),
        ("system_prompt", 7),
        ("image_backend", "torchvision"),
        ("image_policy", "upright"),
        ("image_policy", {"orientation": 1}),
        ("image_policy", {"orientation": "as stored"}),
        ("trained_on", [1]),
        ("made_with", {"torch": 2}),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_file_and_name(name: str, value: object, tmp_path: Path):
    write_values(tmp_path, **{name: value})

    with pytest.raises(ContractError) as raised:
        read_contract(tmp_path)

    message = str(raised.value)
    assert message.startswith(str(tmp_path / CONTRACT_FILE))
    assert name.split("_")[0] in message, message
    assert "Value error" not in message, "pydantic's words"


# ---- contradictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"coordinates": "thousandths"}, "says coordinates 'thousandths', but .* of qwen2_5_vl 'seen_pixels'"),
        ({"patch": 16}, "says patch 16, but .* of qwen2_5_vl 14"),
        ({"merge": 1}, "says merge 1, but .* of qwen2_5_vl 2"),
        ({"min_pixels": 2_000_000}, "a budget of 2000000 to 1003520 pixels"),
        ({"max_pixels": 700, "min_pixels": 700}, r"at least one visual token \(784 pixels"),
        ({"image_policy": {"alpha": "black"}}, "says alpha 'black', but .* 'white'"),
    ],
)
def test_a_contract_that_contradicts_its_family_is_refused_with_both_values(changes: dict[str, Any], told: str):
    with pytest.raises(ContractError, match=told):
        dataclasses.replace(TUNED, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 16}, "says patch 14, but the processor beside it says 16"),
        ({"merge_size": 1}, "says merge 2, but the processor beside it says 1"),
        ({"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}, "max_pixels 1003520, but .* says 12845056"),
        ({"min_pixels": 784}, "min_pixels 3136, but .* says 784"),
        ({"resample": 2}, r"says resample 2, expected 3 \(bicubic\)"),
        ({"do_resize": False}, "says do_resize false"),
        ({"do_normalize": False}, "says do_normalize false"),
        ({"size": None}, "states no budget of pixels: size is None"),
        ({"size": 448}, "states no budget of pixels: size is 448"),
        ({"size": {"height": 448, "width": 448}}, "states no budget of pixels"),
    ],
)
def test_a_processor_that_contradicts_the_contract_is_refused_with_both_values(changes: dict[str, Any], told: str):
    check_processor(TUNED, PROCESSOR)

    with pytest.raises(ContractError, match=told):
        check_processor(TUNED, PROCESSOR | changes)


# ---- derived ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_base_models_contract_is_its_family_at_its_own_budget(family):
    size = {"shortest_edge": 65_536, "longest_edge": 16_777_216}

    contract = derive_contract(family.name, {"patch_size": family.patch, "merge_size": 2, "size": size})

    assert (contract.family, contract.coordinates) == (family.name, family.coordinates)
    assert (contract.budget.min_pixels, contract.budget.max_pixels) == (65_536, 16_777_216)
    assert (contract.prompt_template, contract.answer_form) == (family.prompt_template, family.answer_form)
    assert contract.known_family is family
    assert contract.trained_on is None


@pytest.mark.parametrize(
    "stated",
    [
        {"min_pixels": 3136, "max_pixels": 12_845_056},
        {"min_pixels": 3136, "max_pixels": 12_845_056, "size": {"max_pixels": 12_845_056, "min_pixels": 3136}},
        {"size": {"max_pixels": 12_845_056, "min_pixels": 3136}},
        {"min_pixels": None, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}},
        {"max_pixels": 12_845_056, "size": {"shortest_edge": 3136, "longest_edge": 1_003_520}},
    ],
)
def test_the_budget_is_read_from_all_its_published_spellings(stated: dict[str, Any]):
    contract = derive_contract("qwen2_5_vl", stated)

    assert (contract.min_pixels, contract.max_pixels) == (3136, 12_845_056)


def test_a_base_model_that_contradicts_its_family_is_refused():
    with pytest.raises(ContractError, match="says patch 14, but the processor beside it says 16"):
        derive_contract("qwen2_5_vl", PROCESSOR | {"patch_size": 16})
    with pytest.raises(SettingsError, match="unknown model family 'llava'; groundling knows qwen2_vl, "):
        derive_contract("llava", PROCESSOR)


# ---- changed ---------------------------------------------------------------------------------------------------


def test_a_budget_of_tokens_is_one_of_pixels():
    assert TUNED.budget.max_tokens == 1280

    smaller = TUNED.with_max_tokens(640)
    assert (smaller.min_pixels, smaller.max_pixels) == (3136, 640 * 784)

    tiny = TUNED.with_max_tokens(2)
    assert (tiny.min_pixels, tiny.max_pixels) == (2 * 784, 2 * 784), "the least goes down with the most"

    both = TUNED.with_max_tokens(640, min_tokens=16)
    assert (both.min_pixels, both.max_pixels) == (16 * 784, 640 * 784)

    with pytest.raises(ContractError, match="a budget of 0 to 0 pixels"):
        TUNED.with_max_tokens(0)


def settings_of(**images: Any) -> Settings:
    values = {"model": {"name": "tiny"}, "data": {"train": "train.jsonl"}, "run": {"dir": "run"}}
    return Settings.model_validate(values | {"images": images})


@pytest.mark.parametrize(
    ("is_derived", "images", "pixels"),
    [
        (False, {}, (1000, 50_000)),
        (False, {"max_tokens": 640}, (1000, 640 * 784)),
        (False, {"max_tokens": 1}, (784, 784)),
        (False, {"min_tokens": 2}, (2 * 784, 50_000)),
        (True, {}, (4 * 784, 1280 * 784)),
        (True, {"max_tokens": 16, "min_tokens": 8}, (8 * 784, 16 * 784)),
    ],
)
def test_a_run_keeps_its_checkpoints_budget_where_the_recipe_says_nothing(
    is_derived: bool, images: dict[str, int], pixels: tuple[int, int]
):
    own = dataclasses.replace(TUNED, min_pixels=1000, max_pixels=50_000)

    found = recipe_contract(own, settings_of(**images), is_derived=is_derived)

    assert (found.min_pixels, found.max_pixels) == pixels
    assert found == dataclasses.replace(own, min_pixels=pixels[0], max_pixels=pixels[1]), "nothing else changes"


def test_a_least_above_the_most_is_refused():
    with pytest.raises(ContractError, match="a budget of 1568000 to 1003520 pixels"):
        recipe_contract(TUNED, settings_of(min_tokens=2000), is_derived=False)


def test_the_recipes_words_go_before_the_checkpoints():
    settings = settings_of()
    words = {"prompt": {"template": "Find {question}.", "system": ""}, "answer": {"form": "bare"}}

    found = recipe_contract(TUNED, Settings.model_validate(settings.model_dump() | words), is_derived=False)

    assert (found.prompt_template, found.system_prompt, found.answer_form) == ("Find {question}.", "", "bare")


@pytest.mark.parametrize(("asked", "found"), [(None, "pil"), ("torch", "torch")])
def test_a_run_keeps_what_resizes_its_checkpoints_pictures_unless_told_otherwise(asked: str | None, found: str):
    own = dataclasses.replace(TUNED, image_backend="pil")

    assert recipe_contract(own, settings_of(backend=asked), is_derived=False).image_backend == found


def test_the_versions_are_those_installed():
    versions = installed_versions()

    assert {"torch", "transformers", "pillow"} <= set(versions)
    assert all(re.match(r"\d+\.\d+", version) for version in versions.values())
