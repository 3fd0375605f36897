"""Commands and scripts: what a shell makes of them, without starting anything."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from groundling.recipe_file import SHIPPED
from groundling.training.launch import ENGINES, Launch, engine_file, launch_command, sky_task, slurm_script

CHANGES = ["tune.freeze=[vision]", "prompt.template=where is {question}?"]
LAUNCHES = [
    Launch(),
    Launch(8),
    Launch(8, 2),
    *(Launch(8, machines, each) for each in ENGINES[1:] for machines in (1, 4)),
]


@pytest.mark.parametrize("launch", LAUNCHES, ids=Launch.describe)
def test_a_command_trains_the_recipe_with_its_changes(launch: Launch) -> None:
    words = shlex.split(launch_command(launch, "my recipe.yaml", CHANGES))
    assert words[-4:] == ["train", "my recipe.yaml", *CHANGES]
    starter = "groundling" if launch.is_plain else "torchrun" if launch.engine == "ddp" else "accelerate"
    assert words[0] == starter


def test_engines_are_told_to_accelerate() -> None:
    words = shlex.split(launch_command(Launch(8, 2, "zero3"), "r.yaml"))
    options = dict(zip(words[2::2], words[3::2], strict=False))
    assert Path(options["--config_file"]).resolve() == (SHIPPED / "accelerate" / "zero3.yaml").resolve()
    assert options["--num_processes"] == "16" and options["--num_machines"] == "2"
    assert options["--deepspeed_multinode_launcher"] == "standard", "else it looks for a hostfile and pdsh"
    assert "--deepspeed_multinode_launcher" not in launch_command(Launch(8, 2, "fsdp2"), "r.yaml")


def test_the_file_of_an_engine_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(engine_file(engine).is_file() for engine in ENGINES)
    own = tmp_path / "recipes" / "accelerate" / "zero2.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert engine_file("zero2") == Path("recipes/accelerate/zero2.yaml"), "a checkout's own comes first"


def run_slurm(script: str, tmp_path: Path, *, training: str) -> tuple[int, list[str]]:
    """The exit code of a script whose programs are stand-ins, and what they were called with."""
    calls = tmp_path / "calls"
    programs = {
        "scontrol": f'echo "scontrol $*" >> {calls}; echo first; echo second',
        "srun": f'case "$*" in *pkill*) echo "told $*" >> {calls} ;; *) {training} ;; esac',
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


@pytest.mark.parametrize("launch", LAUNCHES, ids=Launch.describe)
def test_slurm_scripts_are_sound(launch: Launch) -> None:
    script = slurm_script(launch, "my recipe.yaml", CHANGES, name="job")
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, flags=re.MULTILINE))
    assert (asked["nodes"], asked["gpus-per-node"]) == (str(launch.machines), str(launch.gpus))
    assert asked["ntasks-per-node"] == (str(launch.gpus) if launch.engine == "ddp" else "1")
    assert asked["signal"] == "B:TERM@120"
    assert not re.search(r"token|secret|password", script.lower().replace("pack_tokens", ""))


def test_a_training_that_was_stopped_is_queued_again(tmp_path: Path) -> None:
    script = slurm_script(Launch(2, 2), "r.yaml", name="job")
    code, calls = run_slurm(script, tmp_path, training="exit 75")
    assert code == 75 and "scontrol requeue 7" in calls


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_training_that_ended_is_not(tmp_path: Path, code: int) -> None:
    found, calls = run_slurm(slurm_script(Launch(2, 2), "r.yaml", name="job"), tmp_path, training=f"exit {code}")
    assert found == code and not any("requeue" in call for call in calls)


@pytest.mark.parametrize(("launch", "ends_with"), [(Launch(2, 2), 75), (Launch(2, 2, "zero2"), 1)])
def test_the_signal_reaches_the_training_and_its_end_is_awaited(tmp_path: Path, launch: Launch, ends_with: int) -> None:
    """Under accelerate its processes' code 75 is lost; the job is queued again because it was told to stop."""
    heard = f"trap 'echo heard >> {tmp_path}/calls; sleep 0.3; exit {ends_with}' TERM"
    waiting = "kill -TERM $PPID; for i in $(seq 50); do sleep 0.1; grep -q told {0}/calls && exit {1}; done"
    script = slurm_script(launch, "r.yaml", name="job")
    code, calls = run_slurm(script, tmp_path, training=f"{heard}; {waiting.format(tmp_path, ends_with)}")
    assert code == ends_with
    assert "scontrol requeue 7" in calls
    assert any(call.startswith("heard" if launch.engine == "ddp" else "told") for call in calls)


@pytest.mark.parametrize("launch", LAUNCHES, ids=Launch.describe)
def test_sky_tasks_are_sound(launch: Launch) -> None:
    run = Path("runs/x")
    task = yaml.safe_load(sky_task(launch, "my recipe.yaml", CHANGES, name="x", accelerator="H100", run_dir=run))
    assert task["resources"]["accelerators"] == f"H100:{launch.gpus}" and task["num_nodes"] == launch.machines
    assert subprocess.run(["bash", "-n"], input=task["run"].encode(), check=False).returncode == 0
    assert shlex.split(task["run"].splitlines()[-1])[-4:] == ["train", "my recipe.yaml", *CHANGES]
    assert ("[deepspeed]" in task["setup"]) == launch.has_deepspeed
    if launch.machines > 1:
        assert "$SKYPILOT_NODE_RANK" in task["run"]
