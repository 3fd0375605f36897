"""Answers from a model: questions in, texts out, several at a time, in the order of the questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from groundling.dialect.score import Written
from groundling.inference.batch import Sample, pad_left
from groundling.inference.decode import read_prompts, write_answers
from groundling.inference.lines import ForcedLine, FreeLine, Line, choose
from groundling.model.attention import attend_padded
from groundling.model.processor import Processor

_NEVER = 1_000_000  # tokens, where lines say themselves when they end


class Said(NamedTuple):
    """An answer as the tokens that spell it, without its end token; full: with more room it would have gone on."""

    tokens: list[Written]
    is_full: bool


def generate_tokens(
    model: PreTrainedModel,
    processor: Processor,
    prompts: Sequence[Sample],
    *,
    batch_size: int,
    max_new_tokens: int,
    free: bool = False,
) -> list[Said]:
    """One answer a prompt, in order. Decoding is greedy.

    An answer about a picture is held to the grammar of the contract's form, unless it is `free`: then it may say
    anything, and is cut at `max_new_tokens`. Prompts that hold the same `patches` object have the model see that
    picture once. `batch_size` answers are written at once.
    """
    lines = [_begin(processor, prompt, max_new_tokens, free=free) for prompt in prompts]
    with _ready_to_answer(model):
        if is_spread(model):
            _generate_in_step(model, processor, prompts, lines, batch_size)
        else:
            _generate_by_rows(model, processor, prompts, lines, batch_size)
    read = processor.vocabulary.read
    return [Said(list(map(Written, read(line.tokens), line.chances)), line.is_full) for line in lines]


def _begin(processor: Processor, prompt: Sample, most: int, *, free: bool) -> Line:
    if free or prompt.patches is None:
        return FreeLine([processor.end_token_id, processor.pad_token_id], most)
    frame = processor.family.text_frame(prompt.patches.seen)
    return ForcedLine(processor.vocabulary, processor.contract.answer_form, frame, processor.family.end_token, most)


def _generate_by_rows(
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], lines: Sequence[Line], batch_size: int
) -> None:
    for row in plan_rows(prompts, batch_size):
        read = read_prompts(model, processor, [prompts[place] for place in row])
        for start in range(0, len(row), batch_size):
            places = range(start, min(start + batch_size, len(row)))
            write_answers(model, processor, read, places, [lines[row[place]] for place in places])


def plan_rows(prompts: Sequence[Sample], batch_size: int) -> list[list[int]]:
    """Places of prompts that are read together: pictures of like length, with all questions about them.

    A row has `batch_size` prompts, or more where that many are about one picture.
    """
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(id(prompt if prompt.patches is None else prompt.patches), []).append(place)
    rows: list[list[int]] = []
    for group in sorted(groups.values(), key=lambda group: max(len(prompts[place].input_ids) for place in group)):
        if rows and len(rows[-1]) + len(group) <= batch_size:
            rows[-1] += group
        else:
            rows.append(list(group))
    return rows


# ---- over several devices --------------------------------------------------------------------------------------


def is_spread(model: PreTrainedModel) -> bool:
    """Whether a layer's weights come together from several devices, which then have to take every pass in step."""
    is_sharded = isinstance(next(model.parameters()), DTensor)
    return is_sharded or is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)


def _generate_in_step(
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], lines: Sequence[Line], batch_size: int
) -> None:
    """By transformers' own loop, which keeps devices in step until all are done; prompts of like length together."""
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place].input_ids))
    for start in range(0, len(by_length), batch_size):
        places = by_length[start : start + batch_size]
        _generate_batch(model, processor, [prompts[place] for place in places], [lines[place] for place in places])


def _generate_batch(
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], lines: Sequence[Line]
) -> None:
    batch = {name: value.to(model.device) for name, value in pad_left(prompts, processor).items()}
    ends = [processor.end_token_id, processor.pad_token_id]
    plan = GenerationConfig(
        do_sample=False,
        max_new_tokens=_NEVER,
        eos_token_id=ends,
        pad_token_id=processor.pad_token_id,
        use_cache=True,
    )
    writer = LogitsProcessorList([_LineWriter(lines, processor)])
    with attend_padded(model):
        model.generate(**processor.normalise(batch), generation_config=plan, logits_processor=writer)  # type: ignore[operator]


class _LineWriter(LogitsProcessor):
    """Writes lines inside transformers' loop, which gets one token of each a step, and the end token after it."""

    def __init__(self, lines: Sequence[Line], processor: Processor) -> None:
        self._lines = lines
        self._processor = processor
        self._coming: list[list[int]] = [[] for _ in lines]  # written, not yet told

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        asked = [row for row, line in enumerate(self._lines) if not self._coming[row] and line.choices is not None]
        if asked:
            chosen = choose(scores[asked], [self._lines[row] for row in asked], self._processor.vocabulary)
            for row, found in zip(asked, chosen, strict=True):
                self._coming[row] = self._lines[row].write(*found)
        told = [coming.pop(0) if coming else self._processor.end_token_id for coming in self._coming]
        only = torch.full_like(scores, -torch.inf)
        only[range(len(told)), told] = 0
        return only


@contextmanager
def _ready_to_answer(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, without gradients; afterwards as it was before.

    FSDP2 (torch 2.13) keeps what it brings a layer's weights together in: made in inference mode it trains no more.
    """
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad() if is_spread(model) else torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True
