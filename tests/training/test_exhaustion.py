"""Where memory runs out, the run says where, and what would take less; it never changes a step by itself."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drawn import Recipe

import groundling as gl
from groundling.errors import TrainingError
from groundling.model.load import TINY_FOLDER
from groundling.model.processor import Processor
from groundling.recipe import load_settings
from groundling.training import reload, reports, trainer, weights
from groundling.training import train as train_module
from groundling.training.asking import keys_and_values, tell_asking_remedies
from groundling.training.exhaustion import explain_asking, explain_exhaustion, is_exhaustion
from groundling.training.memory import read_subject
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


def note_rows(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Numbers of the records of each row that is loaded, as they will be."""
    seen: list[list[int]] = []
    usual = RecordDataset.__getitems__

    def note(self: Any, row: Any) -> Any:
        seen.append(row.numbers)
        return usual(self, row)

    monkeypatch.setattr(RecordDataset, "__getitems__", note)
    return seen


def test_a_step_without_room_names_its_row_and_three_remedies(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = note_rows(monkeypatch)
    run_out(monkeypatch, torch.OutOfMemoryError(OF_A_GPU), at_step=3)
    with pytest.raises(TrainingError) as stopped:
        gl.train(recipe())
    lines = str(stopped.value).splitlines()
    assert lines[0].startswith("out of memory on process 0, at step 3, in a row of ")
    assert lines[0].endswith(": 2.50 GiB more were asked for") and "tokens with 4 pictures, records train-" in lines[0]
    named = lines[0].partition("records ")[2].partition(":")[0].split(", ")
    assert sorted(named) == sorted(f"train-{number}" for number in seen[2]), "loaded one row after the other"
    assert re.fullmatch(r"  as it is: 1,0\d\d MiB, an estimate for a GPU", lines[2])
    assert len(lines) == 6
    assert any("train.batch_size=2 train.accumulate=2: " in line for line in lines), "the global batch stays as it is"


def test_a_run_with_checkpoints_is_gone_on_with_as_it_is_told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what stands in the message: smaller rows, named with the checkpoint."""
    with monkeypatch.context() as patch:
        run_out(patch, torch.OutOfMemoryError(OF_A_GPU), at_step=3)
        lines = told_by(recipe(run={"save_every": 1}))
    resume = next(word for word in lines[-1].replace(",", "").split() if word.startswith("run.resume="))
    assert resume.endswith("checkpoints/2")
    changes = next(line for line in lines if "train.batch_size=2" in line).partition(":")[0].split()
    run = gl.train(recipe(), *changes, resume)
    assert (run / "final").is_dir()


def test_records_are_those_of_the_step_behind_an_uneven_epoch(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows an epoch in steps of two: the fourth step has the second epoch's first rows."""
    seen = note_rows(monkeypatch)
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


def once(monkeypatch: pytest.MonkeyPatch, place: object, name: str) -> None:
    """Have a function of a module fail for lack of memory, the first time that it is called."""
    usual = getattr(place, name)

    def fail(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(place, name, usual)
        raise torch.OutOfMemoryError(OF_A_GPU)

    monkeypatch.setattr(place, name, fail)


def told_by(file: Path, *changes: str) -> list[str]:
    with pytest.raises(TrainingError) as stopped:
        gl.train(file, *changes)
    return str(stopped.value).splitlines()


def test_without_room_for_the_model_its_training_is_to_take_less(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, weights, "load_model")
    lines = told_by(recipe())
    assert lines[0] == "out of memory on process 0, while the model was loaded: 2.50 GiB more were asked for"
    assert lines[1].startswith("what takes less, cheapest first")
    assert any("train.batch_size=2 train.accumulate=2: " in line for line in lines[3:])


def test_while_a_model_is_asked_fewer_questions_at_once_are_offered(recipe: Recipe, tiny_processor: Processor) -> None:
    settings, contract = load_settings(recipe(evaluate={"batch_size": 4})), tiny_processor.contract
    with pytest.raises(TrainingError) as asked, explain_asking(settings, contract, "after step 2", in_training=True):
        raise torch.OutOfMemoryError(OF_A_GPU)
    lines = str(asked.value).splitlines()
    assert lines[0].startswith("out of memory on process 0, while test records were asked after step 2: 2.50 GiB more")
    assert lines[1] == "what takes less, and learns the same:"
    assert [line.partition(":")[0].strip() for line in lines[2:6]] == [
        *("as it is", "evaluate.batch_size=2", "evaluate.batch_size=1", "evaluate.every=0")
    ]
    assert lines[6] == "no checkpoint had been written yet, so the same command begins anew"


def test_without_room_for_the_model_to_measure_no_fewer_questions_are_offered(
    recipe: Recipe, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the training the recipe can leave it out; after it the next start has the weights alone in memory."""
    file = recipe(data={"test": str(scenes / "test.jsonl")}, train={"max_steps": 1}, evaluate={"before": True})
    once(monkeypatch, reports, "load")
    assert told_by(file) == [
        "out of memory on process 0, while the model was loaded to be measured before the training: "
        "2.50 GiB more were asked for",
        "evaluate.before=false leaves that out",
        "no checkpoint had been written yet, so the same command begins anew",
    ]
    once(monkeypatch, reports, "load")
    lines = told_by(file, "evaluate.before=false")
    assert lines[0].startswith("out of memory on process 0, while the final weights were loaded to be measured: ")
    assert len(lines) == 2 and lines[1].endswith("checkpoints/1, and the same command goes on from it")


@pytest.mark.slow
def test_without_room_for_questions_fewer_are_asked_at_once(
    recipe: Recipe, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way, where the run goes on with what is offered, and at its end, where it was not trained for nothing."""
    test = {"test": str(scenes / "test.jsonl"), "train": str(scenes / "train.jsonl")}
    file = recipe(data=test, train={"max_steps": 2}, evaluate={"every": 1, "batch_size": 4}, run={"save_every": 1})
    once(monkeypatch, trainer, "ask_together")
    lines = told_by(file)
    assert lines[0].startswith("out of memory on process 0, while test records were asked after step 1: 2.50 GiB more")

    once(monkeypatch, train_module, "say")
    lines = told_by(file)
    assert lines[0].startswith("out of memory on process 0, while the final weights were saved and asked: ")
    assert lines[1].endswith("checkpoints/2, and the same command goes on from it")
    once(monkeypatch, reload, "say")
    assert told_by(file)[0].startswith(
        "out of memory on process 0, while the final weights were loaded again and asked"
    )
    once(monkeypatch, reports, "_measure")
    lines = told_by(file)
    assert lines[0].startswith("out of memory on process 0, while test records were asked after the training: ")
    assert lines[3].strip().startswith("evaluate.batch_size=2: ") and not any("every" in line for line in lines)

    run = gl.train(file, "evaluate.batch_size=1")
    assert (run / "report" / "report.json").is_file() and not list(run.glob("*.partial"))


def test_keys_and_values_by_hand(recipe: Recipe) -> None:
    text = {"num_hidden_layers": 3, "num_key_value_heads": 2, "hidden_size": 64, "num_attention_heads": 4}
    settings = load_settings(recipe(evaluate={"max_new_tokens": 12}))
    config: Any = SimpleNamespace(text_config=SimpleNamespace(**text))
    numbers = 2 * 3 * 2 * 16  # keys and values of three layers, two heads of 16 numbers
    tokens = 2 * (100 + 100) + 12  # of a picture and the words beside it, twice, and of the answer
    assert keys_and_values(config, settings, questions=5, max_tokens=100) == 5 * tokens * numbers * 4


def test_one_question_at_a_time_may_be_answered_in_fewer_tokens(recipe: Recipe) -> None:
    settings = load_settings(recipe(evaluate={"batch_size": 1, "max_new_tokens": 512}))
    config = read_subject(TINY_FOLDER).config
    lines = list(tell_asking_remedies(config, settings, max_tokens=64, in_training=False))
    assert [line.partition(":")[0] for line in lines] == ["as it is", "evaluate.max_new_tokens=256"]


@pytest.mark.slow
def test_outside_of_a_row_it_is_told_too(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError(OF_A_CPU)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingError, match=r"at step 1, outside of its rows: 99 bytes more were asked for"):
        gl.train(recipe())
