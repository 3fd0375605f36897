"""Attention for packed rows: samples and pictures joined end to end, none seeing another.

One function for the language model and for the vision tower. It is told which stretches of the row see themselves
only, or themselves and the beginning of another, so no T x T mask is ever built; stretches of one shape are attended to
in one call of torch's scaled_dot_product_attention.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

PACKED_ATTENTION = "groundling_flash_varlen"  # the Qwen vision towers hand their bounds to names with "flash" in them


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens of a packed row that see themselves, and the first `prefix` tokens of the stretch `root`.

    That is an earlier one, by its place in the row's list of stretches, which itself sees no other's prefix.
    """

    length: int
    prefix: int = 0
    root: int = 0


def use_packed_attention(model: PreTrainedModel) -> None:
    """Make the model attend within the samples of a row (`stretches`, from `pack_row`) and the pictures in it."""
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
    stretches: Sequence[Stretch] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, T, heads, head_dim) of the values attended to, from `query` (1, heads, T, head_dim).

    The signature is that of transformers' AttentionInterface. A vision tower gives the bounds of its windows
    (`cu_seq_lens_q`, cumulative from 0), each attended to whole; the language model, causal, gets the row's
    `stretches`. Keys may have fewer heads than queries, a divisor of their number.
    """
    assert attention_mask is None and query.shape[0] == 1, "a packed row is one row, without a mask"
    assert sliding_window is None, "a packed sample is attended to whole"
    if cu_seq_lens_q is not None:
        stretches = [Stretch(length) for length in cu_seq_lens_q.diff().tolist()]
    assert stretches is not None, "a packed row comes with its stretches"
    lengths = [stretch.length for stretch in stretches]
    assert sum(lengths) == query.shape[2], "a packed row is covered by its stretches"
    queries = query.split(lengths, dim=2)
    keys, values = (_behind_prefixes(states.split(lengths, dim=2), stretches) for states in (key, value))
    causal = bool(module.is_causal if is_causal is None else is_causal)
    attended: list[torch.Tensor] = [query] * len(stretches)
    for places in equal_places([(stretch.length, stretch.prefix) for stretch in stretches]):
        length, prefix = stretches[places[0]].length, stretches[places[0]].prefix
        found = scaled_dot_product_attention(
            *(torch.cat([parts[place] for place in places]) for parts in (queries, keys, values)),
            attn_mask=_causal_behind(prefix, length, query.device) if causal and prefix else None,
            dropout_p=dropout,
            is_causal=causal and not prefix,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for place, part in zip(places, found.transpose(1, 2), strict=True):
            attended[place] = part
    return torch.cat(attended).unsqueeze(0), None


def _behind_prefixes(parts: Sequence[torch.Tensor], stretches: Sequence[Stretch]) -> list[torch.Tensor]:
    """Each stretch's keys or values, (1, heads, T, head_dim), behind those of the prefix that it sees."""
    cut: dict[tuple[int, int], torch.Tensor] = {}  # each prefix once: its gradient is then summed at its own size
    whole: list[torch.Tensor] = []
    for part, stretch in zip(parts, stretches, strict=True):
        if stretch.prefix:
            place = (stretch.root, stretch.prefix)
            if place not in cut:
                cut[place] = parts[stretch.root][:, :, : stretch.prefix]
            part = torch.cat([cut[place], part], dim=2)
        whole.append(part)
    return whole


def _causal_behind(prefix: int, length: int, device: torch.device) -> torch.Tensor:
    """(length, prefix + length): each token sees the prefix, those before it and itself."""
    return torch.ones(length, prefix + length, dtype=torch.bool, device=device).tril(diagonal=prefix)


def equal_places(shapes: Sequence[Hashable]) -> list[list[int]]:
    """Where each shape stands in `shapes`: places 0, 2 and place 1 for shapes a, b, a."""
    places: dict[Hashable, list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    return list(places.values())
