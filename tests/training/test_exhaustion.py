"""Where memory runs out, the run says where, and what would take less; it never changes a step by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn import Recipe

import groundling as gl
from groundling.errors import TrainingError
from groundling.training.exhaustion import explain_exhaustion, is_exhaustion
from groundling.training.records import RecordDataset
from groundling.training.trainer import GroundingTrainer

OF_A_GPU = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB"
OF_A_CPU = (
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
)


def run_out(monkeypatch: pytest.MonkeyPatch, error: Exception, *, at_step: int) -> None:
    """Have the loss of a step fail for lack of memory."""
    usual = GroundingTrainer.compute_loss

    def compute_loss(self: Any, *given: Any, **options: Any) -> Any:
        if self.state.global_step + 1 == at_step:
            given[1].pop("labels")
            raise error
        return usual(self, *given, **options)

    monkeypatch.setattr(GroundingTrainer, "compute_loss", compute_loss)


def test_a_step_without_room_names_its_row_and_three_remedies(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    usual = RecordDataset.__getitems__

    def note(self: Any, row: Any) -> Any:
        seen.append(row.numbers)
        return usual(self, row)

    monkeypatch.setattr(RecordDataset, "__getitems__", note)
    run_out(monkeypatch, torch.OutOfMemoryError(OF_A_GPU), at_step=3)
    with pytest.raises(TrainingError) as stopped:
        gl.train(recipe())
    lines = str(stopped.value).splitlines()
    assert lines[0].startswith("out of memory on process 0, at step 3, in a row of ")
    assert lines[0].endswith(": 2.50 GiB more were asked for") and "tokens with 4 pictures, records train-" in lines[0]
    named = lines[0].partition("records ")[2].partition(":")[0].split(", ")
    assert sorted(named) == sorted(f"train-{number}" for number in seen[2]), "loaded one row after the other"
    assert lines[2].startswith("  as it is: 1.0 GiB, an estimate")
    assert len(lines) == 6
    assert any("train.batch_size=2 train.accumulate=2: " in line for line in lines), "the global batch stays as it is"


def test_records_are_those_of_the_step_behind_an_uneven_epoch(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows an epoch in steps of two: the fourth step has the second epoch's first rows."""
    seen: list[list[int]] = []
    usual = RecordDataset.__getitems__

    def note(self: Any, row: Any) -> Any:
        seen.append(row.numbers)
        return usual(self, row)

    monkeypatch.setattr(RecordDataset, "__getitems__", note)
    run_out(monkeypatch, torch.OutOfMemoryError(OF_A_GPU), at_step=4)
    with pytest.raises(TrainingError) as stopped:
        gl.train(recipe(train={"batch_size": 4, "accumulate": 2, "epochs": 2}))
    named = str(stopped.value).splitlines()[0].partition("records ")[2].partition(":")[0].split(", ")
    assert sorted(named) == sorted(f"train-{number}" for number in [*seen[5], *seen[6]])


def test_another_error_stays_what_it_is() -> None:
    nobody: Any = None
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"), explain_exhaustion(nobody):
        raise RuntimeError("shapes do not match")
    with explain_exhaustion(nobody):
        pass


def test_what_is_no_lack_of_memory() -> None:
    assert is_exhaustion(torch.OutOfMemoryError(OF_A_GPU)) and is_exhaustion(RuntimeError(OF_A_CPU))
    assert not is_exhaustion(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_exhaustion(MemoryError())


@pytest.mark.slow
def test_outside_of_a_row_it_is_told_too(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError(OF_A_CPU)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingError, match=r"at step 1, outside of its rows: 99 bytes more were asked for"):
        gl.train(recipe())
