"""Loading any checkpoint: a run folder, a full model, an adapter, a base model's folder, a hub name, or "tiny".

Whatever the name, it ends as a folder with weights in safetensors, a processor and a contract. A base model has no
`groundling.json` yet: its contract is derived from its family and its own `preprocessor_config.json`, and that is said.
Nothing is ever unpickled, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations import deepspeed
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.errors import ContractError, SettingsError
from groundling.model.content import hash_contents
from groundling.model.contract import Contract, check_processor, derive_contract, read_contract
from groundling.model.processor import Processor
from groundling.model.quantise import loading_in_4_bits

TINY = "tiny"
TINY_FOLDER = Path(__file__).parents[1] / "tiny" / "weights"
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # of a hub repository; no pickles among them
DESCRIBING_FILES = [pattern for pattern in WANTED_FILES if pattern != "*.safetensors"]
CONFIGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")

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
    """The checkpoint of that name. SettingsError where there is none, ContractError where its parts contradict.

    A run folder means its best weights, else its final ones. An adapter without a contract is under its base's.
    `revision` is of a hub name.
    """
    folder = _find_folder(name, revision)
    _refuse_foreign_code(folder)
    base = _read_base(folder)
    contract = read_contract(folder)
    if contract is not None:
        _check_parts(contract, folder)
        return Checkpoint(name, folder, base, False, contract)
    if base is not None:
        below = _find_base(base, folder)
        return Checkpoint(name, folder, base, below.is_contract_derived, below.contract)
    return Checkpoint(name, folder, None, True, _derive(folder, name))


def find_description(name: str, *, revision: str | None = None) -> Path:
    """The folder of a model's configuration, of an adapter the one below it; weights on a hub are left there."""
    folder = _find_folder(name, revision, DESCRIBING_FILES)
    base = _read_base(folder)
    return folder if base is None else find_description(base, revision=_read_revision(folder))


def _find_folder(name: str, revision: str | None, files: list[str] = WANTED_FILES) -> Path:
    if name == TINY:
        return TINY_FOLDER
    folder = Path(name)
    if not folder.exists():
        if name.count("/") == 1 and not name.startswith((".", "/")):
            return _download(name, revision, files)
        raise SettingsError(f"no model {name!r}: neither a folder here, nor a hub name like owner/model, nor {TINY!r}")
    for part in (folder / "best", folder / "final", folder):
        if (part / "config.json").is_file() or (part / "adapter_config.json").is_file():
            return part
    hint = f"; its {folder / 'checkpoints'} may be named themselves" if (folder / "checkpoints").is_dir() else ""
    raise SettingsError(
        f"{folder} holds no model: neither config.json nor adapter_config.json in it, its best/ or its final/{hint}"
    )


