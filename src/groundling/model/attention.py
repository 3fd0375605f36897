"""Attention for packed rows: samples and pictures joined end to end, none seeing another.

One function for the language model and for the vision tower. transformers hands it the bounds of the stretches that may
see each other (`cu_seq_lens_q`, cumulative lengths from 0), so no T x T mask is ever built. Stretches of one length are
attended to together, in one call of torch's scaled_dot_product_attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

PACKED_ATTENTION = "groundling_flash_varlen"  # the Qwen vision towers pass their bounds on to names with "flash" in them


def use_packed_attention(model: PreTrainedModel) -> None:
    """Make the model attend within the bounds that it is given with each row (`cu_seq_lens_q`)."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    # by part: for the whole model transformers would look for a flash-attention wheel of that name
    model.set_attn_implementation({"text_config": PACKED_ATTENTION, "vision_config": PACKED_ATTENTION})


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, T, heads, head_dim) of the values attended to, from `query` (1, heads, T, head_dim); keys may have fewer heads.

    A signature of transformers' AttentionInterface. Every stretch between two bounds sees itself only, causally where
    the module is causal (the language model) and wholly where it is not (the vision tower).
    """
    assert attention_mask is None and query.shape[0] == 1 and cu_seq_lens_q is not None, "a packed row has bounds, no mask"
    causal = module.is_causal if is_causal is None else is_causal
    parts: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    for rows in equal_stretches(cu_seq_lens_q):
        parts.append(
            scaled_dot_product_attention(
                *(_stretches(states, rows) for states in (query, key, value)),
                dropout_p=dropout,
                is_causal=bool(causal),
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            .transpose(1, 2)
            .flatten(0, 1)
        )
        places.append(rows.flatten())
    joined = torch.cat(parts)
    if len(parts) > 1:
        joined = joined[torch.argsort(torch.cat(places))]
    return joined.unsqueeze(0), None


def equal_stretches(bounds: torch.Tensor) -> list[torch.Tensor]:
    """The stretches between `bounds` (cumulative, from 0) as token indices (stretches, length), one tensor a length."""
    starts, ends = bounds[:-1].tolist(), bounds[1:].tolist()
    by_length: dict[int, list[int]] = {}
    for start, end in zip(starts, ends, strict=True):
        if end > start:
            by_length.setdefault(end - start, []).append(start)
    return [
        torch.tensor(found, device=bounds.device)[:, None] + torch.arange(length, device=bounds.device)
        for length, found in by_length.items()
    ]


def _stretches(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(stretches, heads, length, head_dim) out of (1, heads, T, head_dim)."""
    return states[0][:, rows].transpose(0, 1)
