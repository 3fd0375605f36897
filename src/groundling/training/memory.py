"""How much memory a training takes on each device, at the moments when it takes most.

Weights, gradients and optimizer states are counted from the model's parameters, as the engine spreads them; what a step
keeps on the way is rehearsed (`rehearsal`). All of it is an estimate: DEVICE is a round figure for what the driver and
the libraries take, and an allocator's gaps are not in it.

- AdamW keeps two numbers for each trained one (arXiv 1711.05101), in the weights' own type; OPTIMIZERS has the others.
- ZeRO-2 (arXiv 1910.02054) spreads gradients and optimizer states over the devices, ZeRO-3 and FSDP2 the weights too.
  DeepSpeed holds weights and gradients in bf16 beside float32 masters, which are counted with the optimizer's states;
  without bf16 it holds them as they are loaded, and ZeRO-3 takes float32 weights for their own masters (0.19).
- Copies side by side (DDP) gather gradients in buckets, of their size altogether.
- Buckets of DeepSpeed hold 5e8 numbers, ZeRO-3 gathers up to 1e9 weights ahead (the defaults of DeepSpeed 0.19).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from groundling.dialect.family import find_family
from groundling.model.load import build_bare, read_config
from groundling.model.quantise import BITS_A_WEIGHT
from groundling.model.tune import LORA_TARGETS, PARTS, Adapter, add_adapter, freeze_parts, part_of, weights_dtype
from groundling.settings import Launch, Part, Settings
from groundling.training.rehearsal import LAYERS, Kept, Rehearsal, RowShape, rehearse, shorten

GIB = 2**30
DEVICE = GIB  # bytes that a CUDA context and its libraries take: between half and one GiB
SPARE = 0.05  # of a device's memory is left to the allocator's gaps
_LAYER = re.compile(r"\.(layers|blocks)\.(\d+)\.")
_BUCKET = 5 * 10**8
_GATHERED = 10**9


class States(NamedTuple):
    """What an optimizer keeps for each trained number."""

    numbers: int = 0  # of the trained one's own type
    bytes: int = 0  # of types that are the optimizer's own

    def take(self, trained: int, in_bytes: int) -> int:
        """Bytes for so many trained numbers, which have so many bytes themselves."""
        return self.numbers * in_bytes + self.bytes * trained


ADAMW = States(numbers=2)
# Of transformers' TrainingArguments, without momentum where that is an option: what is written, but for small weights,
# which are not rounded (2026-12-01, torch 2.13, bitsandbytes 0.50, torchao 0.18)
OPTIMIZERS = {
    "adamw_torch": ADAMW,
    "adamw_torch_fused": ADAMW,
    "adamw_torch_8bit": States(bytes=2),
    "adamw_torch_4bit": States(bytes=1),
    "adamw_bnb_8bit": States(bytes=2),
    "adamw_8bit": States(bytes=2),
    "paged_adamw_8bit": States(bytes=2),
    "paged_adamw_32bit": States(bytes=8),
    "lion_8bit": States(bytes=1),
    "paged_lion_8bit": States(bytes=1),
    "lion_32bit": States(bytes=4),
    "paged_lion_32bit": States(bytes=4),
    "ademamix_8bit": States(bytes=3),
    "paged_ademamix_8bit": States(bytes=3),
    "ademamix": States(bytes=12),
    "paged_ademamix_32bit": States(bytes=12),
    "rmsprop": States(numbers=1),
    "rmsprop_bnb": States(bytes=4),
    "rmsprop_bnb_8bit": States(bytes=1),
    "rmsprop_bnb_32bit": States(bytes=4),
    "adagrad": States(numbers=1),
    "adafactor": States(),  # of rows and columns (arXiv 1804.04235)
    "sgd": States(),
}
_OF_FLAT_WEIGHTS = OPTIMIZERS | {"adafactor": States(numbers=1)}  # DeepSpeed's, which have no rows


def find_states(settings: Settings, engine: str, *, unknown: States) -> States:
    """What the recipe's optimizer keeps under an engine, `unknown` for one that is in no table."""
    table = _OF_FLAT_WEIGHTS if engine.startswith("zero") else OPTIMIZERS
    return table.get(name_optimizer(settings), unknown)


def name_optimizer(settings: Settings) -> str:
    """The recipe's optimizer as transformers' TrainingArguments call it; theirs is AdamW."""
    return str(settings.trainer.get("optim", "adamw_torch"))


def show_memory(size: int) -> str:
    """A number of bytes as memory is told: `7.1 GiB`, a small one `812 MiB`."""
    return f"{size / GIB:.1f} GiB" if size > 2 * GIB else f"{size / GIB * 1024:,.0f} MiB"


class Moment(NamedTuple):
    """Bytes on one device at one moment of a step, by what they are for."""

    name: str  # forward: at its end; back: where the backward pass takes most in that part; optimizer: its step
    weights: int
    optimizer: int  # states, and DeepSpeed's float32 masters
    gradients: int
    vision: int  # what the vision tower keeps for the backward pass
    language: int  # what the language model keeps for it
    working: int  # logits and loss, embeddings, what is being computed
    engine: int  # buckets and gathered weights
    device: int = DEVICE

    @property
    def total(self) -> int:
        """Of all that is listed."""
        return sum(self[1:])


