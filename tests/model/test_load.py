"""Loading: every kind of name, strictly, without unpickling anything or running a checkpoint's code."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import draw_noise, generate_texts
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.errors import ContractError, SettingsError
from groundling.inference.batch import encode_question
from groundling.model.attention import use_packed_attention
from groundling.model.load import (
    TINY_FOLDER,
    Checkpoint,
    build_bare,
    find_checkpoint,
    find_description,
    load_model,
    load_processor,
    read_config,
)
from groundling.model.processor import Processor
from groundling.model.tune import Adapter, add_adapter
from groundling.recipe import load_settings
from groundling.training.plan import Rate, build_plan
from groundling.training.train import train_by

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random tiny checkpoint, to be broken."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


@pytest.fixture(scope="session")
def adapter_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on the random tiny checkpoint, its product far from 0."""
    base = find_checkpoint(str(tiny_model_folder))
    adapter = Adapter(rank=2, alpha=8, dropout=0.0, parts=("language", "vision"))
    torch.manual_seed(1)
    model = add_adapter(load(base), adapter, family="qwen2_5_vl", base=base.name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    found = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(found)
    load_processor(base).save(found)
    return found


def load(checkpoint: Checkpoint, **options: Any):
    return load_model(checkpoint, dtype=torch.float32, **options)


def edit_json(file: Path, **changes: Any) -> None:
    """Set values of a JSON file; those of None are taken out."""
    values = json.loads(file.read_text(encoding="utf-8")) | changes
    values = {name: value for name, value in values.items() if value is not None}
    file.write_text(json.dumps(values), encoding="utf-8")


def refusal(kind: type[Exception], name: object) -> str:
    """What is said of a checkpoint that cannot be found, or not loaded."""
    with pytest.raises(kind) as raised:
        checkpoint = find_checkpoint(str(name))
        load_processor(checkpoint)
        load(checkpoint)
    return str(raised.value)


# ---- finding ---------------------------------------------------------------------------------------------------


def test_a_folder_is_its_own_checkpoint(tiny_model_folder: Path, tiny_processor: Processor):
    found = find_checkpoint(str(tiny_model_folder))

    assert found == Checkpoint(str(tiny_model_folder), tiny_model_folder, None, False, tiny_processor.contract)


def test_a_run_is_its_best_weights_else_its_final_ones(tiny_model_folder: Path, tmp_path: Path):
    shutil.copytree(tiny_model_folder, tmp_path / "final")
    assert find_checkpoint(str(tmp_path)).folder == tmp_path / "final"

    shutil.copytree(tiny_model_folder, tmp_path / "best")
    assert find_checkpoint(str(tmp_path)).folder == tmp_path / "best"


def test_a_run_without_weights_yet_points_to_its_checkpoints(tmp_path: Path):
    assert re.search("holds no model: neither config.json nor .* in it, its best/ or", refusal(SettingsError, tmp_path))

    (tmp_path / "checkpoints" / "10").mkdir(parents=True)

    assert refusal(SettingsError, tmp_path).endswith("checkpoints may be named themselves")


@pytest.mark.skipif(not (TINY_FOLDER / WEIGHTS).is_file(), reason="the bundled weights are not in this checkout")
def test_tiny_is_the_bundled_model():
    assert find_checkpoint("tiny").folder == TINY_FOLDER


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "../nowhere", "a/b/c"])
def test_a_name_that_is_nothing_is_refused(name: str):
    assert refusal(SettingsError, name).startswith(f"no model '{name}': neither a folder here, nor a hub name")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "acme/no-such-model",
            "acme/no-such-model: the hub cannot be reached (or HF_HUB_OFFLINE is set), and there is",
        ),
        ("acme/--bad..name", "no folder 'acme/--bad..name' here, and the hub gave none"),
    ],
)
def test_a_hub_name_without_the_hub_is_refused_at_once_with_a_cure(name: str, told: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()

    message = refusal(SettingsError, name)

    assert message.startswith(told) and f"`groundling fetch {name}`" in message
    assert time.monotonic() - started < 5


# ---- base models -----------------------------------------------------------------------------------------------


def test_a_base_models_contract_is_derived_and_that_is_said_on_one_line(folder: Path, caplog):
    (folder / "groundling.json").unlink()

    with caplog.at_level(logging.INFO, logger="groundling"):
        found = find_checkpoint(str(folder))

    assert found.is_contract_derived
    assert (found.contract.family, found.contract.answer_form) == ("qwen2_5_vl", "fenced")
    assert (found.contract.min_pixels, found.contract.max_pixels) == (784, 16 * 784)
    said = f"{folder} is a base model: contract derived (qwen2_5_vl, seen_pixels, 784 to 12544 pixels)"
    assert caplog.messages == [said]


def test_a_published_processors_older_budget_is_the_one_in_use(folder: Path):
    (folder / "groundling.json").unlink()
    edit_json(folder / "preprocessor_config.json", size=None, min_pixels=3136, max_pixels=6272)

    processor = load_processor(find_checkpoint(str(folder)))

    assert (processor.contract.min_pixels, processor.contract.max_pixels) == (3136, 6272)
    seen = processor.see(draw_noise(np.random.default_rng(0), 300, 300)).seen
    assert seen.area <= 6272


@pytest.mark.parametrize(
    ("file", "changes", "kind", "told"),
    [
        ("config.json", {"model_type": "llava"}, SettingsError, "unknown model family 'llava'; groundling knows"),
        ("config.json", {"model_type": None}, SettingsError, "unknown model family 'None'"),
        ("preprocessor_config.json", {"patch_size": 16}, ContractError, "says patch 14, but the processor .* says 16"),
        ("preprocessor_config.json", {"size": None}, ContractError, "states no budget of pixels"),
    ],
)
def test_a_base_model_that_no_contract_fits_is_refused_by_its_folder(
    file: str, changes: dict[str, Any], kind: type[Exception], told: str, folder: Path
):
    (folder / "groundling.json").unlink()
    edit_json(folder / file, **changes)

    message = refusal(kind, folder)

    assert message.startswith(str(folder))
    assert re.search(told, message), message


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", None], ids=["cut", "a list", "missing"])
def test_a_base_model_without_usable_configurations_is_refused(file: str, text: str | None, folder: Path):
    (folder / "groundling.json").unlink()
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text, encoding="utf-8")

    kind = SettingsError if (file, text) == ("config.json", None) else ContractError

    assert str(folder) in refusal(kind, folder)


