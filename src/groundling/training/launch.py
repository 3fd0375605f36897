"""Starting the processes that a recipe's `launch` asks for, and holding what runs against it.

Plain data parallelism is started by torchrun, other engines by `accelerate launch` with their shipped configuration. On
several machines the same command is given on each; NODE_RANK, MASTER_ADDR and MASTER_PORT tell each which it is and
where they meet, as with torchrun.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from groundling.errors import SettingsError
from groundling.recipe_file import SHIPPED
from groundling.settings import Launch

_PORT = "29500"


class Meeting(NamedTuple):
    """Which of several machines this is, and where they meet."""

    rank: str
    address: str
    port: str = _PORT


def needs_launcher(launch: Launch, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the recipe asks for a launcher, and this process was not started by one."""
    is_launched = "RANK" in environment or "ACCELERATE_MIXED_PRECISION" in environment
    return not is_launched and launch != Launch()


def find_meeting(launch: Launch, environment: Mapping[str, str] = os.environ) -> Meeting | None:
    """Where the machines meet, None where there is one; SettingsError where the environment does not tell."""
    if launch.machines == 1:
        return None
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR") if not environment.get(name)]
    if missing:
        raise SettingsError(
            f"launch.machines is {launch.machines}, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set; give this command on each machine with "
            f"NODE_RANK=0 to {launch.machines - 1} and MASTER_ADDR=the address of machine 0 (MASTER_PORT is {_PORT} "
            "unless set)"
        )
    return Meeting(environment["NODE_RANK"], environment["MASTER_ADDR"], environment.get("MASTER_PORT") or _PORT)


def launch_command(launch: Launch, arguments: Sequence[str], meeting: Meeting | None = None) -> list[str]:
    """The command by this Python that trains with `arguments`, a recipe and its changes, as `launch` says."""
    module = "torch.distributed.run" if launch.engine in (None, "ddp") else "accelerate.commands.launch"
    options = _torchrun(launch, meeting) if module == "torch.distributed.run" else _accelerate(launch, meeting)
    return [sys.executable, "-m", module, *options, "-m", "groundling", "train", *arguments]


def _torchrun(launch: Launch, meeting: Meeting | None) -> list[str]:
    options = ["--nproc_per_node", str(launch.processes or 1)]
    if meeting is None:
        return ["--standalone", *options]
    where = ["--master_addr", meeting.address, "--master_port", meeting.port]
    return ["--nnodes", str(launch.machines), "--node_rank", meeting.rank, *options, *where]


def _accelerate(launch: Launch, meeting: Meeting | None) -> list[str]:
    config = SHIPPED / "accelerate" / f"{launch.engine}.yaml"
    options = ["--config_file", str(config), "--num_processes", str((launch.processes or 1) * launch.machines)]
    if meeting is None:
        return [*options, "--main_process_port", "0"]  # one that is free
    where = ["--main_process_ip", meeting.address, "--main_process_port", meeting.port]
    return [*options, "--num_machines", str(launch.machines), "--machine_rank", meeting.rank, *where]


def refuse_other_launch(launch: Launch, *, engine: str, processes: int) -> None:
    """SettingsError where another engine or number of processes runs than the recipe asks for."""
    wrong = []
    if launch.engine is not None and launch.engine != engine:
        wrong.append(f"launch.engine is {launch.engine}, but {engine} runs")
    wanted = launch.machines * (launch.processes or 1)
    if launch != Launch() and wanted != processes:
        asked = f"launch asks for {launch.machines} x {launch.processes or 1} processes"
        wrong.append(f"{asked}, but {processes} {'runs' if processes == 1 else 'run'}")
    if wrong:
        raise SettingsError(f"{'; '.join(wrong)}. `groundling train` starts what a recipe asks for")
