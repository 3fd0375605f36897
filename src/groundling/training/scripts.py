"""Scripts that start a training on machines that SLURM or SkyPilot lends: `groundling train` once on each of them.

Nothing is started here, and no script holds a secret.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from groundling.settings import Launch

CORES_A_GPU = 8  # of which four load pictures

_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={machines}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cores}
#SBATCH --time={time}
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

# Two minutes before its time is up, or when the job is preempted, the training writes a checkpoint and ends with code
# 75; the job is then queued again, and goes on from there. Add your site's partition, account and environment.
set -u
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun --kill-on-bad-exit=1 bash -c {command} &
step=$!
stopped=0
stop() {{
    stopped=1
    kill -TERM "$step" # srun hands it on
}}
trap stop TERM
wait "$step"
code=$?
if [ "$stopped" -eq 1 ]; then # the signal has ended the wait, not the training
    wait "$step"
    code=$?
fi
if [ "$code" -eq 75 ] || {{ [ "$code" -ne 0 ] && [ "$stopped" -eq 1 ]; }}; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def start_command(launch: Launch, recipe: str, overrides: Sequence[str]) -> str:
    """The line that starts the training; of several machines, the one for the first."""
    where = "" if launch.machines == 1 else "NODE_RANK=0 MASTER_ADDR=FIRST_MACHINE "
    return f"{where}groundling {train_command(recipe, overrides)}"


def train_command(recipe: str, overrides: Sequence[str]) -> str:
    """What is run on each machine, behind `groundling`."""
    return shlex.join(["train", recipe, *overrides])


def slurm_script(
    launch: Launch, recipe: str, overrides: Sequence[str] = (), *, name: str, time: str = "24:00:00"
) -> str:
    """A script for sbatch: asks for the machines, starts the training on all of them, and queues itself again."""
    gpus = launch.processes or 1
    command = f"NODE_RANK=$SLURM_NODEID exec groundling {train_command(recipe, overrides)}"
    return _SLURM.format(
        name=_plain(name),
        machines=launch.machines,
        gpus=gpus,
        cores=CORES_A_GPU * gpus,
        time=time,
        command=shlex.quote(command),
    )


def sky_task(
    launch: Launch, recipe: str, overrides: Sequence[str] = (), *, name: str, accelerator: str, run_dir: Path
) -> str:
    """A SkyPilot task in YAML, for `sky launch` and, as it goes on with an unfinished run, `sky jobs launch`."""
    where = 'export NODE_RANK=$SKYPILOT_NODE_RANK MASTER_ADDR=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)'
    extras = "[deepspeed]" if launch.has_deepspeed else ""
    task = {
        "name": _plain(name),
        "resources": {
            "accelerators": f"{accelerator}:{launch.processes or 1}",
            "use_spot": False,
            "job_recovery": {"max_restarts_on_errors": 3},
        },
        "num_nodes": launch.machines,
        "workdir": ".",
        "setup": f'pip install "groundling{extras}"\n',
        "run": f"{where}\ngroundling {train_command(recipe, overrides)}\n",
    }
    note = (
        "# The work folder goes along, with recipe and records. A managed job (sky jobs launch) that loses its\n"
        f"# machines begins again on others; for it to go on, mount a bucket over {run_dir} (file_mounts).\n"
    )
    return note + yaml.safe_dump(task, sort_keys=False, width=1000)


def _plain(name: str) -> str:
    """As both schedulers take a job's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "training"