# ---- contradictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("config.json", {"model_type": "qwen2_vl"}, "says family 'qwen2_5_vl', but config.json says 'qwen2_vl'"),
        ("preprocessor_config.json", {"patch_size": 16}, "says patch 14, but the processor beside it says 16"),
        ("preprocessor_config.json", {"max_pixels": 784}, "says max_pixels 12544, but the processor .* says 784"),
        ("groundling.json", {"max_pixels": 1568}, "says max_pixels 1568, but the processor beside it says 12544"),
        ("groundling.json", {"coordinates": "thousandths"}, "says coordinates 'thousandths', but .* 'seen_pixels'"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused_with_both_values(
    file: str, changes: dict[str, Any], told: str, folder: Path
):
    edit_json(folder / file, **changes)

    message = refusal(ContractError, folder)

    assert message.startswith(str(folder))
    assert re.search(told, message), message


# ---- processors ------------------------------------------------------------------------------------------------


def test_a_chat_template_may_lie_in_a_file_of_its_own(folder: Path):
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template" in refusal(ContractError, folder)

    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")

    assert load_processor(find_checkpoint(str(folder))).tokenizer.chat_template == template


@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
def test_a_missing_part_of_the_processor_is_told(file: str, folder: Path):
    (folder / file).unlink()

    assert refusal(ContractError, folder).startswith(f"{folder}: its processor cannot be loaded: ")


# ---- weights ---------------------------------------------------------------------------------------------------


def test_weights_come_back_exactly(tiny_model_folder: Path):
    stored = load_file(tiny_model_folder / WEIGHTS)
    model = load(find_checkpoint(str(tiny_model_folder)))

    assert sum(parameter.numel() for parameter in model.parameters()) == sum(map(torch.numel, stored.values()))
    assert not model.training
    embedding = model.get_input_embeddings().weight
    torch.testing.assert_close(embedding, stored["model.embed_tokens.weight"], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", r"missing_keys: model\.language_model\.norm\.weight \(1\)"),
        ("unexpected", r"unexpected_keys: .*extra.* \(1\)"),
        ("reshaped", r"mismatched_keys: .*model\.language_model\.norm\.weight.* \(1\)"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(change: str, told: str, folder: Path):
    weights = load_file(folder / WEIGHTS)
    norm = weights.pop("model.norm.weight")
    extra = {
        "unexpected": {"model.norm.weight": norm, "extra": norm.clone()},
        "reshaped": {"model.norm.weight": norm[:7]},
    }
    save_file(weights | extra.get(change, {}), folder / WEIGHTS, metadata={"format": "pt"})

    message = refusal(ContractError, folder)

    assert message.startswith(f"the weights in {folder} are not those of its config.json: ")
    assert re.search(told, message), message


def test_damaged_weights_are_refused(folder: Path):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])

    assert refusal(ContractError, folder).startswith(f"{folder}: its weights cannot be loaded: ")


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_nothing_is_ever_unpickled(name: str, folder: Path, adapter_folder: Path, tmp_path: Path):
    canary = tmp_path / "unpickled"
    if name == "adapter_model.bin":
        folder = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    for file in (WEIGHTS, ADAPTER):
        (folder / file).unlink(missing_ok=True)
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    torch.save(Canary(canary), folder / "training_args.bin")

    assert re.search("has no (weights in safetensors|adapter_model.safetensors); ", refusal(ContractError, folder))

    assert not canary.exists()
    pickle.loads((folder / name).read_bytes())
    assert canary.exists(), "the canary works"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_that_comes_with_a_checkpoint_is_refused(file: str, folder: Path):
    edit_json(folder / file, auto_map={"AutoModelForImageTextToText": "evil.Model", "AutoTokenizer": ["evil.T", None]})
    (folder / "evil.py").write_text("raise SystemExit('code of a checkpoint ran')", encoding="utf-8")

    assert "wants to run code of its own (auto_map); groundling runs none" in refusal(ContractError, folder)
    if file == "config.json":
        with pytest.raises(ContractError, match="auto_map"):
            read_config(folder)


@pytest.mark.parametrize("start", ["train", "plan"])
def test_a_kind_of_model_that_only_its_own_code_knows_is_refused_before_anyone_is_asked(
    folder: Path, tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
):
    edit_json(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('code of a checkpoint ran')", encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the code"))
    settings = load_settings("tiny", [f"model.name={folder}", f"run.dir={tmp_path / 'run'}"])

    with pytest.raises(ContractError, match="wants to run code of its own"):
        train_by(settings) if start == "train" else build_plan(settings, name="x", recipe="x", rate=Rate())
    assert not (tmp_path / "run").exists()


