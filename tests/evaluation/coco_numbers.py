"""What pycocotools says of drawn sets of boxes, written to coco_numbers.json beside this file.

    python -m venv coco && coco/bin/pip install pycocotools && coco/bin/python tests/evaluation/coco_numbers.py

Nothing of groundling is used here, so that its numbers are held against others than its own: every class is looked for
in every picture, and pictures are numbered in the order of the SHA-256 of their name, question and id.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

Box = tuple[float, float, float, float]  # left, top, right, bottom
WIDTH, HEIGHT = 640, 480
QUESTION = "every cat, dog and mouse"
FILE = Path(__file__).with_suffix(".json")
SIZES = {"pixels": [0, 32**2, 96**2, 1e10], "shares": [0, 0.005, 0.05, 1e10]}


class Drawn(NamedTuple):
    """A picture with its true boxes, and the answered ones with their scores; labels are names of classes."""

    name: str
    truth: list[tuple[str, Box]]
    answered: list[tuple[str, Box, float]]


def draw_set(kind: str) -> list[Drawn]:
    """`scored` and `unscored`: few boxes of three classes; `crowded`: more answers than COCO looks at."""
    dice = random.Random(f"coco {kind}")
    crowd = 300 if kind == "crowded" else 0
    return [_draw(dice, f"{kind}-{number}", kind != "unscored", crowd) for number in range(40 if crowd == 0 else 3)]


def _draw(dice: random.Random, name: str, is_scored: bool, crowd: int) -> Drawn:
    labels = ("cat", "cat", "dog", "mouse") if not name.endswith("7") else ("cat",)
    truth = [(dice.choice(labels), _box(dice)) for _ in range(dice.choice([0, 1, 2, 3, 8]))]
    answered: list[tuple[str, Box, float]] = []
    for label, box in truth:
        for _ in range(dice.choice([0, 1, 1, 1, 2])):  # missed, found, found twice
            said = label if dice.random() < 0.85 else dice.choice(["cat", "dog", "mouse", "bird"])
            answered.append((said, _near(dice, box), _score(dice, is_scored)))
    for _ in range(crowd + dice.choice([0, 0, 1, 2])):
        answered.append((dice.choice(labels), _box(dice), _score(dice, is_scored)))
    dice.shuffle(answered)
    return Drawn(f"{name}.jpg", truth, answered)


def _score(dice: random.Random, is_scored: bool) -> float:
    return round(dice.random(), 1) if is_scored else 1.0  # one digit: many are equal


def _box(dice: random.Random) -> Box:
    width, height = dice.choice([12, 30, 60, 150, 300]), dice.choice([10, 30, 80, 200])
    left, top = dice.randrange(WIDTH - width), dice.randrange(HEIGHT - height)
    return left, top, left + width, top + height


def _near(dice: random.Random, box: Box) -> Box:
    reach = dice.choice([0.0, 0.02, 0.05, 0.12, 0.3])
    width, height = box[2] - box[0], box[3] - box[1]
    left, top, right, bottom = (
        edge + reach * side * dice.uniform(-1, 1) for edge, side in zip(box, (width, height) * 2, strict=True)
    )
    return left, top, max(right, left + 1), max(bottom, top + 1)


# ---- with pycocotools ------------------------------------------------------------------------------------------


def measure(drawn: list[Drawn], sizes: str) -> dict[str, object]:
    """AP of all sizes and of three, and of each class."""
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    area_of_picture = 1 if sizes == "pixels" else WIDTH * HEIGHT
    names = sorted({label for picture in drawn for label, _ in picture.truth})
    drawn = sorted(drawn, key=lambda picture: sha256(f"{picture.name}\n{QUESTION}\n{picture.name}".encode()).digest())
    truth: list[dict[str, object]] = []
    answered: list[dict[str, object]] = []
    for number, picture in enumerate(drawn):
        for rows, boxes in ((truth, picture.truth), (answered, picture.answered)):
            for label, (left, top, right, bottom), *score in boxes:
                if label not in names:
                    continue
                width, height = right - left, bottom - top
                row = {"id": len(rows) + 1, "image_id": number, "category_id": names.index(label), "iscrowd": 0}
                row |= {"bbox": [left, top, width, height], "area": width * height / area_of_picture}
                rows.append(row | ({"score": score[0]} if score else {}))
    with contextlib.redirect_stdout(io.StringIO()):
        datasets = []
        for rows in (truth, answered):
            data = COCO()
            data.dataset = {
                "images": [{"id": number} for number in range(len(drawn))],
                "categories": [{"id": number} for number in range(len(names))],
                "annotations": rows,
            }
            data.createIndex()
            datasets.append(data)
        evaluation = COCOeval(*datasets, "bbox")
        ends = SIZES[sizes]
        evaluation.params.areaRng = [[0, 1e10], *([low, high] for low, high in pairwise(ends))]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 2]  # IoU, recall, class, size; at 100 boxes

    def mean(values: np.ndarray) -> float | None:
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    found = {"map": precision[..., 0], "map50": precision[0, ..., 0], "map75": precision[5, ..., 0]}
    found |= {name: precision[..., number] for number, name in enumerate(("small", "medium", "large"), start=1)}
    by_class = {name: mean(precision[:, :, number, 0]) for number, name in enumerate(names)}
    return {name: mean(values) for name, values in found.items()} | {"classes": by_class}


def main() -> None:
    numbers = {
        kind: {sizes: measure(draw_set(kind), sizes) for sizes in SIZES} for kind in ("scored", "unscored", "crowded")
    }
    FILE.write_text(json.dumps(numbers, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
