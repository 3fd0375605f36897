"""Loading any checkpoint: a run folder, a full model, an adapter, a base model's folder, a hub name, or "tiny".

Whatever the name, it ends as a folder with weights in safetensors, a processor and a contract. A base model has no
`groundling.json` yet: its contract is derived from its family and its own `preprocessor_config.json`, and that is said.
Nothing is ever unpickled, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.errors import ContractError, SettingsError
from groundling.model.contract import CONTRACT_FILE, Contract, check_processor, derive_contract, read_contract
from groundling.model.processor import Processor

TINY = "tiny"
TINY_FOLDER = Path(__file__).parents[1] / "tiny" / "weights"
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # of a hub repository; no pickles among them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights, and what it is by its own files."""

    name: str  # as it was asked for
    folder: Path
    base: str | None  # of an adapter: the name of the model that it sits on
    is_contract_derived: bool
    contract: Contract


# ---- finding ---------------------------------------------------------------------------------------------------


def find_checkpoint(name: str, *, revision: str | None = None) -> Checkpoint:
    """The checkpoint of that name. SettingsError where there is none, ContractError where its parts contradict."""
    folder = _find_folder(name, revision)
    adapter = _read_json(folder / "adapter_config.json")
    base = None if adapter is None else str(adapter.get("base_model_name_or_path"))
    contract = read_contract(folder)
    if contract is None:
        contract_source = folder if base is None else find_checkpoint(base).folder
        contract = read_contract(contract_source) or _derive(contract_source, name)
        is_derived = not (contract_source / CONTRACT_FILE).is_file()
        return Checkpoint(name, folder, base, is_derived, contract)
    if (stated := _read_json(folder / "preprocessor_config.json")) is not None:
        check_processor(contract, stated)
    return Checkpoint(name, folder, base, False, contract)


def _find_folder(name: str, revision: str | None) -> Path:
    if name == TINY:
        return TINY_FOLDER
    folder = Path(name)
    if not folder.exists():
        if name.count("/") == 1 and not name.startswith((".", "/")):
            return _download(name, revision)
        raise SettingsError(f"no model {name!r}: neither a folder here, nor a hub name like owner/model, nor {TINY!r}")
    for part in (folder / "best", folder / "final", folder):
        if _has_weights(part):
            return part
    raise SettingsError(f"{folder} holds no checkpoint: no config.json or adapter_config.json in it, its best/ or its final/")


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"no folder {name!r} here, and the hub gave none of that name ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); `groundling fetch {name}` brings one to a local folder"
        ) from None


def _derive(folder: Path, name: str) -> Contract:
    config = _read_json(folder / "config.json")
    stated = _read_json(folder / "preprocessor_config.json")
    if config is None or stated is None:
        raise ContractError(f"{folder} has no groundling.json, and no config.json with preprocessor_config.json to derive it from")
    contract = derive_contract(str(config.get("model_type")), stated)
    log.info(
        "%s is a base model: contract derived (%s, %s, %d to %d pixels)",
        *(name, contract.family, contract.coordinates, contract.min_pixels, contract.max_pixels),
    )
    return contract


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ContractError(f"{file} holds {type(value).__name__}, expected an object")
    return value


# ---- loading ---------------------------------------------------------------------------------------------------


def load_processor(checkpoint: Checkpoint) -> Processor:
    """The image processor, tokenizer and chat template of a checkpoint, at its contract's budget."""
    folder = checkpoint.folder
    if checkpoint.base is not None and not (folder / "tokenizer_config.json").is_file():
        folder = find_checkpoint(checkpoint.base).folder
    _refuse_foreign_code(folder)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = _read_json(folder / "chat_template.json")  # where older checkpoints keep the processor's template
    if template is not None:
        tokenizer.chat_template = template["chat_template"]
    if tokenizer.chat_template is None:
        raise ContractError(f"{folder} has no chat template: neither chat_template.jinja, chat_template.json nor the tokenizer's")
    assert isinstance(images, Qwen2VLImageProcessorPil)
    return Processor(images, tokenizer, checkpoint.contract).with_contract(checkpoint.contract)


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype, is_trainable: bool = False) -> PreTrainedModel:
    """The weights of a checkpoint, on the CPU; an adapter's on top of its base, as a PEFT model.

    ContractError where a weight is missing, unexpected or of another shape: nothing is left at random silently.
    """
    if checkpoint.base is None:
        return _load_whole(checkpoint.folder, dtype)
    return _load_adapter(checkpoint, dtype, is_trainable)


def _load_whole(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    _refuse_foreign_code(folder)
    if not list(folder.glob("*.safetensors")):
        raise ContractError(f"{folder} has no weights in safetensors; groundling unpickles none")
    model, loading = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        shown = "; ".join(f"{kind}: {', '.join(keys[:5])} ({len(keys)})" for kind, keys in wrong.items())
        raise ContractError(f"the weights in {folder} are not those of its config.json: {shown}")
    return model


def _load_adapter(checkpoint: Checkpoint, dtype: torch.dtype, is_trainable: bool) -> PreTrainedModel:
    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    assert checkpoint.base is not None
    file = checkpoint.folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ContractError(f"{checkpoint.folder} has no adapter_model.safetensors; groundling unpickles no other form")
    base = load_model(find_checkpoint(checkpoint.base), dtype=dtype)
    config = PeftConfig.from_pretrained(str(checkpoint.folder))
    model = PeftModel.from_pretrained(base, str(checkpoint.folder), config=config, is_trainable=is_trainable)
    with safe_open(file, framework="pt") as stored:
        found = set(stored.keys())
    wanted = {name.replace(".default", "") for name, _ in model.named_parameters() if "lora_" in name}
    if found != wanted:
        raise ContractError(
            f"{file} does not fit {checkpoint.base}: {len(wanted - found)} weights missing, {len(found - wanted)} unexpected"
        )
    return model  # type: ignore[return-value]


def _refuse_foreign_code(folder: Path) -> None:
    config = _read_json(folder / "config.json") or {}
    if "auto_map" in config:
        raise ContractError(f"{folder}/config.json wants to run code of its own (auto_map); groundling runs none")


def load_architecture(folder: Path) -> PreTrainedModel:
    """The model that a folder's config.json describes, on the meta device: names and shapes, no memory."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