def test_an_architecture_has_shapes_and_no_memory(tiny_model_folder: Path):
    model = build_bare(read_config(tiny_model_folder))
    whole = load(find_checkpoint(str(tiny_model_folder)))

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in whole.named_parameters()}


def test_published_habits_of_sampling_are_left_behind(folder: Path):
    """Qwen2.5-VL's own file samples and punishes repetition, which bends coordinates away from repeated digits."""
    habits = GenerationConfig(
        do_sample=True, temperature=0.1, top_p=0.001, repetition_penalty=1.05, eos_token_id=[426, 424], pad_token_id=424
    )
    habits.save_pretrained(folder)

    found = load(find_checkpoint(str(folder))).generation_config

    assert (found.do_sample, found.repetition_penalty, found.temperature) == (False, None, None)
    assert (found.eos_token_id, found.pad_token_id) == ([426, 424], 424)


# ---- adapters --------------------------------------------------------------------------------------------------


def test_an_adapter_comes_on_its_base(adapter_folder: Path, tiny_model_folder: Path):
    found = find_checkpoint(str(adapter_folder))
    assert (found.base, found.is_contract_derived) == (str(tiny_model_folder), False)

    model = load(found)
    stored = load_file(adapter_folder / ADAPTER)
    loaded = {name.replace(".default", ""): value for name, value in model.state_dict().items() if "lora_" in name}
    assert loaded.keys() == stored.keys()
    for name, value in stored.items():
        torch.testing.assert_close(loaded[name], value, atol=0, rtol=0)
    assert not any(parameter.requires_grad for parameter in model.parameters())

    trainable = [name for name, value in load(found, is_trainable=True).named_parameters() if value.requires_grad]
    assert len(trainable) == len(stored)


