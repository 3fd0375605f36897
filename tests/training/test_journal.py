"""metrics.jsonl and curves.png, by hand: what a Trainer would tell the journal."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import read_metrics
from PIL import Image
from transformers import TrainerControl, TrainerState, TrainingArguments

from groundling.training.journal import Journal, draw_curves, read_lines


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "checkpoints"), use_cpu=True, report_to="none")


def tell(journal: Journal, arguments: TrainingArguments, step: int, logs: dict[str, Any], **state: Any) -> None:
    now = TrainerState(global_step=step, max_steps=20, epoch=step / 10, num_input_tokens_seen=step * 100, **state)
    journal.on_log(arguments, now, TrainerControl(), logs=logs)


TRAINING = {"loss": 2.5, "grad_norm": 1.5, "learning_rate": 1e-4, "epoch": 0.3}


def test_a_line_for_each_step_and_each_evaluation(tmp_path: Path, arguments: TrainingArguments) -> None:
    journal = Journal(tmp_path, resumed_step=0)
    tell(journal, arguments, 3, TRAINING)
    tell(journal, arguments, 3, {"eval_acc@0.5": 0.25, "eval_miou": 0.5, "num_input_tokens_seen": 300})
    tell(journal, arguments, 3, {"train_runtime": 9.0, "train_loss": 2.0})
    trained, evaluated = read_metrics(tmp_path)
    assert trained.pop("seconds") >= 0
    assert trained == {
        "step": 3, "epoch": 0.3, "loss": 2.5, "grad_norm": 1.5, "learning_rate": 1e-4, "tokens": 300
    }  # fmt: skip
    assert evaluated == {"step": 3, "epoch": 0.3, "acc@0.5": 0.25, "miou": 0.5}


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path, arguments: TrainingArguments) -> None:
    journal = Journal(tmp_path, resumed_step=0)
    tell(journal, arguments, 1, TRAINING | {"grad_norm": float("nan")})
    assert read_metrics(tmp_path)[0]["grad_norm"] is None


def test_other_processes_write_nothing(tmp_path: Path, arguments: TrainingArguments) -> None:
    journal = Journal(tmp_path, resumed_step=0)
    tell(journal, arguments, 1, TRAINING, is_world_process_zero=False)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_resumed_journal_drops_what_is_done_again_and_keeps_the_clock(
    tmp_path: Path, arguments: TrainingArguments
) -> None:
    lines = [{"step": step, "loss": 1.0, "tokens": 10 * step, "seconds": float(step)} for step in (2, 4, 6)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 7, "lo', encoding="utf-8")
    journal = Journal(tmp_path, resumed_step=4)
    journal.on_train_begin(arguments, TrainerState(global_step=4), TrainerControl())
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4]
    tell(journal, arguments, 6, TRAINING)
    assert 4.0 <= read_metrics(tmp_path)[-1]["seconds"] < 5.0


def test_there_is_a_line_wherever_there_is_a_checkpoint(tmp_path: Path, arguments: TrainingArguments) -> None:
    journal = Journal(tmp_path, resumed_step=0)
    for event in (journal.on_step_end, journal.on_epoch_end):
        saving, idle = TrainerControl(should_save=True), TrainerControl()
        event(arguments, TrainerState(), saving)
        event(arguments, TrainerState(), idle)
        assert saving.should_log and not idle.should_log


def test_watchers_are_told_how_long_it_takes(
    tmp_path: Path, arguments: TrainingArguments, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="groundling")
    journal = Journal(tmp_path, resumed_step=5, metric="f1@0.5")
    journal.started -= 10  # ten steps in ten seconds, ten more to go
    tell(journal, arguments, 15, TRAINING)
    tell(journal, arguments, 15, {"eval_acc@0.5": 0.25, "eval_f1@0.5": 0.5})
    assert caplog.messages[0] == "step 15/20  loss 2.5000  rate 1.00e-04  5 s left"
    assert caplog.messages[1] == "step 15/20  acc@0.5 0.250, f1@0.5 0.500"


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("count", [0, 1, 3, 400])
def test_curves_of_any_length_can_be_drawn(tmp_path: Path, count: int) -> None:
    trained: list[dict[str, Any]] = [{"step": step, "loss": 100 / step} for step in range(1, count + 1)]
    draw_curves(trained, tmp_path / "loss.png")
    draw_curves([*trained, {"step": 1, "miou": 0.5}, {"step": max(1, count), "miou": 0.7}], tmp_path / "both.png")
    loss, both = (Image.open(tmp_path / name) for name in ("loss.png", "both.png"))
    assert both.width > loss.width
    colored = np.ptp(np.asarray(loss.convert("RGB")).astype(int), axis=2) > 40
    assert colored.any() == (count > 0), "the curve is the only thing that is not grey"
