"""The bundled model: small, whole, and made by the script that stands beside it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from groundling.errors import SettingsError
from groundling.evaluation.report import read_report
from groundling.inference.predict import load
from groundling.model.load import TINY_FOLDER, find_checkpoint, load_model
from groundling.tiny.build import build_processor
from groundling.tiny.demo import clear_folder, draw_records, run_demo
from groundling.tiny.exam import examine
from groundling.tiny.pretrain import pretrain
from groundling.tiny.scenes import draw_screen


def test_the_weights_are_small_and_load_strictly() -> None:
    assert sum(file.stat().st_size for file in TINY_FOLDER.iterdir()) <= 4_000_000
    model = load_model(find_checkpoint("tiny"), dtype=torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == 515_520


def test_its_contract_is_the_one_it_was_built_with() -> None:
    assert find_checkpoint("tiny").contract == build_processor().contract


def test_it_finds_shapes_on_scenes_that_it_has_never_seen() -> None:
    scores = examine(load("tiny"))
    assert scores.n == 400
    assert scores.metrics["acc@0.5"] >= 0.90
    assert scores.metrics["parse_rate"] == 1.0


@pytest.mark.parametrize("question", ["the flag icon", "zebra", "Where would you sit?", "this qwxyz please"])
def test_it_answers_in_form_to_words_that_it_does_not_know(question: str) -> None:
    answer = load("tiny").predict(draw_screen(np.random.default_rng(0)).picture, question)
    assert answer.flaw is None and len(answer.boxes) >= 1, answer.text


@pytest.mark.slow
def test_the_demo_teaches_it_what_it_did_not_know(tmp_path: Path) -> None:
    started = time.process_time()
    page = run_demo(tmp_path)
    assert time.process_time() - started <= 600
    before, after = (read_report(tmp_path / name) for name in ("before", "run/report"))
    assert before.metrics["acc@0.5"] <= 0.30 and after.metrics["acc@0.5"] >= 0.70
    assert before.ci95["acc@0.5"][1] < after.ci95["acc@0.5"][0], "the intervals are apart"
    assert page.read_text(encoding="utf-8").count("data:image") >= 20


def test_the_demo_clears_what_demos_have_made_and_nothing_else(tmp_path: Path) -> None:
    own, demo = tmp_path / "own", tmp_path / "demo"
    (own / "images").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"own is there already, and no demo has made it .*; name a new folder"):
        run_demo(own)
    clear_folder(demo)
    for kept in (own / "images/precious.png", demo / "notes.txt", demo / "before/report.json"):
        kept.parent.mkdir(exist_ok=True)
        kept.touch()
    with pytest.raises(SettingsError, match="own is there already"):
        run_demo(own)
    clear_folder(demo)
    assert (own / "images/precious.png").exists() and (demo / "notes.txt").exists()
    assert not (demo / "before").exists()


def test_the_schooling_is_repeatable(tmp_path: Path) -> None:
    for name in ("one", "other"):
        pretrain(tmp_path / name, steps=3)
    weights = [load_model(find_checkpoint(str(tmp_path / name)), dtype=torch.float32) for name in ("one", "other")]
    pairs = zip(weights[0].parameters(), weights[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_demos_records_are_in_the_pixels_of_their_pictures(tmp_path: Path) -> None:
    records = draw_records(tmp_path / "few.jsonl", pictures=3, seed=0)
    assert {(record.width, record.height) for record in records} == {(336, 336)}
    assert all(max(target.numbers) <= 336 for record in records for target in record.targets)
