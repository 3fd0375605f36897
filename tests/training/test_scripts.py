"""Scripts for clusters: what a shell makes of them, without starting anything."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from groundling.settings import Launch
from groundling.training.scripts import sky_task, slurm_script, start_command

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
    script = slurm_script(launch, "my recipe.yaml", CHANGES, name="job")
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, flags=re.MULTILINE))
    assert (asked["nodes"], asked["gpus-per-node"]) == (str(launch.machines), str(launch.processes or 1))
    assert asked["ntasks-per-node"] == "1"
    assert asked["signal"] == "B:TERM@120"
    assert not re.search(r"token|secret|password", script.lower().replace("pack_tokens", ""))


def test_a_name_is_one_that_schedulers_take() -> None:
    assert "#SBATCH --job-name=my-recipe\n" in slurm_script(Launch(), "my recipe.yaml", name="my recipe")


def test_several_machines_are_told_where_they_meet() -> None:
    assert start_command(Launch(processes=2), "r.yaml", []) == "groundling train r.yaml"
    told = start_command(Launch(processes=2, machines=3), "r.yaml", [])
    assert told == "NODE_RANK=0 MASTER_ADDR=FIRST_MACHINE groundling train r.yaml"


def test_a_training_that_was_stopped_is_queued_again(tmp_path: Path) -> None:
    script = slurm_script(Launch(processes=2, machines=2), "r.yaml", name="job")
    code, calls = run_slurm(script, tmp_path, training="exit 75")
    assert code == 75 and "scontrol requeue 7" in calls


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_training_that_ended_is_not(tmp_path: Path, code: int) -> None:
    found, calls = run_slurm(
        slurm_script(Launch(processes=2, machines=2), "r.yaml", name="job"), tmp_path, training=f"exit {code}"
    )
    assert found == code and not any("requeue" in call for call in calls)


def test_the_signal_reaches_the_training_and_its_end_is_awaited(tmp_path: Path) -> None:
    heard = f"trap 'echo heard >> {tmp_path}/calls; sleep 0.3; exit 75' TERM"
    waiting = "kill -TERM $PPID; for i in $(seq 50); do sleep 0.1; done"
    script = slurm_script(Launch(processes=2, machines=2), "r.yaml", name="job")
    code, calls = run_slurm(script, tmp_path, training=f"{heard}; {waiting}")
    assert code == 75
    assert "heard" in calls and "scontrol requeue 7" in calls


@pytest.mark.parametrize("launch", LAUNCHES)
def test_sky_tasks_are_sound(launch: Launch) -> None:
    run = Path("runs/x")
    task = yaml.safe_load(sky_task(launch, "my recipe.yaml", CHANGES, name="x", accelerator="H100", run_dir=run))
    assert task["resources"]["accelerators"] == f"H100:{launch.processes or 1}" and task["num_nodes"] == launch.machines
    assert subprocess.run(["bash", "-n"], input=task["run"].encode(), check=False).returncode == 0
    assert shlex.split(task["run"].splitlines()[-1])[-4:] == ["train", "my recipe.yaml", *CHANGES]
    assert ("[deepspeed]" in task["setup"]) == launch.has_deepspeed
    assert "NODE_RANK=$SKYPILOT_NODE_RANK" in task["run"]
