"""The language model in 4 bits under adapters (QLoRA, arXiv 2305.14314), by bitsandbytes.

Its linear layers are stored as NF4 in blocks of 64 numbers, whose scales are quantised again, and computed with in
bfloat16. The vision tower and the merger stay as they are: they hold a sixth of a 3B model's weights and a twelfth of
a 7B model's, and where a box lies, to the pixel, comes from them. So do embeddings, head and norms.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import BitsAndBytesConfig

from groundling.errors import SettingsError

KEPT = ["lm_head", "visual", "model.visual"]  # as transformers matches the names of layers, from their beginning
BITS_A_WEIGHT = 4 + 8 / 64 + 32 / (64 * 256)  # a scale for 64 numbers in 8 bits, one for 256 such scales in 32


def refuse_no_4_bits() -> None:
    """SettingsError where this machine, or the engine that was launched, cannot train on 4 bits."""
    if not torch.cuda.is_available():
        raise SettingsError(
            "tune.method is qlora, which needs a GPU, and there is none; set tune.method=lora, which needs none"
        )
    if find_spec("bitsandbytes") is None:
        raise SettingsError('tune.method is qlora, and bitsandbytes is not installed; pip install "groundling[qlora]"')
    engine = PartialState().distributed_type
    if engine in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        raise SettingsError(
            f"tune.method is qlora, and {engine.value} would have to cut weights of 4 bits; launch it with torchrun, a "
            "whole model on each GPU"
        )


def loading_in_4_bits() -> dict[str, Any]:
    """What transformers' `from_pretrained` is told, to quantise what it loads onto this process's device."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT),  # of 4 bits too
    )
    return {"quantization_config": config, "device_map": {"": PartialState().device}}
