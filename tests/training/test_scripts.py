"""Scripts for clusters: what a shell makes of them, without starting anything."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from groundling.errors import SettingsError
from groundling.recipe import load_settings
from groundling.settings import Launch
from groundling.training.scripts import Task, refuse_foreign_files, sky_task, slurm_script, start_command

ROOT = Path(__file__).parents[2]

CHANGES = ["tune.freeze=[vision]", "prompt.template=where is {question}?"]
LAUNCHES = [
    Launch(),
    Launch(processes=8),
    Launch(processes=8, machines=2),
    Launch(processes=8, engine="zero2"),
    Launch(processes=8, machines=4, engine="fsdp2"),
]


def run_slurm(script: str, tmp_path: Path, *, training: str) -> tuple[int, list[str]]:
    """The exit code of a script whose programs are stand-ins, and what they were called with."""
    calls = tmp_path / "calls"
    programs = {
        "scontrol": f'echo "scontrol $*" >> {calls}; echo first; echo second',
        "srun": f"{training}",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(script, encoding="utf-8")
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "USER": "me",
    }
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], env=environment, timeout=30, check=False)
    return done.returncode, calls.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("launch", LAUNCHES)
def test_slurm_scripts_are_sound(launch: Launch) -> None:
    script = slurm_script(launch, "my recipe.yaml", CHANGES, name="job", seconds=193)
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, flags=re.MULTILINE))
    assert (asked["nodes"], asked["gpus-per-node"]) == (str(launch.machines), str(launch.processes or 1))
    assert asked["ntasks-per-node"] == "1"
    assert asked["signal"] == "B:TERM@193"
    assert not re.search(r"token|secret|password", script.lower().replace("pack_tokens", ""))


def test_a_name_is_one_that_schedulers_take() -> None:
    assert "#SBATCH --job-name=my-recipe\n" in slurm_script(Launch(), "my recipe.yaml", name="my recipe", seconds=120)


def test_several_machines_are_told_where_they_meet() -> None:
    assert start_command(Launch(processes=2), "r.yaml", []) == "groundling train r.yaml"
    told = start_command(Launch(processes=2, machines=3), "r.yaml", [])
    assert told == "NODE_RANK=0 MASTER_ADDR=FIRST_MACHINE groundling train r.yaml"


def test_a_training_that_was_stopped_is_queued_again(tmp_path: Path) -> None:
    script = slurm_script(Launch(processes=2, machines=2), "r.yaml", name="job", seconds=120)
    code, calls = run_slurm(script, tmp_path, training="exit 75")
    assert code == 75 and "scontrol requeue 7" in calls


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_training_that_ended_is_not(tmp_path: Path, code: int) -> None:
    found, calls = run_slurm(
        slurm_script(Launch(processes=2, machines=2), "r.yaml", name="job", seconds=120),
        tmp_path,
        training=f"exit {code}",
    )
    assert found == code and not any("requeue" in call for call in calls)


def test_the_signal_reaches_the_training_and_its_end_is_awaited(tmp_path: Path) -> None:
    heard = f"trap 'echo heard >> {tmp_path}/calls; sleep 0.3; exit 75' TERM"
    waiting = "kill -TERM $PPID; for i in $(seq 50); do sleep 0.1; done"
    script = slurm_script(Launch(processes=2, machines=2), "r.yaml", name="job", seconds=120)
    code, calls = run_slurm(script, tmp_path, training=f"{heard}; {waiting}")
    assert code == 75
    assert "heard" in calls and "scontrol requeue 7" in calls


# ---- SkyPilot --------------------------------------------------------------------------------------------------


def task_of(*changes: str, launch: Launch | None = None, recipe: str = "my recipe.yaml") -> tuple[Any, Task]:
    """The task as SkyPilot reads it, and as it was written."""
    settings = load_settings("textvqa-3b", changes).model_copy(update={"launch": launch or Launch()})
    task = sky_task(settings, recipe, changes, name="x", accelerator="H100")
    return yaml.safe_load(task.text), task


def command_of(task: Any) -> list[str]:
    return shlex.split(task["run"].splitlines()[-1])


@pytest.mark.parametrize("launch", LAUNCHES)
def test_sky_tasks_are_sound(launch: Launch) -> None:
    task, written = task_of(*CHANGES, launch=launch)
    assert task["resources"]["accelerators"] == f"H100:{launch.processes or 1}" and task["num_nodes"] == launch.machines
    assert subprocess.run(["bash", "-n"], input=task["run"].encode(), check=False).returncode == 0
    assert command_of(task)[-4:] == ["train", "my recipe.yaml", *CHANGES]
    assert ("[deepspeed]" in task["setup"]) == launch.has_deepspeed
    assert "NODE_RANK=$SKYPILOT_NODE_RANK" in task["run"]
    assert "setup: |\n  pip install" in written.text and "run: |\n  export NODE_RANK" in written.text
    assert written.notes == []


@pytest.mark.parametrize(
    ("changes", "extras"),
    [
        ([], ""),
        (["tune.method=qlora"], "[qlora]"),
        (["train.liger=true", "track=[swanlab,wandb]"], "[gpu,swanlab,wandb]"),
        (["trainer.optim=paged_adamw_8bit"], "[qlora]"),
        (["trainer.optim=adamw_torch_fused"], ""),
    ],
)
def test_all_that_a_recipe_needs_is_installed(changes: list[str], extras: str) -> None:
    assert task_of(*changes)[0]["setup"] == f'pip install "groundling{extras}"\n'
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {name for name in extras.strip("[]").split(",") if name} <= known.keys()


def test_what_lies_in_this_folder_is_named_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weighted = f"data.train=[{{path: {tmp_path}/data/a.jsonl, weight: 2}}, b.jsonl]"
    changes = [weighted, f"run.dir={tmp_path}/runs/a b", "train.epochs=1", f"model.name={tmp_path}/models/3b"]
    task, written = task_of(*changes, recipe=str(tmp_path / "r.yaml"))
    words = command_of(task)
    assert words[:4] == ["groundling", "train", "r.yaml", "train.epochs=1"] and str(tmp_path) not in written.text
    settings = load_settings("textvqa-3b", words[3:])
    assert [(str(source.path), source.weight) for source in settings.data.train] == [
        ("data/a.jsonl", 2),
        ("b.jsonl", 1),
    ]
    assert (str(settings.run.dir), settings.model.name) == ("runs/a b", "models/3b")
    assert written.notes == [] and "mount a bucket over runs/a b " in written.text


def test_a_folder_reached_by_a_link_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "link").symlink_to("work")
    monkeypatch.chdir(tmp_path / "link")
    changes = [f"model.name={tmp_path}/link/models/3b", f"run.dir={tmp_path}/work/runs/a"]
    task, written = task_of(*changes, recipe=f"{tmp_path}/link/r.yaml")
    assert command_of(task)[1:] == ["train", "r.yaml", "model.name=models/3b", "run.dir=runs/a"]
    assert written.notes == []


def test_what_lies_elsewhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task, written = task_of("model.name=/models/3b", "data.test=[../test.jsonl, data/here.jsonl]", recipe="/r.yaml")
    assert command_of(task)[2] == "/r.yaml"
    told = [note.partition(", outside of this folder")[0] for note in written.notes]
    assert told == ["the recipe is /r.yaml", "model.name is /models/3b", "data.test is ../test.jsonl"]
    assert all(f"# Note: {note}." in written.text for note in written.notes)


# ---- files -----------------------------------------------------------------------------------------------------


def test_only_scripts_of_ours_are_written_over(tmp_path: Path) -> None:
    ours, recipe = tmp_path / "job.sh", tmp_path / "r.yaml"
    ours.write_text(slurm_script(Launch(), "r.yaml", name="job", seconds=120), encoding="utf-8")
    (tmp_path / "task.yaml").write_text(task_of()[1].text, encoding="utf-8")
    refuse_foreign_files(ours, tmp_path / "task.yaml")
    refuse_foreign_files(None, tmp_path / "new.yaml")
    recipe.write_text("model: {name: tiny}", encoding="utf-8")
    with pytest.raises(
        SettingsError, match=r"r\.yaml is there already, and no script of `groundling plan`, or one of an earlier"
    ):
        refuse_foreign_files(recipe, None)
    with pytest.raises(SettingsError, match="is there already, and no regular file"):
        refuse_foreign_files(tmp_path, None)
    with pytest.raises(SettingsError, match="is named for two scripts"):
        refuse_foreign_files(ours, tmp_path / "." / "job.sh")
    with pytest.raises(SettingsError, match="there is no folder"):
        refuse_foreign_files(tmp_path / "none" / "job.sh", None)


def test_a_pipe_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: Path, *_: Any, **__: Any) -> str:
        raise AssertionError(f"{file} was read")

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    monkeypatch.setattr(Path, "read_text", read)
    for name in ("pipe", "link"):
        with pytest.raises(SettingsError, match=f"{name} is there already, and no regular file; name a file"):
            refuse_foreign_files(None, tmp_path / name)
