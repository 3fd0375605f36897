"""Going on after a break: to the bit what the run would have become without it, or refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import Recipe, at_step, changed_weights, read_metrics, read_weights
from safetensors.torch import save_file

import groundling as gl
from groundling.training.checkpoint import list_checkpoints
from groundling.training.manifest import find_damage, write_manifest

TWELVE = {"max_steps": 12, "learning_rate": 1e-3}  # 20 records by 4: the sixth step is the first of the second epoch
CHANGES = {"flip": 0.5, "rotate": 0.5, "crop": 0.5, "scale": 0.5, "colour": 0.5, "jpeg": 0.5}
SAVED = {"save_every": 6, "log_every": 4}


def break_off(run: Path, at: str, other: Path) -> None:
    """A copy of a finished run, as a kill some steps after the checkpoint `at` would have left it.

    Its metrics.jsonl goes on for a while, a later checkpoint and `best` are half-written under the names that they have
    until they are whole, and nothing is final.
    """
    shutil.copytree(run, other)
    for folder in ("final", "report"):
        shutil.rmtree(other / folder, ignore_errors=True)
    for checkpoint in list_checkpoints(other):
        if int(checkpoint.name) > int(at):
            checkpoint.rename(checkpoint.with_name(f"checkpoint-{checkpoint.name}"))
            (checkpoint.with_name(f"checkpoint-{checkpoint.name}") / "optimizer.pt").write_bytes(b"half")
    (other / "best.partial").mkdir()
    with (other / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 12, "lo')


def go_on(recipe: Path, run: Path, tmp_path: Path, at: str = "6") -> Path:
    """The run of the recipe, broken off after a checkpoint and taken up again in a folder of its own."""
    other = tmp_path / "broken"
    break_off(run, at, other)
    return gl.train(recipe, f"run.dir={other}")


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(run)]


METHODS = {
    "full": {},
    "frozen": {"tune": {"freeze": ["vision", "merger"]}},
    "lora": {"tune": {"method": "lora", "lora": {"rank": 4, "dropout": 0.5, "parts": ["vision", "language"]}}},
    "accumulated": {"train": TWELVE | {"batch_size": 2, "accumulate": 2}},
    "checkpointed": {"train": TWELVE | {"gradient_checkpointing": True}},
    "packed": {"train": TWELVE | {"batch_size": 1, "pack_tokens": 300}},
    "with workers": {"train": TWELVE | {"workers": 1}},
    "augmented": {"augment": CHANGES},
    "augmented and packed": {"augment": CHANGES, "train": TWELVE | {"batch_size": 1, "pack_tokens": 300}},
    "augmented by workers": {"augment": CHANGES, "train": TWELVE | {"workers": 2}},
}


@pytest.mark.parametrize("method", METHODS)
def test_twelve_steps_are_six_and_six(recipe: Recipe, tmp_path: Path, method: str) -> None:
    file = recipe(**{"train": TWELVE, "run": SAVED} | METHODS[method])
    whole = gl.train(file)
    resumed = go_on(file, whole, tmp_path)
    assert not changed_weights(whole / "final", resumed / "final")
    assert changed_weights(whole / "checkpoints" / "6", resumed / "final"), "the last six steps were done"
    assert without_seconds(resumed) == without_seconds(whole)

    lines = read_metrics(resumed)
    assert [line["step"] for line in lines] == [4, 6, 8, 12], "every fourth, and the checkpoints"
    assert lines[1]["seconds"] == read_metrics(whole)[1]["seconds"] < lines[2]["seconds"], (
        "the clock goes on from there"
    )
    assert not [*resumed.glob("*.partial"), *resumed.glob("checkpoints/checkpoint-*")], "swept away"


def test_changes_are_the_same_whoever_loads_the_pictures(recipe: Recipe) -> None:
    """Over three epochs, through which the same worker processes live."""
    train = TWELVE | {"max_steps": 15}
    plain = gl.train(recipe("plain", train=train))
    alone, helped = (
        gl.train(recipe(f"by {workers}", train=train | {"workers": workers}, augment=CHANGES)) for workers in (0, 2)
    )
    assert not changed_weights(alone / "final", helped / "final")
    assert changed_weights(alone / "final", plain / "final")


def write_patient(recipe: Recipe, scenes: Path) -> Path:
    """A recipe that learns to say that there is nothing, and ends two evaluations after it does."""
    return recipe(
        data={"train": str(scenes / "none.jsonl"), "test": str(scenes / "none.jsonl")},
        train=TWELVE | {"max_steps": 40, "learning_rate": 3e-3},
        evaluate={"every": 5, "metric": "none_recall", "patience": 2, "max_new_tokens": 4},
        run={"keep": 9},
    )


def test_evaluations_best_and_patience_survive_a_break(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    file = write_patient(recipe, scenes)
    whole = gl.train(file)
    scores = [line["none_recall"] for line in read_metrics(whole) if "none_recall" in line]
    assert max(scores) == 1 and scores[-3:] == [1, 1, 1] and len(scores) < 8, "learned, and stopped by patience"
    resumed = go_on(file, whole, tmp_path, at="10")
    assert without_seconds(resumed) == without_seconds(whole)
    for kept in ("best", "final"):
        assert not changed_weights(whole / kept, resumed / kept)


def test_a_run_begun_from_another_ones_checkpoint_has_scores_of_its_own(
    recipe: Recipe, scenes: Path, tmp_path: Path
) -> None:
    """Even where the other one had the highest of all: its best weights are not here, nor was it waited for them."""
    file = write_patient(recipe, scenes)
    whole = gl.train(file)
    named = Path(shutil.copytree(whole / "checkpoints" / "5", tmp_path / "5"))
    (named / "manifest.json").unlink()
    state = json.loads((named / "trainer_state.json").read_text(encoding="utf-8"))
    (measured,) = (line for line in state["log_history"] if "eval_none_recall" in line)
    measured["eval_none_recall"] = 2.0
    (named / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")

    fork = gl.train(file, f"run.resume={named}", f"run.dir={tmp_path / 'fork'}")

    assert [line["none_recall"] for line in read_metrics(fork) if "none_recall" in line] == [1, 1, 1]
    assert not changed_weights(fork / "checkpoints" / "10", fork / "best"), "the first of them"
    assert (fork / "checkpoints" / "20").is_dir(), "patience is over two evaluations after that"


def test_a_run_killed_before_its_last_line_needs_no_step_more(recipe: Recipe, tmp_path: Path) -> None:
    file = recipe(train=TWELVE | {"max_steps": 8}, run=SAVED)
    whole = gl.train(file)
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    shutil.rmtree(other / "final")
    gl.train(file, f"run.dir={other}")
    assert not changed_weights(whole / "final", other / "final")
    assert sorted(path.name for path in (other / "final").iterdir()) == sorted(
        path.name for path in (whole / "final").iterdir()
    )
    assert read_metrics(other) == read_metrics(whole)


def test_a_checkpoint_by_name_starts_a_folder_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    file = recipe(train=TWELVE, run=SAVED)
    whole = gl.train(file)
    fork = gl.train(file, f"run.resume={whole}/checkpoints/6", f"run.dir={tmp_path / 'fork'}")
    assert not changed_weights(whole / "final", fork / "final")
    with pytest.raises(gl.SettingsError, match="is finished"):
        gl.train(file, f"run.resume={whole}/checkpoints/6")
    shutil.rmtree(whole / "final")
    with pytest.raises(gl.SettingsError, match="later ones: 12; move them away"):
        gl.train(file, f"run.resume={whole}/checkpoints/6")
    with pytest.raises(gl.SettingsError, match="of another run"):
        gl.train(file, f"run.resume={whole}/checkpoints/6", f"run.dir={tmp_path}")


def test_how_often_is_what_the_recipe_says_and_not_the_checkpoint(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    whole = gl.train(recipe(train=TWELVE, run={"save_every": 6, "log_every": 6, "keep": 9}))
    often = {"save_every": 2, "log_every": 1, "keep": 9}
    data = {"train": str(scenes / "train.jsonl"), "test": str(scenes / "test.jsonl")}
    asking = {"every": 2, "max_new_tokens": 4}
    file = recipe("often", train=TWELVE, run=often, data=data, evaluate=asking)
    fork = gl.train(file, f"run.resume={whole}/checkpoints/6", f"run.dir={tmp_path / 'fork'}")
    assert [path.name for path in list_checkpoints(fork)] == ["8", "10", "12"]
    lines = read_metrics(fork)
    assert [line["step"] for line in lines if "loss" in line and line["step"] > 6] == [7, 8, 9, 10, 11, 12]
    assert [line["step"] for line in lines if "miou" in line] == [6, 8, 10, 12], "first what was owed"


@pytest.mark.parametrize("length", [{"max_steps": 12}, {"max_steps": None, "epochs": 2.4}], ids=["steps", "epochs"])
def test_a_run_begun_from_a_named_checkpoint_is_gone_on_with_by_the_same_command(
    recipe: Recipe, tmp_path: Path, length: dict[str, Any]
) -> None:
    every = SAVED | {"log_every": 1}
    first = gl.train(recipe(train=TWELVE | {"max_steps": 6}, run=every))
    file = recipe("other", train=TWELVE | length, run=every)
    named, fork = f"run.resume={first}/checkpoints/6", tmp_path / "fork"
    whole = gl.train(file, named, f"run.dir={tmp_path / 'whole'}")
    for step in (8, 11):
        with at_step(step, partial(os.kill, os.getpid(), signal.SIGTERM)), pytest.raises(gl.PreemptedError):
            gl.train(file, named, f"run.dir={fork}")
    with pytest.raises(gl.SettingsError, match="of another run"):
        gl.train(file, named, f"run.dir={fork}", "train.schedule=linear")
    shutil.rmtree(first)
    gl.train(file, named, f"run.dir={fork}")
    assert without_seconds(fork) == without_seconds(whole)
    assert not changed_weights(whole / "final", fork / "final")
    with pytest.raises(gl.SettingsError, match="fork is finished"):
        gl.train(file, named, f"run.dir={fork}")


def test_a_run_begun_from_a_named_checkpoint_and_killed_before_its_first_begins_so_again(
    recipe: Recipe, tmp_path: Path
) -> None:
    first, fork = gl.train(recipe(train=TWELVE | {"max_steps": 6}, run=SAVED)), tmp_path / "fork"
    file, named = recipe("other", train=TWELVE | {"max_steps": 8}), f"run.resume={first}/checkpoints/6"
    whole = gl.train(file, named, f"run.dir={fork}")
    whole.rename(tmp_path / "whole")
    fork.mkdir()
    shutil.copy(tmp_path / "whole" / "recipe.yaml", fork)
    gl.train(file, named, f"run.dir={fork}")
    assert not changed_weights(tmp_path / "whole" / "final", fork / "final")


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("optimizer.pt", "the optimizer's state"),
        ("scheduler.pt", "the schedule's state"),
        ("rng_*", "the random states"),
    ],
)
def test_a_checkpoint_without_its_state_is_refused(recipe: Recipe, tmp_path: Path, pattern: str, what: str) -> None:
    run = tmp_path / "run"
    gl.train(recipe(train={"max_steps": 2}, run={"save_every": 2}))
    shutil.rmtree(run / "final")
    next((run / "checkpoints" / "2").glob(pattern)).unlink()
    (run / "checkpoints" / "2" / "manifest.json").unlink()  # as before there were any
    with pytest.raises(gl.SettingsError, match=f"2 lacks {what}, so the run cannot go on"):
        gl.train(recipe(train={"max_steps": 2}, run={"save_every": 2}))


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One byte of its weights has changed, which every reader would take for a weight; nothing is deleted."""
    file = recipe(train=TWELVE, run=SAVED | {"save_every": 3})
    whole = gl.train(file)
    other = tmp_path / "other"
    break_off(whole, "12", other)
    weights = other / "checkpoints" / "12" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    gl.train(file, f"run.dir={other}")
    assert "12 is damaged: model.safetensors has other content than was written; the run goes on from" in caplog.text
    assert sorted(path.name for path in (other / "checkpoints").iterdir()) == ["12", "12.damaged", "9"]
    assert (other / "checkpoints" / "12.damaged" / "model.safetensors").read_bytes() == changed
    assert find_damage(other / "checkpoints" / "12") is None
    assert not changed_weights(whole / "final", other / "final")


