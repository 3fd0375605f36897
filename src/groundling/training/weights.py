"""The model that a run trains: whose weights it begins with, and which of them learn."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import PreTrainedModel

from groundling.errors import SettingsError
from groundling.model.attention import use_packed_attention
from groundling.model.load import Checkpoint, find_checkpoint, load_model
from groundling.model.tune import (
    Adapter,
    add_adapter,
    count_trained,
    freeze_parts,
    list_adapted,
    set_dropout,
    weights_dtype,
)
from groundling.settings import Settings

log = logging.getLogger(__name__)


def build_model(base: Checkpoint, settings: Settings, resume: Path | None) -> PreTrainedModel:
    """The model to train, its weights those of the checkpoint to resume from where there is one.

    A full training from an adapter starts with its product merged in; a LoRA training from one goes on with it.
    """
    tune = settings.tune
    source = base if resume is None else find_checkpoint(str(resume))
    has_adapter, wants_adapter = source.base is not None, tune.has_adapters
    if resume is not None and has_adapter != wants_adapter:
        raise SettingsError(
            f"run.resume is {resume}, of method {'lora' if has_adapter else 'full'}, and tune.method is {tune.method}; "
            f"to change it start a new run (model.name={resume})"
        )
    dtype, in_4_bits = _training_dtype(settings), tune.method == "qlora"
    model = load_model(source, dtype=dtype, is_trainable=wants_adapter, in_4_bits=in_4_bits)
    adapter = Adapter(tune.lora.rank, tune.lora.alpha, tune.lora.dropout, tune.lora.parts)
    if not wants_adapter:
        model = model.merge_and_unload() if has_adapter else model  # type: ignore[operator]
        freeze_parts(model, tune.freeze)
    elif has_adapter:
        _refuse_other_adapter(model, adapter, source)
        set_dropout(model, adapter.dropout)
    else:
        torch.manual_seed(settings.train.seed)
        name, revision = _lasting_name(base), settings.model.revision
        model = add_adapter(model, adapter, family=base.contract.family, base=name, revision=revision)
    use_packed_attention(model)
    trained = count_trained(model)
    shown = ", ".join(f"{part} {trained[part]:,}" for part in trained if part != "all" and trained[part])
    log.info("%s: training %s of %s parameters", tune.method, shown, f"{trained['all']:,}")
    return model


def _training_dtype(settings: Settings) -> torch.dtype:
    has_masters = PartialState().distributed_type == DistributedType.DEEPSPEED  # in float32, of its own
    if settings.model.dtype == "bfloat16" and settings.tune.method == "full" and not has_masters:
        log.warning(
            "model.dtype is bfloat16: steps smaller than 1/256 of a weight are rounded away, so a full training "
            "at a small learning rate hardly changes it; leave it at auto, with train.bf16 for fast arithmetic"
        )
    return weights_dtype(settings, has_gpu=torch.cuda.is_available())


def _refuse_other_adapter(model: PreTrainedModel, wanted: Adapter, source: Checkpoint) -> None:
    """SettingsError where the adapter to go on with is not the one that the recipe describes."""
    found: Any = model.peft_config["default"]  # type: ignore[index]
    pairs = {
        "rank": (found.r, wanted.rank),
        "alpha": (found.lora_alpha, wanted.alpha),
        "parts": (_bracket(list_adapted(model) - {"merger"}), _bracket(wanted.parts)),  # no recipe asks for the merger
    }
    wrong = [f"tune.lora.{name}={has}, not {wants}" for name, (has, wants) in pairs.items() if has != wants]
    if wrong:
        raise SettingsError(
            f"{source.name} is an adapter to go on with, and has {'; '.join(wrong)}; set the recipe so, "
            "or merge it first (`groundling merge`) for a new adapter on top"
        )


def _bracket(parts: Iterable[str]) -> str:
    return f"[{','.join(sorted(parts))}]"


def _lasting_name(base: Checkpoint) -> str:
    """What an adapter's base will be found by: its folder from wherever, or its name on the hub."""
    return str(base.folder.resolve()) if Path(base.name).exists() else base.name
