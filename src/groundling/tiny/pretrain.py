"""How the bundled weights came to be: `python -m groundling.tiny.pretrain OUT [--steps N]`.

The tiny model is shown drawn scenes, never the same one twice, and learns to answer with the box of the object that is
asked for. Its schooling goes through the same samples, rows and attention as every training with groundling.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from groundling.data.record import Record, Target
from groundling.geometry.frame import Frame
from groundling.inference.batch import IGNORED, Sample, encode_seen, pack_row
from groundling.model.attention import use_packed_attention
from groundling.model.processor import Processor
from groundling.tiny.build import build_model, build_processor
from groundling.tiny.scenes import SHAPES, Scene, draw_shapes

LEARNING_RATE = 2e-3
WARMUP = 100


class Stage(NamedTuple):
    """A stretch of the schooling."""

    until: float  # share of all steps
    batch: int  # questions a step; before anything is grounded, steps count and not questions
    most: int  # objects in a scene
    is_plain: bool  # grey ground: where a thing is comes before what it is


STAGES = (
    Stage(until=0.15, batch=16, most=1, is_plain=True),
    Stage(until=0.40, batch=16, most=3, is_plain=False),
    Stage(until=1.00, batch=32, most=4, is_plain=False),
)


def main() -> None:
    """Run the schooling from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pretrain(options.out, steps=options.steps, seed=options.seed)


def pretrain(out: Path, *, steps: int, seed: int = 0, save_every: int = 1000) -> None:
    """Teach a new tiny model through STAGES in `steps` steps, and write its checkpoint to `out`."""
    processor = build_processor()
    model = build_model(processor, seed=seed).train()
    use_packed_attention(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
    started = time.process_time()
    for step in range(1, steps + 1):
        stage = next(stage for stage in STAGES if step <= stage.until * steps)
        row = pack_row(draw_samples(processor, np.random.default_rng([seed, step]), stage), processor)
        labels = row.pop("labels")
        logits = model(**row).logits
        loss = cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(
                json.dumps(
                    {"step": step, "loss": round(loss.item(), 4), "cpu_seconds": round(time.process_time() - started)}
                )
            )
        if step % save_every == 0 or step == steps:
            save(model, processor, out)


def _share_of_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def draw_samples(processor: Processor, rng: np.random.Generator, stage: Stage) -> list[Sample]:
    """New scenes, a question about each of up to two objects a scene."""
    samples: list[Sample] = []
    while len(samples) < stage.batch:
        scene = draw_shapes(rng, most=stage.most, is_plain=stage.is_plain)
        patches = processor.see(scene.picture)
        for chosen in rng.permutation(len(scene.objects))[:2]:
            record = ask_about(scene, int(chosen), rng)
            samples.append(encode_seen(processor, record, Frame(*scene.picture.size), patches))
    return samples[: stage.batch]


def ask_about(scene: Scene, index: int, rng: np.random.Generator) -> Record:
    """A question about one object of the scene; by its shape alone now and then, where that names only one."""
    chosen = scene.objects[index]
    shape = chosen.name.split()[1]
    assert shape in SHAPES
    is_only = sum(placed.name.endswith(shape) for placed in scene.objects) == 1
    name = shape if is_only and rng.random() < 0.2 else chosen.name
    return Record(question=f"the {name}", image=None, targets=(Target(box=chosen.box, label=name),))


def save(model: torch.nn.Module, processor: Processor, out: Path) -> None:
    """Write weights, processor and contract, as every checkpoint has them."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)  # type: ignore[operator]
    processor.save(out)


if __name__ == "__main__":
    main()