def _download(name: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=["*/*"]))
    except LocalEntryNotFoundError:  # no network, or HF_HUB_OFFLINE, and no copy from before
        raise SettingsError(
            f"{name}: the hub cannot be reached (or HF_HUB_OFFLINE is set), and there is neither a folder of that "
            f"name nor a copy from before; `groundling fetch {name}` where there is a network makes a folder to give"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SettingsError(
            f"no folder {name!r} here, and the hub gave none of that name ({type(error).__name__}: "
            f"{_first_line(error)}); `groundling fetch {name}` brings one to a local folder"
        ) from None


def _refuse_foreign_code(folder: Path) -> None:
    for file in CONFIGS:
        if "auto_map" in (_read_json(folder / file) or {}):
            raise ContractError(f"{folder / file} wants to run code of its own (auto_map); groundling runs none")


def _read_base(folder: Path) -> str | None:
    """The name of the model that an adapter sits on; None for a folder that is no adapter."""
    adapter = _read_json(folder / "adapter_config.json")
    if adapter is None:
        return None
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise ContractError(f"{folder / 'adapter_config.json'}: base_model_name_or_path is {base!r}, no model's name")
    return base


def _read_revision(adapter: Path) -> str | None:
    """The revision of a hub's model that an adapter was trained on; None where its file names none."""
    return (_read_json(adapter / "adapter_config.json") or {}).get("revision")


def _find_base(base: str, adapter: Path) -> Checkpoint:
    """The model that an adapter sits on, at the revision that it was trained on where that is a hub's."""
    revision = _read_revision(adapter)
    try:
        if _read_base(_find_folder(base, revision)) is not None:
            raise ContractError(f"{adapter} is an adapter of another one, {base}; `groundling merge` that one first")
        return find_checkpoint(base, revision=revision)
    except SettingsError as error:
        raise SettingsError(
            f"{adapter} is an adapter, and the model it sits on cannot be found: {error} "
            "(if it has moved, set base_model_name_or_path in adapter_config.json)"
        ) from None


def _check_parts(contract: Contract, folder: Path) -> None:
    """ContractError where the model's or the processor's configuration says otherwise than the contract beside it."""
    config = _read_json(folder / "config.json")
    images = _read_json(folder / "preprocessor_config.json")
    if config is not None and (found := config.get("model_type")) != contract.family:
        raise ContractError(f"{folder}: the contract says family {contract.family!r}, but config.json says {found!r}")
    if images is not None:
        try:
            check_processor(contract, images)
        except ContractError as error:
            raise ContractError(f"{folder}: {error}") from None


def _derive(folder: Path, name: str) -> Contract:
    config = _read_json(folder / "config.json")
    images = _read_json(folder / "preprocessor_config.json")
    if config is None or images is None:
        raise ContractError(
            f"{folder} has no groundling.json, and no config.json with preprocessor_config.json to derive it from"
        )
    try:
        contract = derive_contract(str(config.get("model_type")), images)
    except (ContractError, SettingsError) as error:
        raise type(error)(f"{folder}: {error}") from None
    log.info(
        "%s is a base model: contract derived (%s, %s, %d to %d pixels)",
        *(name, contract.family, contract.coordinates, contract.min_pixels, contract.max_pixels),
    )
    return contract


def _read_json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no such file."""
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
    """The image processor, tokenizer and chat template of a checkpoint, at its contract's budget.

    An adapter without a processor of its own has its base's. ContractError where a file is missing or broken.
    """
    folder = checkpoint.folder
    if checkpoint.base is not None and not (folder / "preprocessor_config.json").is_file():
        folder = _find_base(checkpoint.base, folder).folder
    try:
        images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ContractError(f"{folder}: its processor cannot be loaded: {_first_line(error)}") from error
    template = _read_json(folder / "chat_template.json")  # where older checkpoints keep the processor's template
    if template is not None:
        tokenizer.chat_template = template.get("chat_template")
    if tokenizer.chat_template is None:
        raise ContractError(
            f"{folder} has no chat template: neither chat_template.jinja, chat_template.json nor the tokenizer's"
        )
    assert isinstance(images, Qwen2VLImageProcessorPil)
    return Processor(images, tokenizer, checkpoint.contract).with_contract(checkpoint.contract)


def hash_weights(checkpoint: Checkpoint) -> str:
    """A hash of every byte of the weights, an adapter's base's too; see `content`."""
    return hash_contents(_find_weights(checkpoint))


def _find_weights(checkpoint: Checkpoint) -> list[Path]:
    own = sorted(checkpoint.folder.glob("*.safetensors"))
    if checkpoint.base is None:
        return own
    return own + _find_weights(_find_base(checkpoint.base, checkpoint.folder))


def load_model(
    checkpoint: Checkpoint, *, dtype: torch.dtype, is_trainable: bool = False, in_4_bits: bool = False
) -> PreTrainedModel:
    """The weights of a checkpoint, on the CPU; an adapter's on top of its base, as a PEFT model.

    `in_4_bits` quantises the language model's linear layers (`quantise`), which puts the model on its device.
    ContractError where a weight is missing, unexpected or of another shape: nothing is left at random silently.
    """
    if checkpoint.base is None:
        return _load_whole(checkpoint.folder, dtype, in_4_bits)
    base = _find_base(checkpoint.base, checkpoint.folder)
    return _load_adapter(checkpoint.folder, base, dtype, is_trainable, in_4_bits)


def _load_whole(folder: Path, dtype: torch.dtype, in_4_bits: bool) -> PreTrainedModel:
    if not list(folder.glob("*.safetensors")):
        raise ContractError(f"{folder} has no weights in safetensors; groundling unpickles none")
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **(loading_in_4_bits() if in_4_bits else {}),
        )
    except (SafetensorError, OSError, ValueError) as error:
        raise ContractError(f"{folder}: its weights cannot be loaded: {_first_line(error)}") from error
    model, loading = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        shown = "; ".join(f"{kind}: {', '.join(keys[:5])} ({len(keys)})" for kind, keys in wrong.items())
        raise ContractError(f"the weights in {folder} are not those of its config.json: {shown}")
    model.generation_config = _greedy(model.generation_config)
    if conversions := getattr(model, "_weight_conversions", None):
        # weights are saved by them: under ZeRO-3 transformers 5.17 keeps those too that renamed nothing
        model._weight_conversions = [each for each in conversions if each.was_used()]
    return model


def _greedy(published: GenerationConfig) -> GenerationConfig:
    """Greedy decoding to the same end tokens: published models sample, and punish repeated tokens, even digits."""
    return GenerationConfig(
        do_sample=False,
        bos_token_id=published.bos_token_id,
        eos_token_id=published.eos_token_id,
        pad_token_id=published.pad_token_id,
    )


def _load_adapter(
    folder: Path, base: Checkpoint, dtype: torch.dtype, is_trainable: bool, in_4_bits: bool
) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ContractError(f"{folder} has no adapter_model.safetensors; groundling unpickles no other form")
    whole = load_model(base, dtype=dtype, in_4_bits=in_4_bits)
    try:
        model = PeftModel.from_pretrained(whole, str(folder), is_trainable=is_trainable)
        with safe_open(file, framework="pt") as stored:
            found = set(stored.keys())
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ContractError(f"{file} cannot be put on {base.name}: {_first_line(error)}") from error
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))  # else PEFT asks the hub about them
    if found != wanted:
        raise ContractError(
            f"{file} does not fit {base.name}: {len(wanted - found)} weights missing, {len(found - wanted)} unexpected"
        )
    return model  # type: ignore[return-value]


def read_config(folder: Path) -> PretrainedConfig:
    """What a folder's config.json describes. ContractError where that is no model, or needs code of its own."""
    _refuse_foreign_code(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        told = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise ContractError(f"{folder / 'config.json'} describes no model: {told}") from error


def build_bare(config: PretrainedConfig, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A configuration's model on the meta device: names and shapes, no memory; in float32 unless a type is given."""
    with torch.device("meta"), _unspread():
        return AutoModelForImageTextToText.from_config(config, dtype=dtype or torch.float32)


@contextmanager
def _unspread() -> Iterator[None]:
    """ZeRO-3 takes no model apart that is built meanwhile: one without weights has none to spread, and it fails."""
    spreading = deepspeed._hf_deepspeed_config_weak_ref  # transformers 5.17 looks for it there, and only there
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if spreading is not None and (config := spreading()) is not None:
            deepspeed.set_hf_deepspeed_config(config)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