@dataclass(frozen=True)
class Memory:
    """The moments of a step."""

    moments: tuple[Moment, ...]

    @property
    def most(self) -> Moment:
        """The moment that takes most."""
        return max(self.moments, key=lambda moment: moment.total)

    def fits(self, device_bytes: float) -> bool:
        """Whether a device has room for it, and the spare share beside it."""
        return self.most.total <= device_bytes * (1 - SPARE)


class Numbers(NamedTuple):
    """A model's numbers: how many, and how many bytes the weights take as they are loaded."""

    parameters: Mapping[Part, int]  # adapters left out
    trained: Mapping[Part, int]
    weights: int  # bytes
    gradients: int  # bytes
    largest_unit: int  # parameters that FSDP2 gathers at once: what is in no layer, and two layers


class Subject(NamedTuple):
    """A model to be trained: its configuration, and itself without weights."""

    config: PretrainedConfig
    bare: Callable[[], PreTrainedModel]
    family: str


def read_subject(folder: Path) -> Subject:
    """The model that a folder's config.json describes.

    ContractError where it describes none, SettingsError where that is of no family.
    """
    config = read_config(folder)
    return Subject(config, partial(build_bare, config), find_family(str(config.model_type)).name)


def prepare(model: PreTrainedModel, settings: Settings, family: str) -> PreTrainedModel:
    """The model as the recipe trains it: parts frozen, or new adapters on it."""
    tune = settings.tune
    if tune.has_adapters:
        adapter = Adapter(tune.lora.rank, tune.lora.alpha, tune.lora.dropout, tune.lora.parts)
        return add_adapter(model, adapter, family=family, base="planned")
    freeze_parts(model, tune.freeze)
    return model


def count_numbers(subject: Subject, settings: Settings, *, has_gpu: bool = True) -> Numbers:
    """What the model's weights and their gradients take, whole on one device."""
    dtype, tune = weights_dtype(settings, has_gpu=has_gpu), settings.tune
    model = subject.bare().to(dtype)  # type: ignore[arg-type]
    freeze_parts(model, PARTS if tune.has_adapters else tune.freeze)
    in_4_bits = re.compile(LORA_TARGETS[subject.family]["language"] + r"\.weight")
    parameters: dict[Part, int] = dict.fromkeys(PARTS, 0)
    trained = _count_adapters(subject, settings) if tune.has_adapters else dict.fromkeys(PARTS, 0)
    adapters = 4 * sum(trained.values())  # PEFT has them in float32
    weights, gradients, outside, layer = adapters, adapters, 0, 0
    for name, parameter in model.named_parameters():
        count, part = parameter.numel(), part_of(name)
        parameters[part] += count
        is_small = tune.method == "qlora" and in_4_bits.fullmatch(name)
        weights += round(count * BITS_A_WEIGHT / 8) if is_small else parameter.nbytes
        if parameter.requires_grad:
            trained[part] += count
            gradients += parameter.nbytes
        outside += count if not _LAYER.search(name) else 0
        layer += count if ".layers.0." in name else 0
    return Numbers(parameters, trained, weights, gradients, outside + 2 * layer)


def _count_adapters(subject: Subject, settings: Settings) -> dict[Part, int]:
    """Numbers in the adapters of each part, from three layers: PEFT takes seconds for all."""
    short = build_bare(shorten(subject.config))
    counted: dict[Part, int] = dict.fromkeys(PARTS, 0)
    depths = {"layers": subject.config.text_config.num_hidden_layers, "blocks": subject.config.vision_config.depth}
    for name, parameter in prepare(short, settings, subject.family).named_parameters():
        if parameter.requires_grad and (place := _LAYER.search(name)):
            counted[part_of(name)] += parameter.numel() * (depths[place[1]] - LAYERS + 1 if place[2] == "1" else 1)
    return counted


def estimate_memory(subject: Subject, settings: Settings, row: RowShape, *, numbers: Numbers | None = None) -> Memory:
    """What training on a row takes on each device, once the optimizer has its states."""
    return _add_up(numbers or count_numbers(subject, settings), settings, _rehearse(subject, settings, row))


class Estimates:
    """Estimates for one model by many recipes; what these have in common is counted and rehearsed once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._numbers: dict[str, Numbers] = {}
        self._rehearsals: dict[str, Rehearsal] = {}

    def estimate(self, settings: Settings, row: RowShape) -> Memory:
        """As `estimate_memory`."""
        how = _how_to_rehearse(settings)
        name = repr((how, _adapter_or_frozen(settings), row))
        if name not in self._rehearsals:
            self._rehearsals[name] = _rehearse(self._subject, settings, row)
        return _add_up(self._count(settings), settings, self._rehearsals[name])

    def least(self, settings: Settings) -> int:
        """Bytes that are taken whatever the row: those of the optimizer's step, for which nothing is rehearsed."""
        return _at_optimizer(self._count(settings), settings).total

    def _count(self, settings: Settings) -> Numbers:
        name = repr((settings.tune, settings.model.dtype))
        if name not in self._numbers:
            self._numbers[name] = count_numbers(self._subject, settings)
        return self._numbers[name]