def test_a_run_without_a_checkpoint_that_is_whole_does_not_begin_anew_unasked(recipe: Recipe, tmp_path: Path) -> None:
    run, file = tmp_path / "run", recipe(train={"max_steps": 4}, run={"save_every": 2})
    gl.train(file)
    shutil.rmtree(run / "final")
    (run / "checkpoints" / "2" / "optimizer.pt").unlink()
    (run / "checkpoints" / "4" / "config.json").unlink()
    with pytest.raises(
        gl.SettingsError, match=r"4 is damaged: config\.json is missing\n.*2 is damaged: optimizer\.pt is"
    ):
        gl.train(file)
    with pytest.raises(gl.SettingsError, match=r"run\.resume is .*4, which is damaged: config\.json is missing"):
        gl.train(file, f"run.resume={run}/checkpoints/4")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_file_cut_short_of_a_checkpoint_without_manifest_is_told(recipe: Recipe, tmp_path: Path, name: str) -> None:
    kept, file = (
        tmp_path / "run" / "checkpoints" / "2",
        recipe(train={"max_steps": 3}, run={"save_every": 2, "keep": 9}),
    )
    gl.train(file)
    for folder in (tmp_path / "run" / "final", kept.with_name("3")):
        shutil.rmtree(folder)
    (kept / "manifest.json").unlink()
    (kept / name).write_bytes((kept / name).read_bytes()[:-100])
    with pytest.raises(gl.GroundlingError, match=r"checkpoints/2"):
        gl.train(file)


