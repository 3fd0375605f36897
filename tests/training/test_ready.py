"""What a run has to begin with, and what it must not go on with. (End to end: `resume`.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundling.data.record import Record
from groundling.errors import SettingsError
from groundling.training.checkpoint import SAMPLE_FILE
from groundling.training.ready import refuse_other_sample, sign_sample

ASKED = [Record(question=f"how many are {number}", image=None, answer="one") for number in range(3)]


def begin_checkpoint(run: Path, *scored: int) -> Path:
    """A checkpoint that was measured at these steps, on ASKED."""
    checkpoint = run / "checkpoints" / "8"
    checkpoint.mkdir(parents=True)
    history = [{"loss": 1.0, "step": 1}, *({"eval_miou": 0.5, "step": step} for step in scored)]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": history}), encoding="utf-8")
    (checkpoint / SAMPLE_FILE).write_text(json.dumps(sign_sample(ASKED)), encoding="utf-8")
    return checkpoint


def test_scores_on_other_records_are_no_measure_for_later_ones(tmp_path: Path) -> None:
    checkpoint = begin_checkpoint(tmp_path, 4, 8)
    refuse_other_sample(checkpoint, ASKED)
    told = rf"8 was measured on 3 other records of data\.test than the 2 of now \(.*{SAMPLE_FILE}\)"
    with pytest.raises(SettingsError, match=told):
        refuse_other_sample(checkpoint, ASKED[:2])
    with pytest.raises(SettingsError, match="than the 3 of now"):
        refuse_other_sample(checkpoint, ASKED[::-1])


def test_without_scores_or_what_they_were_taken_on_nothing_is_refused(tmp_path: Path) -> None:
    refuse_other_sample(None, ASKED)
    refuse_other_sample(begin_checkpoint(tmp_path / "unscored"), ASKED[:2])
    checkpoint = begin_checkpoint(tmp_path / "old", 4)
    (checkpoint / SAMPLE_FILE).unlink()
    refuse_other_sample(checkpoint, ASKED[:2])
