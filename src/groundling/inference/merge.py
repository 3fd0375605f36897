"""Merging: a run or an adapter as one plain checkpoint in bfloat16, checked to answer as it did before.

Weights of float32 lose digits in bfloat16, and an adapter's product is rounded once instead of twice; on some picture a
close decision may fall the other way. So both answer sample questions, and where they differ it is said, not hidden.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from groundling.dialect.answer import Answer
from groundling.errors import SettingsError
from groundling.inference.predict import Grounder, Question
from groundling.model.contract import installed_versions
from groundling.model.load import find_checkpoint, load_model, load_processor

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
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty; choose another folder to merge into")
    checkpoint = find_checkpoint(run)
    processor = load_processor(checkpoint)
    processor = processor.with_contract(dataclasses.replace(processor.contract, made_with=installed_versions()))
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    model = load_model(checkpoint, dtype=torch.float32)
    before = _ask(Grounder(model.to(place).eval(), processor, run), questions)  # type: ignore[arg-type]
    whole = model.to("cpu").merge_and_unload() if checkpoint.base is not None else model.to("cpu")  # type: ignore[operator]
    folder.mkdir(parents=True, exist_ok=True)
    whole.to(torch.bfloat16).save_pretrained(folder)
    processor.save(folder)

    saved = load_model(find_checkpoint(str(folder)), dtype=torch.bfloat16)
    after = _ask(Grounder(saved.to(place).eval(), processor, str(folder)), questions)  # type: ignore[arg-type]
    same = sum(old.text == new.text for old, new in zip(before, after, strict=True))
    if same < len(before):
        log.warning("%d of %d sample answers changed by rounding to bfloat16", len(before) - same, len(before))
    return Merged(folder, len(before), same)


def _ask(grounder: Grounder, questions: Sequence[Question]) -> list[Answer]:
    return [found.answer for found in grounder.answer_each(questions)]