def test_another_number_of_processes_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gl.train(recipe(train={"max_steps": 2}, run={"save_every": 2}))
    shutil.rmtree(run / "final")
    kept = run / "checkpoints" / "2"
    (kept / "rng_state.pth").rename(kept / "rng_state_0.pth")
    shutil.copy(kept / "rng_state_0.pth", kept / "rng_state_1.pth")
    write_manifest(kept)
    with pytest.raises(gl.SettingsError, match="written by 2 processes, and now there are 1"):
        gl.train(recipe(train={"max_steps": 2}, run={"save_every": 2}))


def test_a_checkpoint_of_another_engine_is_refused_before_anything_is_written(recipe: Recipe, tmp_path: Path) -> None:
    """But where nothing is left to train its weights are all that is wanted."""
    file, other = recipe(train={"max_steps": 2}, run={"save_every": 2}), tmp_path / "other"
    kept = gl.train(file) / "checkpoints" / "2"
    (kept / "global_step2").mkdir()
    (kept / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"states")
    write_manifest(kept)
    with pytest.raises(gl.SettingsError, match="2 was written under zero1 or zero2, and ddp runs"):
        gl.train(file, f"run.resume={kept}", f"run.dir={other}", "train.max_steps=4")
    assert not other.exists()
    assert not changed_weights(kept, gl.train(file, f"run.resume={kept}", f"run.dir={other}") / "final")


