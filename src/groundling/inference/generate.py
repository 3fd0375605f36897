"""Answers from a model: questions in, texts out, several at a time, in the order of the questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from groundling.inference.batch import Sample, pad_left
from groundling.inference.decode import read_prompts, write_answers
from groundling.model.attention import attend_padded
from groundling.model.processor import Processor


def generate_texts(
    model: PreTrainedModel,
    processor: Processor,
    prompts: Sequence[Sample],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """One text a prompt, in order, without its end token; cut at `max_new_tokens`. Decoding is greedy.

    Prompts that hold the same `patches` object have the model see that picture once. `batch_size` answers are written
    at once.
    """
    generate = _generate_in_step if is_spread(model) else _generate_by_rows
    with _ready_to_answer(model):
        answers = generate(model, processor, prompts, batch_size, max_new_tokens)
    decode = processor.tokenizer.decode
    return [str(decode(answer, skip_special_tokens=False, clean_up_tokenization_spaces=False)) for answer in answers]


def _generate_by_rows(
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    ends = [processor.end_token_id, processor.pad_token_id]
    for row in plan_rows(prompts, batch_size):
        read = read_prompts(model, processor, [prompts[place] for place in row])
        for start in range(0, len(row), batch_size):
            places = range(start, min(start + batch_size, len(row)))
            found = write_answers(model, read, places, ends=ends, max_new_tokens=max_new_tokens)
            for place, answer in zip(places, found, strict=True):
                answers[row[place]] = answer
    return answers


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
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    """By transformers' own loop, which keeps devices in step until all are done; prompts of like length together."""
    answers: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place].input_ids))
    for start in range(0, len(by_length), batch_size):
        places = by_length[start : start + batch_size]
        found = _generate_batch(model, processor, [prompts[place] for place in places], max_new_tokens)
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
    return answers


def _generate_batch(
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], max_new_tokens: int
) -> list[list[int]]:
    batch = {name: value.to(model.device) for name, value in pad_left(prompts, processor).items()}
    inputs = processor.normalise(batch)
    ends = [processor.end_token_id, processor.pad_token_id]
    plan = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=processor.pad_token_id,
        use_cache=True,
    )
    with attend_padded(model):
        ids = model.generate(**inputs, generation_config=plan)  # type: ignore[operator]
    answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [answer[: next((place for place, token in enumerate(answer) if token in ends), None)] for answer in answers]


@contextmanager
def _ready_to_answer(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode; afterwards as it was before."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True
