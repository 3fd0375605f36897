"""Attention for packed rows: samples and pictures joined end to end, none seeing another.

One function for the language model and for the vision tower. It is told which stretches of the row see themselves
only, or themselves and the beginning of another, so no T x T mask is ever built. On a GPU, in 16 bits, the row is one
call of a kernel for sequences of many lengths (`varlen`); elsewhere stretches of one shape are one call of torch's
scaled_dot_product_attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from groundling.errors import ContractError
from groundling.model import varlen
from groundling.model.layout import Bounds, Layout, Stretch

PACKED_ATTENTION = "groundling_flash_varlen"  # the Qwen vision towers hand their bounds to names with "flash" in them


def use_packed_attention(model: PreTrainedModel) -> None:
    """Make the model attend within the samples of a row (its `layout`, from `pack_row`) and the pictures in it.

    ContractError for a model with layers that no attention function keeps within a sample.
    """
    kinds = set(getattr(model.config.text_config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise ContractError(f"its layers of {', '.join(sorted(kinds))} would mix the samples of a row")
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    # by part: for the whole model transformers would look for a flash-attention wheel of that name
    model.set_attn_implementation({"text_config": PACKED_ATTENTION, "vision_config": PACKED_ATTENTION})


@contextmanager
def attend_packed(model: PreTrainedModel) -> Iterator[None]:
    """The model attends within the samples of rows (`use_packed_attention`); afterwards as it did before."""
    config = model.config
    before = {part: getattr(config, part)._attn_implementation for part in ("text_config", "vision_config")}
    use_packed_attention(model)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def attend_padded(model: PreTrainedModel) -> Iterator[None]:
    """The model attends over prompts side by side; afterwards as it did before.

    The pictures of a batch come end to end, so the vision tower's attention is packed here too.
    """
    with attend_packed(model):
        model.set_attn_implementation({"text_config": "sdpa"})
        yield


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
    max_length_q: int | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, T, heads, head_dim) of the values attended to, from `query` (1, heads, T, head_dim).

    The signature is that of transformers' AttentionInterface. A vision tower gives the bounds of its windows
    (`cu_seq_lens_q`, cumulative from 0), each attended to whole; the language model, causal, gets the row's `layout`.
    Keys may have fewer heads than queries, a divisor of their number. Under autocast all are cast to its type, as
    torch's own attention does, since rotary positions leave queries and keys in the type of the weights.
    """
    assert attention_mask is None and query.shape[0] == 1, "a packed row is one row, without a mask"
    assert sliding_window is None, "a packed sample is attended to whole"
    causal = bool(module.is_causal if is_causal is None else is_causal)
    if torch.is_autocast_enabled(query.device.type):
        usual = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(usual), key.to(usual), value.to(usual)
    kernel = varlen.find_kernel(query.device) if query.dtype in varlen.TYPES and not dropout else None
    if kernel is not None:
        bounds = _told(layout).bounds(query.device) if cu_seq_lens_q is None else _bounds(cu_seq_lens_q, max_length_q)
        return attend_by_kernel(kernel, query, key, value, bounds, causal=causal, scaling=scaling), None
    row = _told(layout) if cu_seq_lens_q is None else Layout([Stretch(size) for size in cu_seq_lens_q.diff().tolist()])
    return attend_by_shape(query, key, value, row, causal=causal, scaling=scaling, dropout=dropout), None


def attend_by_kernel(
    kernel: varlen.Kernel,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    *,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """The whole row in one call; shapes as in `packed_attention`."""
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
    if bounds.chosen is not None:
        keys, values = keys.index_select(0, bounds.chosen), values.index_select(0, bounds.chosen)
    return kernel(queries, keys, values, bounds, causal, scaling).unsqueeze(0)


def attend_by_shape(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    causal: bool,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Stretches of one shape in one call; shapes as in `packed_attention`."""
    assert sum(layout.lengths) == query.shape[2], "a packed row is covered by its stretches"
    queries = query.split(layout.lengths, dim=2)
    keys, values = (_behind_prefixes(states.split(layout.lengths, dim=2), layout) for states in (key, value))
    attended: list[torch.Tensor] = [query] * len(layout.stretches)
    for places in layout.by_shape:
        length, prefix = layout.stretches[places[0]].length, layout.stretches[places[0]].prefix
        found = scaled_dot_product_attention(
            *(torch.cat([parts[place] for place in places]) for parts in (queries, keys, values)),
            attn_mask=layout.mask_behind(prefix, length, query.device) if causal and prefix else None,
            dropout_p=dropout,
            is_causal=causal and not prefix,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for place, part in zip(places, found.transpose(1, 2), strict=True):
            attended[place] = part
    return torch.cat(attended).unsqueeze(0)


def _behind_prefixes(parts: Sequence[torch.Tensor], layout: Layout) -> list[torch.Tensor]:
    """Each stretch's keys or values, (1, heads, T, head_dim), behind those of the prefix that it sees."""
    cut: dict[tuple[int, int], torch.Tensor] = {}  # each prefix once: its gradient is then summed at its own size
    whole: list[torch.Tensor] = []
    for part, stretch in zip(parts, layout.stretches, strict=True):
        if stretch.prefix:
            place = (stretch.root, stretch.prefix)
            if place not in cut:
                cut[place] = parts[stretch.root][:, :, : stretch.prefix]
            part = torch.cat([cut[place], part], dim=2)
        whole.append(part)
    return whole


def _told(layout: Layout | None) -> Layout:
    assert layout is not None, "a packed row comes with its layout"
    return layout


def _bounds(windows: torch.Tensor, longest: int | None) -> Bounds:
    """Of a vision tower's windows: what queries are keys."""
    bounds = windows.to(torch.int32)
    most = int(windows.diff().max()) if longest is None else int(longest)
    return Bounds(bounds, bounds, most, most)
