"""Merging: a run or an adapter as one plain checkpoint in bfloat16, checked to answer as it did before.

An adapter's product is added in float32 and rounded once; beside its base in bfloat16 it is added to every activation
instead. On some picture a close decision may fall the other way, so both answer sample questions, and where they differ
it is said, not hidden.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from groundling.errors import SettingsError
from groundling.inference.predict import Grounder, Question
from groundling.model.contract import installed_versions
from groundling.model.load import Checkpoint, find_checkpoint, load_model, load_processor

log = logging.getLogger(__name__)


class Merged(NamedTuple):
    """What `merge` made."""

    folder: Path
    asked: int  # sample questions
    same: int  # of them answered to the letter as before


def merge(run: str, out: str | Path, *, questions: Sequence[Question] = ()) -> Merged:
    """Write the model as bf16 safetensors with processor and contract to `out`, and compare answers before and after.

    Both are asked `questions` in bfloat16. SettingsError where `out` holds something already.
    """
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingsError(f"{folder} is not an empty folder; choose another one to merge into")
    checkpoint = find_checkpoint(run)
    before = _answer_texts(checkpoint, questions)
    _write_merged(checkpoint, folder)
    after = _answer_texts(find_checkpoint(str(folder)), questions)
    same = sum(old == new for old, new in zip(before, after, strict=True))
    if same < len(before):
        log.warning("%d of %d sample answers changed by rounding to bfloat16", len(before) - same, len(before))
    return Merged(folder, len(before), same)


def _write_merged(checkpoint: Checkpoint, folder: Path) -> None:
    """The checkpoint's weights, an adapter's in its base's, and its processor under a contract signed anew."""
    model = load_model(checkpoint, dtype=torch.float32)
    if checkpoint.base is not None:
        model = model.merge_and_unload()  # type: ignore[operator]
    processor = load_processor(checkpoint)
    contract = dataclasses.replace(processor.contract, made_with=installed_versions())
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[union-attr]
    processor.with_contract(contract).save(folder)


def _answer_texts(checkpoint: Checkpoint, questions: Sequence[Question]) -> list[str]:
    """What the checkpoint answers in bfloat16, on the GPU where there is one. Loads it, questions or none."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(checkpoint, dtype=torch.bfloat16).to(place).eval()  # type: ignore[arg-type]
    grounder = Grounder(model, load_processor(checkpoint), checkpoint.name)
    return [found.answer.text for found in grounder.answer_each(questions)]
