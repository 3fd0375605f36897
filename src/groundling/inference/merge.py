"""Merging: a run or an adapter as one plain checkpoint in bfloat16, checked to answer as it did before.

An adapter's product is added in float32 and rounded once; beside its base in bfloat16 it is added to every activation
instead. So three things are looked at: merged and unmerged, both in float32, answer sample questions alike, or nothing
is written; what was written is to the bit the rounded weights; and where the rounding lets a close decision fall the
other way, it is said, not hidden.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from groundling.errors import SettingsError, TrainingError
from groundling.inference.predict import Grounder, Question
from groundling.model.contract import installed_versions
from groundling.model.load import Checkpoint, find_checkpoint, load_model, load_processor
from groundling.model.processor import Processor

log = logging.getLogger(__name__)


class Merged(NamedTuple):
    """What `merge` made."""

    folder: Path
    asked: int  # sample questions
    same: int  # of them answered to the letter as before


def merge(run: str, out: str | Path, *, questions: Sequence[Question] = ()) -> Merged:
    """Write the model as bf16 safetensors with processor and contract to `out`, and compare answers before and after.

    Both are asked `questions` in bfloat16. SettingsError where `out` holds something already, TrainingError where the
    merged model is not the one that was to be merged.
    """
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingsError(f"{folder} is not an empty folder; choose another one to merge into")
    checkpoint = find_checkpoint(run)
    processor = load_processor(checkpoint)
    before = _answer_texts(load_model(checkpoint, dtype=torch.bfloat16), processor, questions)
    merged = merge_weights(checkpoint, processor, questions).to(torch.bfloat16)  # type: ignore[arg-type]
    contract = dataclasses.replace(processor.contract, made_with=installed_versions())
    folder.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(folder)
    processor.with_contract(contract).save(folder)

    written = load_model(find_checkpoint(str(folder)), dtype=torch.bfloat16)
    _refuse_other_weights(written, merged.cpu(), folder)  # type: ignore[arg-type]
    after = _answer_texts(written, processor, questions)
    same = sum(old == new for old, new in zip(before, after, strict=True))
    if same < len(before):
        log.warning("%d of %d sample answers changed by rounding to bfloat16", len(before) - same, len(before))
    return Merged(folder, len(before), same)


def merge_weights(checkpoint: Checkpoint, processor: Processor, questions: Sequence[Question]) -> PreTrainedModel:
    """The model in float32, an adapter's product added to its base's weights.

    TrainingError where it then answers otherwise: sums in another order may turn one close decision in ten, not more.
    """
    model = load_model(checkpoint, dtype=torch.float32)
    if checkpoint.base is None:
        return model
    before = _answer_texts(model, processor, questions)
    merged = model.merge_and_unload()  # type: ignore[operator]
    after = _answer_texts(merged, processor, questions)
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    if changed > max(1, len(before) // 10):
        raise TrainingError(
            f"{checkpoint.folder}: {changed} of {len(before)} sample answers differ between the adapter on its base "
            "and the merged weights, both in float32; nothing was written"
        )
    return merged


def _refuse_other_weights(written: PreTrainedModel, merged: PreTrainedModel, folder: Path) -> None:
    """TrainingError where what was read back is not to the bit what was to be written."""
    expected = merged.state_dict()
    differing = [name for name, weight in written.state_dict().items() if not torch.equal(weight, expected[name])]
    if differing:
        raise TrainingError(f"{folder}: {len(differing)} weights were not read back as written, {differing[0]} first")


def _answer_texts(model: PreTrainedModel, processor: Processor, questions: Sequence[Question]) -> list[str]:
    """What the model answers, on the GPU where there is one."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    grounder = Grounder(model.to(place).eval(), processor, "merging")  # type: ignore[arg-type]
    return [found.answer.text for found in grounder.answer_all(questions, free=True)]
