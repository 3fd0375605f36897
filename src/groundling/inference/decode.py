"""Greedy decoding: prompts are read as one packed row, their answers written side by side as `lines`.

Prompts about one picture share it in that row (`pack_row`), so the vision tower and the language model see it once
however many they are. Then each prompt gets the keys and values of what it sees, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from groundling.inference.batch import Sample, last_positions, pack_row
from groundling.inference.lines import Line, choose
from groundling.model.attention import attend_packed, attend_padded
from groundling.model.layout import Layout
from groundling.model.processor import Processor


class Read(NamedTuple):
    """A row of prompts that the model has read."""

    states: list[tuple[Tensor, Tensor]]  # of each layer, keys and values, (1, heads, T, head_dim)
    layout: Layout
    logits: Tensor  # (prompts, vocabulary), behind each prompt's last token
    positions: Tensor  # (4, prompts), of that token


def read_prompts(model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample]) -> Read:
    """Have the model read prompts, in one pass."""
    row = pack_row(prompts, processor)
    layout: Layout = row["layout"]
    del row["labels"]
    last = torch.stack([layout.seen_by(place)[-1] for place in range(len(prompts))])
    cache = DynamicCache()
    inputs = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in row.items()}
    with attend_packed(model):
        logits = model(
            **processor.normalise(inputs) | {"use_cache": True, "past_key_values": cache},
            logits_to_keep=last.to(model.device),
        ).logits[0]
    layers: Any = cache.layers  # of another kind for linear attention, which is refused
    states = [(layer.keys, layer.values) for layer in layers]
    return Read(states, layout, logits, last_positions(prompts, processor))


def write_answers(
    model: PreTrainedModel, processor: Processor, read: Read, places: Sequence[int], lines: Sequence[Line]
) -> None:
    """Write the answers to those of the read prompts, each line to its end, side by side.

    What a line writes without asking goes through the model together with the token before it.
    """
    device = read.logits.device
    cache, seen = _side_by_side(read, places)
    positions = read.positions[:, list(places)].to(device)
    logits = read.logits[list(places)]
    writing = list(lines)  # one a row of the batch
    with attend_padded(model):  # around all steps: it walks through the whole model
        while True:
            chosen = choose(logits, writing, processor.vocabulary)
            written = [line.write(*found) for line, found in zip(writing, chosen, strict=True)]
            going_on = [row for row, line in enumerate(writing) if line.choices is not None]
            if not going_on:
                break
            if len(going_on) < len(writing):
                kept = torch.tensor(going_on, device=device)
                cache.batch_select_indices(kept)
                seen, positions = seen[kept], positions[:, kept]
                writing = [writing[row] for row in going_on]
            tokens, is_there = _pad_left([written[row] for row in going_on], processor.pad_token_id, device)
            steps = is_there.cumsum(dim=1)
            seen = torch.cat([seen, is_there], dim=1)
            out = model(
                input_ids=tokens,
                attention_mask=seen,
                position_ids=positions.unsqueeze(2) + steps,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            positions = positions + steps[:, -1]
            logits = out.logits[:, -1]


def _pad_left(rows: Sequence[list[int]], filling: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(rows, longest) tokens, filled up on the left; and 1 where a token is, 0 where that is filling."""
    longest = max(map(len, rows))
    tokens = [[filling] * (longest - len(row)) + row for row in rows]
    is_there = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(tokens, device=device), torch.tensor(is_there, device=device)


def _side_by_side(read: Read, places: Sequence[int]) -> tuple[DynamicCache, Tensor]:
    """What each prompt has seen, filled up on the left; and (prompts, T) 1 where it is, 0 where that is filling."""
    device = read.logits.device
    seen_by = [read.layout.seen_by(place) for place in places]
    longest = max(map(len, seen_by))
    chosen = torch.stack([torch.cat([seen.new_zeros(longest - len(seen)), seen]) for seen in seen_by]).to(device)
    lengths = torch.tensor([len(seen) for seen in seen_by], device=device)
    mask = (torch.arange(longest, device=device) >= longest - lengths.unsqueeze(1)).long()
    cache = DynamicCache()
    for number, states in enumerate(read.states):
        keys, values = (part[0][:, chosen].transpose(0, 1) for part in states)
        cache.update(keys, values, number)
    return cache, mask
