"""Answers from a model: questions in, texts out, several at a time.

Decoding is greedy. Prompts of like length stand in one batch, padded on the left; the order of the questions is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel

from groundling.inference.batch import Sample, pad_left
from groundling.model.attention import padded_attention
from groundling.model.processor import Processor


def generate_texts(
    model: PreTrainedModel,
    processor: Processor,
    prompts: Sequence[Sample],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """One text a prompt, in order, without its end token; cut at `max_new_tokens`."""
    texts = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index].input_ids))
    with _ready_to_answer(model):
        for start in range(0, len(by_length), batch_size):
            chosen = by_length[start : start + batch_size]
            found = _generate_batch(model, processor, [prompts[index] for index in chosen], max_new_tokens)
            for index, text in zip(chosen, found, strict=True):
                texts[index] = text
    return texts


def _generate_batch(
    model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], max_new_tokens: int
) -> list[str]:
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
    ids = model.generate(**inputs, generation_config=plan)  # type: ignore[operator]
    answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
    kept = [answer[: next((place for place, token in enumerate(answer) if token in ends), None)] for answer in answers]
    return processor.tokenizer.batch_decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@contextmanager
def _ready_to_answer(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode with attention over padded batches; afterwards as it was before."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with padded_attention(model), torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True
