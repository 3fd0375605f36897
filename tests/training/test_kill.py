"""SIGKILL at any moment: what is left is whole, and goes on to the same end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import Recipe, changed_weights, read_metrics

import groundling as gl
from groundling.recipe import load_settings
from groundling.settings import Settings
from groundling.training.checkpoint import (
    drop_old_checkpoints,
    find_resume,
    partial_name,
    put_back_former,
    put_in_place,
    sweep_partial,
)
from groundling.training.disk import write_whole
from groundling.training.manifest import find_damage

SOURCE = Path(gl.__file__).parents[1]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")  # Python's audit events of what changes a disk


def killed_before(number: int, write: Callable[[], None]) -> bool:
    """Write in a process of its own that is killed before a change of the disk, by number; False if it ended first."""
    process = os.fork()
    if not process:
        left = number

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES and not (event == "open" and arguments[1] == "r"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def write_step(settings: Settings, step: int) -> None:
    """What a run writes at a step, in its order: the recipe, the best weights, a checkpoint in an older one's place."""
    run = settings.run.dir
    write_whole(run / "recipe.yaml", settings.to_yaml())
    best, partial = run / "best", run / "checkpoints" / f"checkpoint-{step}"
    state = {"global_step": step, "max_steps": 12, "log_history": []}
    for folder, place in ((partial_name(best), best), (partial, run / "checkpoints" / str(step))):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(f"weights of {step}", encoding="utf-8")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name).write_text(f"{name} of {step}", encoding="utf-8")
        (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
        put_in_place(folder, place)
    drop_old_checkpoints(run, keep=1)


@needs_fork
def test_a_kill_before_any_change_of_the_disk_leaves_the_former_state_or_the_new_one(tmp_path: Path) -> None:
    """Exhaustive: before the first change, the second, and so on, until the writing comes to its end."""
    seen: list[tuple[int, int]] = []
    for number in range(1000):
        run = tmp_path / f"{number}"
        settings = Settings.model_validate(
            {"model": {"name": "tiny"}, "data": {"train": "a.jsonl", "test": "b.jsonl"}, "run": {"dir": run, "keep": 1}}
        )
        run.mkdir()
        write_step(settings, 1)
        was_killed = killed_before(number, lambda settings=settings: write_step(settings, 2))
        put_back_former(run)
        resume = find_resume(settings)
        sweep_partial(run)
        assert resume is not None and find_damage(resume) is None and find_damage(run / "best") is None
        assert not list(run.rglob("*.partial")) and not list(run.glob("checkpoints/checkpoint-*"))
        best = (run / "best" / "model.safetensors").read_text(encoding="utf-8")
        seen.append((int(best.removeprefix("weights of ")), int(resume.name)))
        write_step(settings, 3)
        assert find_resume(settings) == run / "checkpoints" / "3"
        if not was_killed:
            break
    assert len(seen) > 40, "changes that a kill may come before"
    assert seen == sorted(seen) and set(seen) == {(1, 1), (2, 1), (2, 2)}, "first the best weights, then the checkpoint"


@needs_fork
def test_a_kill_while_the_one_checkpoint_is_written_again_leaves_it(tmp_path: Path) -> None:
    """As by a run that was stopped twice in the evaluation of one step."""
    run = tmp_path / "run"
    settings = Settings.model_validate({"model": {"name": "tiny"}, "data": {"train": "a.jsonl"}, "run": {"dir": run}})
    run.mkdir()
    write_step(settings, 1)
    shutil.rmtree(run / "best")
    for number in range(1000):
        was_killed = killed_before(number, lambda: write_step(settings, 1))
        put_back_former(run)
        resume = find_resume(settings)
        sweep_partial(run)
        assert resume is not None and resume.name == "1" and find_damage(resume) is None
        if not was_killed:
            return
    raise AssertionError("never comes to its end")


# Each trial is a process that trains, forked off one that has done all importing. Every second one is killed before a
# change of the disk drawn by lot, the others some milliseconds after they have begun to save.
DRIVER = f"""
import os, random, signal, sys, threading, time
from pathlib import Path
import groundling as gl
from groundling.training.train import train
recipe, run, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
lot = random.Random(7)

def kill_at_change(number):
    left = number
    def count(event, arguments):
        nonlocal left
        if event in {CHANGES!r} and not (event == "open" and arguments[1] == "r"):
            left -= "checkpoints" in str(arguments[0]) or ".partial" in str(arguments[0])
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

def kill_in_saving(seconds):
    def watch():
        while not (list(run.glob("checkpoints/checkpoint-*")) or list(run.glob("*.partial/*"))):
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()

for trial in range(kills):
    process = os.fork()
    if not process:
        kill_at_change(lot.randrange(120)) if trial % 2 else kill_in_saving(lot.random() * 0.1)
        train(recipe)
        os._exit(0)
    lot.random(), lot.randrange(120)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print("trial", code, bool(list(run.glob("checkpoints/checkpoint-*")) or list(run.glob("*.partial"))), flush=True)
train(recipe)
"""


@needs_fork
@pytest.mark.slow
def test_a_run_killed_twenty_times_while_it_saves_comes_to_the_same_end(
    recipe: Recipe, scenes: Path, tmp_path: Path
) -> None:
    settings = {
        "data": {"test": str(scenes / "test.jsonl")},
        "train": {"max_steps": 40},
        "evaluate": {"every": 4, "sample": 2, "max_new_tokens": 2},
        "run": {"save_every": 1, "log_every": 1},
    }
    whole, file = gl.train(recipe("whole", **settings)), recipe("killed", **settings)
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(file), str(tmp_path / "killed"), "20"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    trials = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("trial ")]
    assert [code for code, _ in trials] == ["-9"] * 20
    assert sum(in_saving == "True" for _, in_saving in trials) >= 10
    run = load_settings(file).run.dir
    for kept in ("best", "final"):
        assert not changed_weights(whole / kept, run / kept) and find_damage(run / kept) is None
    lines = [
        [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(each)]
        for each in (whole, run)
    ]
    assert lines[0] == lines[1]
