"""Kernels that attend within sequences of many lengths at once, found on this machine and given one signature.

torch has one since 2.10 (`torch.nn.attention.varlen`), whose parameters changed with 2.11 and 2.12; before that there
is flash-attn's. Both run on CUDA in 16 bits. A causal sequence with more keys than queries is aligned at its end: its
queries are the last tokens (flash-attn since 2.1).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groundling.model.layout import Bounds

TYPES = (torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # compute capability; on older devices both kernels are there and fail when they are called

Kernel = Callable[[Tensor, Tensor, Tensor, Bounds, bool, float | None], Tensor]
"""(T, heads, head_dim) from queries of that shape, keys and values, bounds, whether causal, and the scale of scores.

Keys and values may have fewer heads than queries, a divisor of their number.
"""


@cache
def find_kernel(device: torch.device) -> Kernel | None:
    """The kernel for a device; None for one without, as every GPU older than NVIDIA's Ampere is."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < OLDEST:
        return None
    return load_kernel()


@cache
def load_kernel() -> Kernel | None:
    """torch's own kernel, else flash-attn's; None where there is neither."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return _find_flash_attn()
    return adapt_torch(varlen_attn)


def adapt_torch(varlen_attn: Callable[..., Any]) -> Kernel:
    """torch's function, whichever of its parameters this version has."""
    known = inspect.signature(varlen_attn).parameters

    def attend(
        query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, causal: bool, scaling: float | None
    ) -> Tensor:
        options: dict[str, Any] = {}
        if "window_size" in known:
            options["window_size"] = (-1, 0) if causal else (-1, -1)
        else:
            options["is_causal"] = causal
        if "scale" in known:
            options["scale"] = scaling
        elif scaling is not None:
            query = query * (scaling * query.shape[-1] ** 0.5)  # it divides by that root itself
        if "enable_gqa" in known:
            options["enable_gqa"] = query.shape[1] != key.shape[1]
        else:
            key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
        return varlen_attn(query, key, value, *bounds[:4], **options)

    return attend


def _find_flash_attn() -> Kernel | None:
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError:
        return None
    varlen_func: Callable[..., Tensor] = flash_attn_varlen_func

    def attend(
        query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, causal: bool, scaling: float | None
    ) -> Tensor:
        return varlen_func(query, key, value, *bounds[:4], softmax_scale=scaling, causal=causal)

    return attend
