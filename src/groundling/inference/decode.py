"""Greedy decoding: prompts are read as one packed row, their answers written side by side.

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
    model: PreTrainedModel, read: Read, places: Sequence[int], *, ends: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    """The answers to those of the read prompts, as tokens up to one of `ends`, which is left out.

    An answer that is longer than `max_new_tokens` is cut.
    """
    device = read.logits.device
    cache, seen = _side_by_side(read, places)
    positions = read.positions[:, list(places)].to(device)
    tokens = read.logits[list(places)].argmax(dim=-1)
    answers: list[list[int]] = [[] for _ in places]
    writing = list(range(len(places)))  # whose answers the lines of the batch are
    for step in range(max_new_tokens):
        found = tokens.tolist()
        going_on = [line for line, token in enumerate(found) if token not in ends]
        for line in going_on:
            answers[writing[line]].append(found[line])
        if not going_on or step == max_new_tokens - 1:
            break
        if len(going_on) < len(writing):
            kept = torch.tensor(going_on, device=device)
            cache.batch_select_indices(kept)
            tokens, seen, positions = tokens[kept], seen[kept], positions[:, kept]
            writing = [writing[line] for line in going_on]
        positions = positions + 1
        seen = torch.cat([seen, seen.new_ones(len(writing), 1)], dim=1)
        with attend_padded(model):
            out = model(
                input_ids=tokens.unsqueeze(1),
                attention_mask=seen,
                position_ids=positions.unsqueeze(2),
                past_key_values=cache,
                use_cache=True,
            )
        tokens = out.logits[:, -1].argmax(dim=-1)
    return answers


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