def test_a_run_killed_before_its_report_gets_one(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    settings = {"data": {"test": str(scenes / "test.jsonl")}, "train": {"max_steps": 2}, "run": {"save_every": 2}}
    run = gl.train(recipe(**settings))
    weights = (run / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "report")
    gl.train(recipe(**settings))
    assert (run / "report" / "report.json").is_file()
    assert (run / "final" / "model.safetensors").read_bytes() == weights
    with pytest.raises(gl.SettingsError, match="is finished"):
        gl.train(recipe(**settings))


def test_other_records_are_no_continuation(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    records = gl.read_records(scenes / "train.jsonl")
    gl.write_records(records, scenes / "changing.jsonl")
    file = recipe(data={"train": str(scenes / "changing.jsonl")}, train=TWELVE, run=SAVED)
    whole = gl.train(file)
    gl.write_records(records[:-1], scenes / "changing.jsonl")
    with pytest.raises(gl.SettingsError, match=r"other records .* 20 with hash .* now 19 with hash"):
        go_on(file, whole, tmp_path)


# ---- weights that do not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("wrong", ["missing", "unexpected"])
def test_a_checkpoint_with_other_weights_is_refused(recipe: Recipe, tmp_path: Path, method: str, wrong: str) -> None:
    file = recipe(train=TWELVE, run=SAVED, tune={"method": method})
    whole = gl.train(file)
    other = tmp_path / "other"
    break_off(whole, "6", other)
    weights = next((other / "checkpoints" / "6").glob("*model.safetensors"))
    tensors = read_weights(weights.parent)
    name = next(name for name in tensors if "layers.1.mlp.up_proj" in name)
    tensors[name.replace("layers.1.", "layers.7.")] = tensors[name].clone()
    if wrong == "missing":
        tensors = {kept: tensors[kept] for kept in tensors if "layers.7." not in kept and kept != name}
    save_file(tensors, weights, metadata={"format": "pt"})
    write_manifest(weights.parent)
    with pytest.raises(gl.ContractError, match=wrong):
        gl.train(file, f"run.dir={other}")


def test_a_checkpoint_of_the_other_method_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    whole, moved = gl.train(recipe(train=TWELVE, run=SAVED, tune={"method": "lora"})), tmp_path / "moved"
    with pytest.raises(gl.SettingsError, match=r"tune\.method: 'lora' in recipe\.yaml, now 'full'"):
        gl.train(recipe("other", train=TWELVE, run={"resume": str(whole / "checkpoints" / "6")}))
    shutil.copytree(whole / "checkpoints" / "6", moved)
    with pytest.raises(gl.SettingsError, match=r"tune\.method: 'lora' in recipe\.yaml, now 'full'"):
        gl.train(recipe("other", train=TWELVE, run={"resume": str(moved)}))
    forget_recipe(moved)
    with pytest.raises(gl.SettingsError, match=r"of method lora, and tune.method is full.*model.name="):
        gl.train(recipe("other", train=TWELVE, run={"resume": str(moved)}))


def forget_recipe(checkpoint: Path) -> None:
    """As checkpoints of before 2026-11-28 are: only their run folder told how they were trained."""
    (checkpoint / "recipe.yaml").unlink()
    write_manifest(checkpoint)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trainer": {"optim": "adafactor"}}, r"trainer\.optim: None in recipe\.yaml, now 'adafactor'"),
        ({"train": TWELVE | {"learning_rate": 5e-3}}, r"train\.learning_rate: 0\.001 in recipe\.yaml, now 0\.005"),
    ],
    ids=["optimizer", "rate"],
)
def test_a_checkpoint_that_was_copied_away_takes_its_recipe_along(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    """Its state would be read for another optimizer, or put the former rate back without a word."""
    whole = gl.train(recipe(train=TWELVE | {"max_steps": 6}, run=SAVED))
    shutil.copytree(whole / "checkpoints" / "6", tmp_path / "moved" / "8")
    with pytest.raises(gl.SettingsError, match=told):
        gl.train(recipe("other", **({"train": TWELVE} | change), run={"resume": str(tmp_path / "moved" / "8")}))


@pytest.mark.slow
def test_a_named_checkpoint_is_trained_on_for_as_long_as_the_recipe_says(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = gl.train(recipe(train={"max_steps": 4}, run={"save_every": 2}))
    named = [f"run.resume={whole}/checkpoints/4", f"run.dir={tmp_path / 'other'}"]
    with pytest.raises(gl.SettingsError, match=r"4, of 4 steps, and the recipe has 3: nothing would be trained"):
        gl.train(recipe(train={"max_steps": None, "epochs": 0.5}), *named)
    run = gl.train(recipe(train={"max_steps": 6}), *named)
    assert read_metrics(run)[-1]["step"] == 6 and changed_weights(whole / "final", run / "final")
    shutil.rmtree(run)
    run = gl.train(recipe(train={"max_steps": None, "epochs": 0.8}), *named)
    assert not changed_weights(whole / "final", run / "final"), "as many steps, counted in epochs"
    shutil.rmtree(run)
    with caplog.at_level(logging.INFO, "groundling"):
        run = gl.train(recipe(train={"max_steps": 4}), *named)
    assert not changed_weights(whole / "final", run / "final")
    assert f"nothing is left to train: the final weights are those of {whole / 'checkpoints' / '4'}" in caplog.text
    shutil.copytree(whole / "checkpoints" / "4", tmp_path / "moved")
    forget_recipe(tmp_path / "moved")
    with pytest.raises(gl.SettingsError, match=r"moved: its state does not fit this recipe"):
        gl.train(
            recipe(train={"max_steps": 6}, tune={"freeze": ["vision"]}),
            *(f"run.resume={tmp_path / 'moved'}", f"run.dir={tmp_path / 'last'}"),
        )


@pytest.mark.slow
def test_a_run_does_not_go_on_by_scores_on_other_test_records(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    test = scenes / "test-of-now.jsonl"
    lines = (scenes / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    test.write_text("".join(lines), encoding="utf-8")
    file = recipe(
        data={"train": str(scenes / "train.jsonl"), "test": str(test)},
        train={"max_steps": 4},
        evaluate={"every": 2, "max_new_tokens": 4},
    )
    whole, other = gl.train(file), tmp_path / "other"
    break_off(whole, "2", other)
    test.write_text("".join(lines[:3]), encoding="utf-8")
    with pytest.raises(gl.SettingsError, match=r"2 was measured on 6 other records of data\.test than the 3 of now"):
        gl.train(file, f"run.dir={other}")
    test.write_text("".join(lines), encoding="utf-8")
    assert not changed_weights(gl.train(file, f"run.dir={other}") / "best", whole / "best")


# ---- a real kill -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from(recipe: Recipe, tmp_path: Path) -> None:
    """SIGKILL at whatever moment after the first checkpoint; what is left goes on to the same weights."""
    train = TWELVE | {"max_steps": 60}
    whole = gl.train(recipe("whole", train=train, run={"save_every": 2, "keep": 2}))
    file = recipe("killed", train=train, run={"save_every": 2, "keep": 2})
    run = tmp_path / "killed"
    for _ in range(2):
        before = len(list_checkpoints(run)) and int(list_checkpoints(run)[-1].name)
        program = f"import groundling; groundling.train({str(file)!r})"
        process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            whole_ones = list_checkpoints(run)
            if whole_ones and int(whole_ones[-1].name) > before:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL
        state = json.loads((list_checkpoints(run)[-1] / "trainer_state.json").read_text(encoding="utf-8"))
        assert state["global_step"] < 60
    gl.train(file)
    assert not changed_weights(whole / "final", run / "final")
    assert without_seconds(run) == without_seconds(whole)
    assert all(torch.isfinite(tensor).all() for tensor in read_weights(run / "final").values())
