"""Attention for packed rows: samples and pictures joined end to end, none seeing another.

One function for the language model and for the vision tower. It is told how long the stretches are that see themselves
only, so no T x T mask is ever built; stretches of one length are attended to in one call of torch's
scaled_dot_product_attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

PACKED_ATTENTION = "groundling_flash_varlen"  # the Qwen vision towers hand their bounds to names with "flash" in them


def use_packed_attention(model: PreTrainedModel) -> None:
    """Make the model attend within the samples of a row (`sample_lengths`, from `pack_row`) and the pictures in it."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    # by part: for the whole model transformers would look for a flash-attention wheel of that name
    model.set_attn_implementation({"text_config": PACKED_ATTENTION, "vision_config": PACKED_ATTENTION})


@contextmanager
def padded_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model attends over prompts side by side, as generation has them; afterwards as it did before.

    The pictures of a batch come end to end, so the vision tower's attention is packed here too.
    """
    config = model.config
    before = {part: getattr(config, part)._attn_implementation for part in ("text_config", "vision_config")}
    use_packed_attention(model)
    model.set_attn_implementation({"text_config": "sdpa"})
    try:
        yield
    finally:
        model.set_attn_implementation(before)


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
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sample_lengths: Sequence[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, T, heads, head_dim) of the values attended to, from `query` (1, heads, T, head_dim).

    The signature is that of transformers' AttentionInterface. A vision tower gives the bounds of its windows
    (`cu_seq_lens_q`, cumulative from 0), each attended to whole; the language model, causal, gets the row's
    `sample_lengths`. Keys may have fewer heads than queries, a divisor of their number.
    """
    assert attention_mask is None and query.shape[0] == 1, "a packed row is one row, without a mask"
    assert sliding_window is None, "a packed sample is attended to whole"
    lengths = sample_lengths if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    assert lengths is not None and sum(lengths) == query.shape[2], "a packed row comes with its samples' lengths"
    stretches = [states.split(list(lengths), dim=2) for states in (query, key, value)]
    attended: list[torch.Tensor] = [query] * len(lengths)
    for places in equal_places(lengths):
        found = scaled_dot_product_attention(
            *(torch.cat([parts[place] for place in places]) for parts in stretches),
            dropout_p=dropout,
            is_causal=bool(module.is_causal if is_causal is None else is_causal),
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for place, part in zip(places, found.transpose(1, 2), strict=True):
            attended[place] = part
    return torch.cat(attended).unsqueeze(0), None


def equal_places(lengths: Sequence[int]) -> list[list[int]]:
    """Where each length stands in `lengths`: places 0, 2 and place 1 for lengths 5, 7, 5."""
    places: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        places.setdefault(length, []).append(place)
    return list(places.values())
