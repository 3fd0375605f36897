"""Whether weights that were written are the model that was trained: loaded again, they have to say the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from groundling.data.record import Record
from groundling.errors import GroundlingError, TrainingError
from groundling.geometry.images import open_image
from groundling.inference.batch import IGNORED, encode_record
from groundling.inference.predict import load
from groundling.model.attention import attend_packed
from groundling.model.processor import Processor
from groundling.training.exhaustion import is_exhaustion
from groundling.training.records import join_samples

_NEW_TOKENS = 64  # of the one answer; whether it is any good is for the report
_EXACT, _ROUNDED = 1e-3, 0.1  # of the logits' spread: sums in another order; and weights or arithmetic in bfloat16


class Said(NamedTuple):
    """What a model expects at each token of a record's true answer."""

    logits: torch.Tensor  # (tokens, vocabulary), float32 on the CPU
    is_exact: bool  # computed in float32


def choose_asked(test: Sequence[Record], train: Sequence[Record]) -> Record:
    """The first record with a picture, of those that are measured, else of those that are learned; else the first."""
    found = (record for record in itertools.chain(test, train) if record.image is not None)
    return next(found, None) or train[0]


def say(model: PreTrainedModel, processor: Processor, record: Record, max_pixels: int) -> Said:
    """What the model says to a record. Where its weights are spread over processes, each has to call this."""
    picture = None if record.image is None else open_image(record.image, max_pixels=max_pixels)
    row = join_samples([encode_record(processor, record, picture)], processor)
    labels = row.pop("labels")[0, 1:]
    learned = (labels != IGNORED).nonzero().flatten()
    place = next(model.parameters()).device
    inputs = {name: value.to(place) if isinstance(value, torch.Tensor) else value for name, value in row.items()}
    model.eval()
    with torch.no_grad(), attend_packed(model):
        outputs = model(**processor.normalise(inputs), logits_to_keep=learned.to(place))
    is_exact = all(weight.dtype == torch.float32 for weight in model.parameters())
    return Said(outputs.logits[0].float().cpu(), is_exact)


def refuse_other_model(folder: Path, record: Record, said: Said | None, *, max_pixels: int) -> None:
    """TrainingError where the weights in a folder cannot be loaded and asked, or say other than the model `said`.

    None where that model is gone: then they only have to be there whole, and to answer.
    """
    try:
        grounder = load(folder)
        found = say(grounder.model, grounder.processor, record, max_pixels)
        if record.image is not None:
            grounder.predict_many([(record.image, record.question)], max_new_tokens=_NEW_TOKENS)
    except (GroundlingError, OSError, RuntimeError) as error:
        if is_exhaustion(error):
            raise
        raise TrainingError(f"{folder}: what was saved cannot be loaded and asked: {error}") from error
    if not torch.isfinite(found.logits).all():
        raise TrainingError(f"{folder}: what was saved answers {record.place} with numbers that are none")
    if said is None:
        return
    limit = _EXACT if said.is_exact and found.is_exact else _ROUNDED
    apart = float((found.logits - said.logits).abs().mean() / said.logits.std())
    if not apart <= limit:
        raise TrainingError(
            f"{folder}: what was saved is not the model that was trained: asked {record.place}, its logits are "
            f"{apart:.2g} of their spread away from the trained model's, where {limit:g} is the most"
        )
