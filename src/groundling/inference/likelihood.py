"""How likely a model finds given answers: one forward pass over packed rows, nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from groundling.inference.batch import IGNORED, Sample, pack_row
from groundling.model.attention import attend_packed
from groundling.model.processor import Processor

_ROW_TOKENS = 4096


class Likelihood(NamedTuple):
    """Of one answer with its end token: how many tokens, and their mean log-likelihood (natural logarithm, 0 at most).

    Its negative is the loss that training would have on it.
    """

    tokens: int
    mean: float


@torch.inference_mode()
def answer_likelihoods(model: PreTrainedModel, processor: Processor, samples: Sequence[Sample]) -> list[Likelihood]:
    """Of the samples' labelled tokens, in order. Neighbours that hold the same `patches` object share a picture."""
    with attend_packed(model):
        return [found for row in _fill_rows(samples) for found in _of_row(model, processor, row)]


def _fill_rows(samples: Sequence[Sample]) -> list[list[Sample]]:
    rows: list[list[Sample]] = []
    room = 0
    for sample in samples:
        if not rows or len(sample.input_ids) > room:
            rows.append([])
            room = _ROW_TOKENS
        rows[-1].append(sample)
        room -= len(sample.input_ids)
    return rows


def _of_row(model: PreTrainedModel, processor: Processor, samples: Sequence[Sample]) -> list[Likelihood]:
    row = pack_row(samples, processor)
    labels = row.pop("labels")[0, 1:].to(model.device)
    learned = (labels != IGNORED).nonzero().flatten()
    inputs = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in row.items()}
    outputs = model(**processor.normalise(inputs), logits_to_keep=learned)
    found = outputs.logits[0].float().log_softmax(-1).gather(1, labels[learned, None])[:, 0].cpu()
    ends = torch.tensor(row["layout"].lengths).cumsum(0)
    owners = torch.bucketize(learned.cpu() + 1, ends, right=True)  # a label stands one behind what foretells it
    return [
        Likelihood(int((owners == place).sum()), float(found[owners == place].double().mean()))
        for place in range(len(samples))
    ]