def test_loading_an_adapter_on_the_bundled_model_asks_nobody(tmp_path: Path, monkeypatch):
    base = find_checkpoint("tiny")
    tuned = add_adapter(load(base), Adapter(2, 8, 0.0, ("language",)), family="qwen2_5_vl", base="tiny")
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    asked: list[object] = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: asked.append(names))

    load(find_checkpoint(str(tmp_path)))

    assert asked == []


def test_an_adapter_asks_the_hub_for_its_base_at_the_revision_it_was_trained_on(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch
):
    base = find_checkpoint(str(tiny_model_folder))
    adapter = Adapter(rank=2, alpha=8, dropout=0.0, parts=("language",))
    tuned = add_adapter(load(base), adapter, family="qwen2_5_vl", base="acme/pointer", revision="abc123")
    tuned.save_pretrained(tmp_path)
    asked: list[tuple[str, str | None]] = []

    def download(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(tiny_model_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    load(find_checkpoint(str(tmp_path)))
    assert find_description(str(tmp_path)) == tiny_model_folder

    assert set(asked) == {("acme/pointer", "abc123")}


def test_an_adapter_of_another_tool_is_under_its_bases_contract_and_processor(
    adapter_folder: Path, tiny_processor: Processor, tmp_path: Path
):
    for file in (ADAPTER, "adapter_config.json"):
        shutil.copy(adapter_folder / file, tmp_path)

    found = find_checkpoint(str(tmp_path))

    assert found.contract == tiny_processor.contract
    assert not found.is_contract_derived
    assert load_processor(found).tokenizer.chat_template == tiny_processor.tokenizer.chat_template


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", "does not fit .*: 1 weights missing, 0 unexpected"),
        ("unexpected", "does not fit .*: 0 weights missing, 1 unexpected"),
        ("reshaped", "cannot be put on .*"),
        ("cut", "cannot be put on .*"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(change: str, told: str, adapter_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    weights = load_file(folder / ADAPTER)
    name, value = weights.popitem()
    extra = {"unexpected": {name: value, f"{name}.more": value.clone()}, "reshaped": {name: value[:1, :1]}}
    save_file(weights | extra.get(change, {}), folder / ADAPTER)
    if change == "cut":
        (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:100])

    assert re.search(told, refusal(ContractError, folder))


@pytest.mark.parametrize(
    ("base", "kind", "told"),
    [
        (None, ContractError, "base_model_name_or_path is None, no model's name"),
        ("nowhere", SettingsError, "is an adapter, and the model it sits on cannot be found: no model 'nowhere'"),
        ("itself", ContractError, "is an adapter of another one, .*; `groundling merge` that one first"),
    ],
)
@pytest.mark.parametrize("has_contract", [True, False])
def test_an_adapter_without_its_base_is_refused(
    base: str | None, kind: type[Exception], told: str, has_contract: bool, adapter_folder: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(folder) if base == "itself" else base)
    if not has_contract:
        (folder / "groundling.json").unlink()

    assert re.search(told, refusal(kind, folder))


# ---- for others ------------------------------------------------------------------------------------------------


def test_a_checkpoint_answers_the_same_under_plain_transformers(tiny_model_folder: Path, tmp_path: Path):
    checkpoint = find_checkpoint(str(tiny_model_folder))
    model, processor = load(checkpoint), load_processor(checkpoint)
    use_packed_attention(model)
    model.save_pretrained(tmp_path)
    processor.save(tmp_path)
    picture = draw_noise(np.random.default_rng(0), 200, 140)
    prompt = encode_question(processor, "the mug", processor.see(picture))
    ours = generate_texts(model, processor, [prompt], batch_size=1, max_new_tokens=12, free=True)

    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    seen = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=[picture], return_tensors="pt")
    question = "Locate the mug in this image and output the bbox coordinates in JSON format."
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pads = int(seen["image_grid_thw"].prod()) // 4
    words = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * pads), return_tensors="pt")
    kinds = (words["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    ids = plain.generate(**words, **seen, mm_token_type_ids=kinds, max_new_tokens=12)

    assert words["input_ids"][0].tolist() == prompt.input_ids
    assert tokenizer.decode(ids[0, words["input_ids"].shape[1] :], skip_special_tokens=True) == ours[0]
