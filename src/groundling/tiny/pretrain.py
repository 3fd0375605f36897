"""How the bundled weights came to be: `python -m groundling.tiny.pretrain OUT [--steps N]`.

The tiny model is shown drawn scenes, never the same one twice, and learns to answer with the box of the object that is
asked for. Its schooling goes through the same samples, rows and attention as every training with groundling.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
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
from groundling.tiny.scenes import Ground, Scene, draw_shapes, panel, plain, shade
from groundling.tiny.words import LEADS, TRAILS, WORDINGS, draw_word

LEARNING_RATE = 2e-3
WARMUP = 100
DECAY = 0.3  # share of the steps at the end in which the learning rate falls to 0


class Stage(NamedTuple):
    """A stretch of the schooling."""

    until: float  # share of all steps
    batch: int  # questions a step; before anything is grounded, steps count and not questions
    most: int  # shapes in a scene
    grounds: tuple[Ground, ...]
    blobs: float  # share of scenes with a blob
    lists: float  # share of scenes of which all is to be found and named: seeing colours starts there


STAGES = (  # where a thing is comes before which one it is
    Stage(until=0.10, batch=16, most=1, grounds=(plain,), blobs=0.0, lists=0.4),
    Stage(until=0.30, batch=64, most=2, grounds=(shade, panel), blobs=0.1, lists=0.3),
    Stage(until=1.00, batch=64, most=4, grounds=(shade, panel), blobs=0.3, lists=0.2),
)


def main() -> None:
    """Run the schooling from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pretrain(options.out, steps=options.steps, seed=options.seed)


def pretrain(out: Path, *, steps: int, seed: int = 0, save_every: int = 1000) -> None:
    """Teach a new tiny model through STAGES in `steps` steps, and write its checkpoint to `out`."""
    processor = build_processor()
    model = build_model(processor, seed=seed).train()
    use_packed_attention(model)
    processors = word_processors(processor)
    optimizers = make_optimizers(model)
    schedules = [LambdaLR(optimizer, lambda step: _share_of_rate(step, steps)) for optimizer in optimizers]
    started, losses = time.process_time(), deque[float](maxlen=100)
    for step in range(1, steps + 1):
        stage = next(stage for stage in STAGES if step <= stage.until * steps)
        row = pack_row(draw_samples(processors, np.random.default_rng([seed, step]), stage), processor)
        labels = row.pop("labels")[0, 1:]
        learned = (labels != IGNORED).nonzero().flatten()
        loss = cross_entropy(model(**processor.normalise(row), logits_to_keep=learned).logits[0], labels[learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0:
            spent = round(time.process_time() - started)
            line = {"step": step, "loss": round(fmean(losses), 4), "cpu_seconds": spent}
            print(json.dumps(line), flush=True)
        if step % save_every == 0 or step == steps:
            save(model, processor, out)


def make_optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest: embeddings, the patches' projection, biases and norms.

    Muon (Jordan et al. 2024), its updates scaled to AdamW's size (arXiv 2502.16982), gets to a loss in some two thirds
    of the steps that AdamW alone takes.
    """
    matrices = {name for name, weight in model.named_parameters() if weight.ndim == 2 and "embed_tokens" not in name}
    theirs = [weight for name, weight in model.named_parameters() if name in matrices]
    rest = [weight for name, weight in model.named_parameters() if name not in matrices]
    return [
        torch.optim.Muon(theirs, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _share_of_rate(step: int, steps: int) -> float:
    """Linear warm-up, level, then linear down to 0."""
    return min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY * steps))


def word_processors(processor: Processor) -> list[Processor]:
    """The processor under its own prompt template, as often as under all of WORDINGS together."""
    others = [processor.with_contract(replace(processor.contract, prompt_template=wording)) for wording in WORDINGS]
    return [processor] * len(others) + others


def draw_samples(processors: Sequence[Processor], rng: np.random.Generator, stage: Stage) -> list[Sample]:
    """New scenes, a question about each of their objects, under one of the processors' templates each."""
    samples: list[Sample] = []
    while len(samples) < stage.batch:
        scene = draw_shapes(rng, most=stage.most, grounds=stage.grounds, blobs=stage.blobs)
        original, patches = Frame(*scene.picture.size), processors[0].see(scene.picture)
        records = [ask_about(scene, int(chosen), rng) for chosen in rng.permutation(len(scene.objects))]
        if rng.random() < stage.lists:
            records.append(ask_for_all(scene))
        for record in records:
            asked_by = processors[int(rng.integers(len(processors)))]
            samples.append(encode_seen(asked_by, record, original, patches))
    return samples[: stage.batch]


def ask_for_all(scene: Scene) -> Record:
    """The question for every object of the scene, answered from left to right."""
    placed = sorted(scene.objects, key=lambda one: one.box)
    targets = tuple(Target(box=one.box, label=one.name or "object") for one in placed)
    return Record(question="every object", image=None, targets=targets)


def ask_about(scene: Scene, index: int, rng: np.random.Generator) -> Record:
    """A question about one object of the scene, in one wording of many.

    By its shape alone now and then, where that names only one; a blob is asked for by a word without a meaning.
    """
    chosen = scene.objects[index]
    shape = chosen.name.split()[-1:]
    is_only = sum(placed.name.split()[-1:] == shape for placed in scene.objects) == 1
    name = " ".join(shape) if is_only and rng.random() < 0.2 else chosen.name
    name = name or draw_word(rng)
    lead, trail = ("the ", "") if rng.random() < 0.5 else (str(rng.choice(LEADS)), str(rng.choice(TRAILS)))
    return Record(question=f"{lead}{name}{trail}", image=None, targets=(Target(box=chosen.box, label=name),))


def save(model: torch.nn.Module, processor: Processor, out: Path) -> None:
    """Write weights, processor and contract, as every checkpoint has them."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)  # type: ignore[operator]
    processor.save(out)


if __name__ == "__main__":
    main()
