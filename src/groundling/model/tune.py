"""Which parameters are trained, and how fast: whole models, frozen parts, adapters.

Every parameter belongs to one part: `vision` (the tower), `merger` (what turns its output into visual tokens) or
`language` (the decoder with its embeddings and head). The names are transformers' for Qwen2-VL, Qwen2.5-VL, Qwen3-VL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedModel

from groundling.errors import SettingsError
from groundling.settings import Part, Settings

PARTS: tuple[Part, ...] = ("vision", "merger", "language")

# Linear layers that take an adapter, by family and part, as PEFT matches names: a regular expression for the whole name
_DECODER = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
LORA_TARGETS: dict[str, dict[str, str]] = {
    "qwen2_vl": {"language": _DECODER, "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"},
    "qwen2_5_vl": {
        "language": _DECODER,
        "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
    },
    "qwen3_vl": {"language": _DECODER, "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"},
}


class Adapter(NamedTuple):
    """A low-rank adapter (LoRA, arXiv 2106.09685)."""

    rank: int
    alpha: float
    dropout: float
    parts: Sequence[Literal["vision", "language"]]


def weights_dtype(settings: Settings, *, has_gpu: bool) -> torch.dtype:
    """Trained weights stay in float32, with bf16 arithmetic by autocast; frozen ones under adapters need only bf16."""
    if settings.model.dtype != "auto":
        return torch.float32 if settings.model.dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if settings.tune.has_adapters and has_gpu else torch.float32


def part_of(name: str) -> Part:
    """The part that a parameter of this name belongs to."""
    if ".merger." in name or ".deepstack_merger_list." in name:
        return "merger"
    return "vision" if "visual." in name else "language"


def spare_frozen_parts(model: PreTrainedModel) -> None:
    """Undo that transformers has every part's input require gradients once activations are computed twice.

    Only re-entrant checkpointing needs them, which is not used: a frozen tower would go through a backward pass whose
    gradients nobody wants.
    """
    model.disable_input_require_grads()


def freeze_parts(model: PreTrainedModel, parts: Iterable[Part]) -> None:
    """Keep the parameters of these parts as they are; all others are trained."""
    frozen = set(parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)


def add_adapter(
    model: PreTrainedModel, adapter: Adapter, *, family: str, base: str, revision: str | None = None
) -> PreTrainedModel:
    """The model with new adapters on the chosen parts, all else frozen.

    `base` is the name that it will be found by, at `revision` where that is a hub name.
    """
    from peft import LoraConfig, get_peft_model

    targets = "|".join(LORA_TARGETS[family][part] for part in adapter.parts)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=f"({targets})",
        revision=revision,
    )
    tuned = get_peft_model(model, config)
    tuned.peft_config["default"].base_model_name_or_path = base  # get_peft_model writes the folder it was loaded from
    return tuned  # type: ignore[return-value]


def list_adapted(model: PreTrainedModel) -> set[Part]:
    """The parts that have adapters."""
    from peft.tuners.lora import LoraLayer

    return {part_of(name) for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def set_dropout(model: PreTrainedModel, dropout: float) -> None:
    """Train a model's adapters with this dropout from here on, whatever they had before."""
    from peft.tuners.lora import LoraLayer

    model.peft_config["default"].lora_dropout = dropout  # type: ignore[index]
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()


def count_trained(model: torch.nn.Module) -> dict[str, int]:
    """Numbers trained in each part, and `all` of the model's."""
    trained: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained[part_of(name)] += _whole_shape(parameter).numel()
    return trained | {"all": sum(_whole_shape(parameter).numel() for parameter in model.parameters())}


def _whole_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """The shape of all of a parameter; DeepSpeed 0.19 keeps it beside what ZeRO-3 leaves of it on one device."""
    return getattr(parameter, "ds_shape", parameter.shape)


def parameter_groups(
    model: torch.nn.Module, *, rates: Mapping[Part, float], weight_decay: float
) -> list[dict[str, Any]]:
    """The trained parameters as an optimizer takes them, one group for each learning rate and decay that occurs.

    Biases and normalisation weights (one dimension) do not decay. SettingsError where nothing is trained.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if len(_whole_shape(parameter)) > 1 else 0.0
            groups.setdefault((rates[part_of(name)], decay), []).append(parameter)
    if not groups:
        raise SettingsError("nothing is trained: tune.freeze leaves no part; free one of vision, merger, language")
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]
