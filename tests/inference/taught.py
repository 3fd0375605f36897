"""A tiny model that knows three answers by heart, so that right answers can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from groundling.data.record import Record, Target
from groundling.inference.batch import IGNORED, encode_record, pack_row
from groundling.model.attention import use_packed_attention
from groundling.model.processor import Processor
from groundling.tiny.build import build_model
from groundling.tiny.scenes import draw_shapes


class Taught(NamedTuple):
    """A checkpoint, and the records that it was taught; their pictures are PNG files."""

    folder: Path
    records: list[Record]

    @property
    def questions(self) -> list[tuple[Path, str]]:
        return [(record.image, record.question) for record in self.records if record.image is not None]


def teach(processor: Processor, folder: Path) -> Taught:
    """A random tiny model, trained on the objects of two drawn scenes until it knows them; some seconds."""
    rng = np.random.default_rng(0)
    records, samples = [], []
    for number in range(2):
        scene, file = draw_shapes(rng, most=3), folder / f"{number}.png"
        scene.picture.save(file)
        for placed in scene.objects[:2]:
            target = Target(box=placed.box, label=placed.name)
            records.append(Record(question=f"the {placed.name}", image=file, targets=(target,)))
            samples.append(encode_record(processor, records[-1], scene.picture))
    model = build_model(processor).train()
    use_packed_attention(model)
    row = processor.normalise(pack_row(samples, processor))
    labels = row.pop("labels")[0, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loss = torch.inf
    for _ in range(400):
        found = cross_entropy(model(**row).logits[0, :-1], labels, ignore_index=IGNORED)
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (loss := found.item()) < 0.003:
            break
    assert loss < 0.003, "the tests that follow need a model that is sure of its answers"
    model.save_pretrained(folder)
    processor.save(folder)
    return Taught(folder, records)