def _adapter_or_frozen(settings: Settings) -> object:
    """What of `tune` a rehearsal depends on: weights in 4 bits are not in it."""
    return settings.tune.lora if settings.tune.has_adapters else settings.tune.freeze


def _add_up(numbers: Numbers, settings: Settings, rehearsed: Rehearsal) -> Memory:
    weights, optimizer, gradients, engine = _static(numbers, settings)
    of_language = round(gradients * numbers.trained["language"] / max(1, sum(numbers.trained.values())))
    waiting = gradients if settings.train.accumulate > 1 else 0  # from the rows before

    def moment(name: str, held: int, kept: Kept) -> Moment:
        return Moment(name, weights, optimizer, held, kept.vision, kept.language, kept.rest, engine)

    moments = [
        moment("forward", waiting, rehearsed.forward),
        moment("back, language", waiting, rehearsed.language_backward),
    ]
    if rehearsed.vision_backward is not None:
        moments.append(moment("back, vision", max(waiting, of_language), rehearsed.vision_backward))
    return Memory((*moments, _at_optimizer(numbers, settings)))


def _at_optimizer(numbers: Numbers, settings: Settings) -> Moment:
    weights, optimizer, gradients, engine = _static(numbers, settings)
    return Moment("optimizer", weights, optimizer, gradients, 0, 0, _step_extra(numbers, settings.launch), engine)


class _Manner(NamedTuple):
    """How a step is rehearsed."""

    dtype: torch.dtype
    autocast: bool
    checkpointing: bool
    has_kernel: bool


def _how_to_rehearse(settings: Settings) -> _Manner:
    launch = settings.launch
    in_bf16 = settings.train.bf16 is not False
    spread = in_bf16 and launch.devices > 1 and launch.engine == "fsdp2"
    dtype = torch.bfloat16 if in_bf16 and (launch.has_deepspeed or spread) else weights_dtype(settings, has_gpu=True)
    return _Manner(dtype, in_bf16 and not launch.has_deepspeed, settings.train.gradient_checkpointing, in_bf16)


def _rehearse(subject: Subject, settings: Settings, row: RowShape) -> Rehearsal:
    def prepare_as_told(bare: PreTrainedModel) -> PreTrainedModel:
        return prepare(bare, settings, subject.family)

    return rehearse(subject.config, row, **_how_to_rehearse(settings)._asdict(), prepare=prepare_as_told)


def _static(numbers: Numbers, settings: Settings) -> tuple[int, int, int, int]:
    """Bytes of weights, optimizer states, gradients and the engine's own on each device."""
    trained = sum(numbers.trained.values())
    all_weights = sum(numbers.parameters.values()) + (trained if settings.tune.has_adapters else 0)
    states = find_states(settings, settings.launch.engine or "ddp", unknown=ADAMW)
    share = settings.launch.devices
    match settings.launch.engine:
        case "zero2" | "zero3":
            return _static_of_zero(numbers, settings, all_weights=all_weights, states=states.take(trained, 4 * trained))
        case "fsdp2" if share > 1:
            frozen = (all_weights - trained) * weights_dtype(settings, has_gpu=True).itemsize
            weights = (4 * trained + frozen) // share
            optimizer = states.take(trained, 4 * trained) // share
            return weights, optimizer, 4 * trained // share, 2 * numbers.largest_unit
        case _:
            optimizer = states.take(trained, numbers.gradients)
            return numbers.weights, optimizer, numbers.gradients, numbers.gradients if share > 1 else 0


def _static_of_zero(
    numbers: Numbers, settings: Settings, *, all_weights: int, states: int
) -> tuple[int, int, int, int]:
    """The same under DeepSpeed, whose optimizer has states of so many bytes beside its masters."""
    trained, share, is_third = sum(numbers.trained.values()), settings.launch.devices, settings.launch.engine == "zero3"
    in_bf16 = settings.train.bf16 is not False
    weights, gradients = (2 * all_weights, 2 * trained) if in_bf16 else (numbers.weights, numbers.gradients)
    masters = 0 if is_third and gradients == 4 * trained else 4  # ZeRO-3 makes none of weights in float32
    bucket = gradients * min(_BUCKET, trained) // max(1, trained)
    gathered = weights * min(_GATHERED, all_weights) // all_weights
    own = gathered + 2 * bucket if is_third else bucket
    held = weights // share if is_third else weights
    return held, (masters * trained + states) // share, gradients // share, own


def _step_extra(numbers: Numbers, launch: Launch) -> int:
    """DeepSpeed steps on gradients in float32; torch's fused AdamW needs nothing beside what there is."""
    return 4 * sum(numbers.trained.values()) // launch.devices if launch.has_deepspeed else 0
