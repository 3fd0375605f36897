"""The benchmarks run, on a CPU; what they measure is for BENCHMARKS.md."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import groundling as gl

BENCH = Path(__file__).resolve().parents[1] / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not here")

TINY = ("--device", "cpu", "--geometry", "tiny", "--steps", "1")


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_steps_of_all_arms_are_measured_and_come_to_one_loss():
    ended = run("gpu.py", *TINY, "--sizes", "112x84", "--questions", "2", "--pictures", "2")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("samples/s") == 8
    assert "varlen kernel: none" in ended.stdout or "not usable on a CPU" in ended.stdout
    assert "token_id" not in ended.stderr, "no warning about tokens outside the vocabulary"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*TINY, "--sizes", "280"), "'280' is no width and height in pixels, as 1024x768"),
        ((*TINY, "--sizes", "0x5"), "'0x5' is no width and height in pixels, as 1024x768"),
        (("--device", "cuda"), "torch finds no GPU; `--device cpu --geometry tiny --steps 1` shows that it runs"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    ended = run("gpu.py", *words)

    assert ended.returncode == 2
    assert said in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_all_ways_of_scoring_are_told_apart_on_the_same_boxes():
    ended = run("scores.py", "--pictures", "12", "--noise", "60")

    assert ended.returncode == 0, ended.stderr
    heading, _, *rows = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert heading.startswith("| the probability of | AP |")
    assert len(rows) == len(set(rows)) == 16
    assert "questions about 12 pictures" in ended.stdout


def test_average_precision_is_that_of_coco():
    """Boxes at random, several a label and picture; each label of each picture is a picture to faster-coco-eval."""
    scores = import_bench("scores")
    rng = np.random.default_rng(0)
    frame = gl.Frame(100, 100)
    rows, answers, truths = [], [], []
    for place in range(30):
        corners = rng.uniform(0, 60, size=(int(rng.integers(1, 6)), 2))
        true = np.concatenate([corners, corners + rng.uniform(10, 40, size=corners.shape)], axis=1)
        boxes = true[rng.integers(len(true), size=6)] + rng.normal(0, 3, size=(6, 4))
        labels = [["a", "b"][number] for number in rng.integers(2, size=len(true))]
        said = [["a", "b"][number] for number in rng.integers(2, size=6)]
        sure = rng.uniform(size=6)
        asked = scores.Asked(None, place, "", gl.Boxes(true, frame), labels)
        rows.append(scores.match(gl.Boxes(boxes, frame), said, sure, asked))
        answers += [
            (2 * place + "ab".index(label), box, score) for label, box, score in zip(said, boxes, sure, strict=True)
        ]
        truths += [(2 * place + "ab".index(label), box) for label, box in zip(labels, true, strict=True)]
    ranked = scores.Ranked(
        np.array([one[2] for one in answers]), np.concatenate(rows), np.zeros(len(answers), dtype=int)
    )

    found = scores.average_precision(ranked, np.ones(len(answers)), len(truths))

    assert found.tolist() == pytest.approx(coco_precision(truths, answers), abs=1e-9)
    assert 0.05 < found.mean() < 0.9


def coco_precision(truths: list[Any], answers: list[Any]) -> list[float]:
    """AP at each IoU by faster-coco-eval, of (picture, box) and (picture, box, score)."""
    from faster_coco_eval import COCO, COCOeval_faster

    def place(picture: int, box: np.ndarray) -> dict[str, Any]:
        left, top, right, bottom = box.tolist()
        bbox = [left, top, right - left, bottom - top]
        return {"image_id": picture, "category_id": 1, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}

    truth = COCO(
        {
            "images": [{"id": picture, "width": 100, "height": 100} for picture in range(60)],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [place(*one) | {"id": number} for number, one in enumerate(truths, start=1)],
        }
    )
    given = truth.loadRes([place(*one[:2]) | {"score": float(one[2])} for one in answers])
    judge = COCOeval_faster(truth, given, "bbox")
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, -1].mean(axis=1).tolist()


def import_bench(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_answers_together_are_those_of_a_loop_of_generate():
    ended = run("answers.py", "--pictures", "2", "--repeats", "1")

    assert ended.returncode == 0, ended.stderr
    assert "0 answers differ" in ended.stdout
