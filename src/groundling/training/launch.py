"""How a recipe is started: the command, and scripts for SLURM and SkyPilot that start it on several machines.

Nothing is started here. One process needs no launcher; copies of the model side by side are torchrun's; ZeRO and FSDP
are accelerate's, by one of the files in `recipes/accelerate`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from groundling.errors import SettingsError
from groundling.recipe_file import SHIPPED

Engine = Literal["ddp", "zero2", "zero3", "fsdp2"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
CORES_A_GPU = 8  # of which four load pictures
PORT = 29500

_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={machines}
#SBATCH --ntasks-per-node={tasks}
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
    {stop}
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
_STOP_TASKS = 'kill -TERM "$step"'  # srun hands it on
# accelerate would give its processes 30 seconds: they are told themselves, by the command line that it gives them
_STOP_LAUNCHED = (
    "srun --overlap --ntasks-per-node=1 pkill -TERM -u \"$USER\" -f '^[^ ]*python[^ ]* -u -m groundling train'"
)


@dataclass(frozen=True)
class Launch:
    """How many devices train, and how they share the work. SettingsError for what cannot be."""

    gpus: int = 1  # of each machine, one process each
    machines: int = 1
    engine: Engine = "ddp"  # of no effect with one process

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.machines < 1:
            raise SettingsError(f"{self.gpus} GPUs on each of {self.machines} machines; expected at least one of each")
        if self.engine not in ENGINES:
            raise SettingsError(f"engine {self.engine!r}; expected {', '.join(ENGINES)}")

    @property
    def processes(self) -> int:
        """On all machines."""
        return self.gpus * self.machines

    @property
    def has_deepspeed(self) -> bool:
        """Whether it is DeepSpeed's engine."""
        return self.engine in ("zero2", "zero3")

    @property
    def is_plain(self) -> bool:
        """Whether one process trains alone, without an engine."""
        return self.processes == 1 and self.engine == "ddp"

    def describe(self) -> str:
        """In words."""
        if self.is_plain:
            return "one GPU"
        machines = f" on each of {self.machines} machines" if self.machines > 1 else ""
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}{machines}, {self.engine}"


def engine_file(engine: Engine) -> Path:
    """accelerate's configuration for an engine: the one in the current folder's recipes, else the installed one."""
    here = Path("recipes") / "accelerate" / f"{engine}.yaml"
    return here if here.is_file() else SHIPPED / "accelerate" / f"{engine}.yaml"


# ---- commands --------------------------------------------------------------------------------------------------


def train_command(recipe: str, overrides: Sequence[str]) -> str:
    """What is run in each process, behind `groundling` or `-m groundling`."""
    return shlex.join(["train", recipe, *overrides])


def launch_command(launch: Launch, recipe: str, overrides: Sequence[str] = ()) -> str:
    """The line that starts the training; on several machines to be run on each, with $MACHINE_RANK and $FIRST_HOST."""
    if launch.is_plain:
        return f"groundling {train_command(recipe, overrides)}"
    return _start(launch, recipe, overrides, rank="$MACHINE_RANK", host="$FIRST_HOST", port=str(PORT))


def _start(launch: Launch, recipe: str, overrides: Sequence[str], *, rank: str, host: str, port: str) -> str:
    several = launch.machines > 1
    if launch.engine == "ddp":
        options = [f"--nproc_per_node {launch.gpus}"]
        if several:
            options += [f"--nnodes {launch.machines}", f'--node_rank "{rank}"']
            options += [f'--master_addr "{host}"', f'--master_port "{port}"']
        starter = "torchrun"
    else:
        file = shlex.quote(str(engine_file(launch.engine)))
        options = [f"--config_file {file}", f"--num_processes {launch.processes}"]
        if several:
            options += [f"--num_machines {launch.machines}", f'--machine_rank "{rank}"']
            options += [f'--main_process_ip "{host}"', f'--main_process_port "{port}"']
            options += ["--deepspeed_multinode_launcher standard"] if launch.has_deepspeed else []
        starter = "accelerate launch"
    return f"{starter} {' '.join(options)} -m groundling {train_command(recipe, overrides)}"


# ---- scripts ---------------------------------------------------------------------------------------------------


def slurm_script(
    launch: Launch, recipe: str, overrides: Sequence[str] = (), *, name: str, time: str = "24:00:00"
) -> str:
    """A script for sbatch: asks for the machines, starts the training on all of them, and queues itself again.

    Copies of the model side by side are started by srun, a task for each GPU; ZeRO and FSDP by accelerate, a task for
    each machine.
    """
    if launch.engine == "ddp":
        ranks = "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS"
        inner = f"{ranks} LOCAL_WORLD_SIZE={launch.gpus} exec groundling {train_command(recipe, overrides)}"
    else:
        inner = _start(launch, recipe, overrides, rank="$SLURM_NODEID", host="$MASTER_ADDR", port="$MASTER_PORT")
    a_machine = launch.gpus if launch.engine == "ddp" else 1
    return _SLURM.format(
        name=name,
        machines=launch.machines,
        tasks=a_machine,
        gpus=launch.gpus,
        cores=CORES_A_GPU * launch.gpus // a_machine,
        time=time,
        command=shlex.quote(inner),
        stop=_STOP_TASKS if launch.engine == "ddp" else _STOP_LAUNCHED,
    )


def sky_task(
    launch: Launch, recipe: str, overrides: Sequence[str] = (), *, name: str, accelerator: str, run_dir: Path
) -> str:
    """A SkyPilot task in YAML, for `sky launch` and, as it goes on with an unfinished run, `sky jobs launch`."""
    command = (
        f"groundling {train_command(recipe, overrides)}"
        if launch.is_plain
        else _start(launch, recipe, overrides, rank="$SKYPILOT_NODE_RANK", host="$FIRST_HOST", port=str(PORT))
    )
    extras = "[deepspeed]" if launch.has_deepspeed else ""
    task = {
        "name": name,
        "resources": {
            "accelerators": f"{accelerator}:{launch.gpus}",
            "use_spot": False,
            "job_recovery": {"max_restarts_on_errors": 3},
        },
        "num_nodes": launch.machines,
        "workdir": ".",
        "setup": f'pip install "groundling{extras}"\n',
        "run": f'FIRST_HOST=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n{command}\n',
    }
    note = (
        "# The work folder goes along, with recipe and records. A managed job (sky jobs launch) that loses its\n"
        f"# machines begins again on others; for it to go on, mount a bucket over {run_dir} (file_mounts).\n"
    )
    return note + yaml.safe_dump(task, sort_keys=False, width=1000)
