"""How well a model finds coloured shapes on new scenes: `python -m groundling.tiny.exam [MODEL]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from groundling.data.record import Record, Target
from groundling.evaluation.metrics import Prediction, Scores, measure
from groundling.inference.predict import Grounder, Question, load
from groundling.tiny.pretrain import STAGES
from groundling.tiny.scenes import draw_shapes

EXAM_SEED = 20_000_000  # far from the seeds of the schooling


def examine(grounder: Grounder, *, scenes: int = 400) -> Scores:
    """Scores on new scenes as in the last stage of the schooling, one question about each, in the contract's words."""
    last = STAGES[-1]
    seeds = (np.random.default_rng(EXAM_SEED + number) for number in range(scenes))
    drawn = [draw_shapes(seed, most=last.most, grounds=last.grounds, blobs=last.blobs) for seed in seeds]
    asked = [Question(scene.picture, f"the {scene.objects[0].name}") for scene in drawn]
    answers = grounder.answer_all(asked, batch_size=64, max_new_tokens=48)
    predictions: list[Prediction] = []
    for number, (scene, question, found) in enumerate(zip(drawn, asked, answers, strict=True)):
        target = Target(box=scene.objects[0].box, label=scene.objects[0].name)
        image = Path(f"scene-{number}.png")  # a name of its own: intervals are drawn by picture
        record = Record(id=str(number), question=question.text, image=image, targets=(target,))
        predictions.append(Prediction(record, found.answer, found.original))
    return measure(predictions)


def main() -> None:
    """Print the scores of a model, the bundled one by default."""
    scores = examine(load(sys.argv[1] if len(sys.argv) > 1 else "tiny"))
    for name, value in scores.metrics.items():
        print(f"{name:12} {value:.3f}  {scores.ci95[name][0]:.3f} to {scores.ci95[name][1]:.3f}")


if __name__ == "__main__":
    main()
