"""Starting the processes that a recipe's `launch` asks for, and holding what runs against it.

Plain data parallelism is started by torchrun, other engines by `accelerate launch` with their shipped configuration. On
several machines the same command is given on each; NODE_RANK, MASTER_ADDR and MASTER_PORT tell each which it is and
where they meet, as with torchrun.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from groundling.errors import PREEMPTED, SettingsError, TrainingError
from groundling.recipe_file import SHIPPED
from groundling.settings import Launch

LEAST_TO_SAVE = 120  # seconds that processes get to end in, once they are asked to, however little they write
_A_STEP = 60  # seconds that a step may take, which is finished first
_A_BYTE = 2.2e-9  # seconds: written at 1 GB/s, hashed at 0.8 GB/s (docs/keeping.md)
_TORCHRUN = "torch.distributed.run"
_ACCELERATE = "accelerate.commands.launch"
_PORT = "29500"
_SPEAKER = "0"  # the process that tells its errors itself
_THREADS = "OMP_NUM_THREADS"
_LAUNCHER = "GROUNDLING_LAUNCHER"  # the process that has started this one, by number
_SIGNAL_AT_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of Linux's prctl
_PEER_IS_GONE = (  # what gloo and NCCL say of torch 2.13
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited or there was a network error",
)


class Meeting(NamedTuple):
    """Which of several machines this is, and where they meet."""

    rank: str
    address: str
    port: str = _PORT


def needs_launcher(launch: Launch, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the recipe asks for a launcher, and this process was not started by one."""
    is_launched = "RANK" in environment or "ACCELERATE_MIXED_PRECISION" in environment
    return not is_launched and launch != Launch()


def refuse_impossible_start(launch: Launch) -> None:
    """SettingsError where this machine has too few GPUs, none for FSDP2, or no DeepSpeed for its engines."""
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < (launch.processes or 1):
        raise SettingsError(f"launch.processes is {launch.processes}, and this machine has {gpus} GPUs; each takes one")
    if gpus == 0 and launch.engine == "fsdp2":  # accelerate 1.15 would run plain data parallelism, and not say so
        raise SettingsError(
            "launch.engine is fsdp2, which needs GPUs, and torch finds none here (`groundling info` tells what there "
            "is); on a CPU use launch.engine=ddp, or zero2 or zero3"
        )
    if launch.has_deepspeed and find_spec("deepspeed") is None:
        raise SettingsError(
            f'launch.engine is {launch.engine}, and DeepSpeed is not installed; pip install "groundling[deepspeed]"'
        )


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
    return [sys.executable, "-m", _launcher(launch), *_options(launch, arguments, meeting)]


def seconds_to_save(checkpoint: int) -> int:
    """How long it may take to finish a step and to write and hash a checkpoint of so many bytes, at least 120 s."""
    return max(LEAST_TO_SAVE, _A_STEP + math.ceil(_A_BYTE * checkpoint))


def start(
    launch: Launch, arguments: Sequence[str], meeting: Meeting | None = None, *, seconds: int = LEAST_TO_SAVE
) -> int:
    """Do what the command does; the exit code is that of the process which failed first, 0 where none did.

    TrainingError tells of that one what it could not tell itself. Asked to end, the processes are asked in turn, and
    have so many seconds. Where OMP_NUM_THREADS is not set each gets its share of the cores; launchers would give it
    one, and torchrun warn of that.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failure is told below
    os.environ[_LAUNCHER] = str(os.getpid())
    os.environ.setdefault(_THREADS, str(max(1, torch.get_num_threads() // (launch.processes or 1))))
    try:
        _run_launcher(launch, _options(launch, arguments, meeting), seconds)
    except ChildFailedError as error:
        return _explain(min(error.failures.items(), key=_by_cause))
    except SignalException as error:
        return PREEMPTED if error.sigval == signal.SIGTERM else 128 + error.sigval
    return 0


def _run_launcher(launch: Launch, options: list[str], seconds: int) -> None:
    if _launcher(launch) == _TORCHRUN:
        from torch.distributed import run

        run.run(_with_patience(run.parse_args(options), seconds))
    else:
        from accelerate.commands import launch as accelerate

        parsed = accelerate.launch_command_parser().parse_args(options)
        accelerate.launch_command(_with_patience(parsed, seconds))


def _with_patience(options: Any, seconds: int) -> Any:
    """A torch that does not know the option gives them 30 seconds."""
    options.shutdown_timeout = seconds
    return options


def _by_cause(failure: tuple[int, Any]) -> tuple[bool, int]:
    """Orders failures: one that has a cause of its own, then one that only tells of another; the earlier first."""
    _, found = failure
    has_cause = found.exitcode < 0 or Path(found.error_file).is_file()
    return not has_cause, found.timestamp


def _explain(failure: tuple[int, Any]) -> int:
    """The exit code of a process that has told why it failed, or a TrainingError where it could not."""
    rank, found = failure
    if found.exitcode < 0:
        killed = signal.Signals(-found.exitcode).name
        hint = "; the machine may have run out of memory" if killed == "SIGKILL" else ""
        raise TrainingError(f"process {rank} was ended by {killed}{hint}")
    file = Path(found.error_file)
    has_spoken = rank == 0 or (file.parents[1] / _SPEAKER / file.name).is_file()
    if not has_spoken and file.is_file():
        raise TrainingError(f"process {rank}: {found.message['message']}")
    return found.exitcode


# ---- a process that was launched -------------------------------------------------------------------------------


def end_with_launcher() -> None:
    """Have Linux send this process SIGTERM when `start` has gone, however it went; nothing for other launchers."""
    parent = os.environ.get(_LAUNCHER)
    if sys.platform != "linux" or "RANK" not in os.environ or parent is None:
        return
    ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has gone already
        os.kill(os.getpid(), signal.SIGTERM)


def has_lost_peer(error: RuntimeError, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launched process fails only because another one of its launch has ended."""
    is_distributed = "gloo" in str(error) or type(error).__name__.startswith("Dist")
    return "RANK" in environment and is_distributed and any(words in str(error) for words in _PEER_IS_GONE)


# ---- the launchers ---------------------------------------------------------------------------------------------


def _launcher(launch: Launch) -> str:
    return _TORCHRUN if launch.engine in (None, "ddp") else _ACCELERATE


def _options(launch: Launch, arguments: Sequence[str], meeting: Meeting | None) -> list[str]:
    options = _torchrun(launch, meeting) if _launcher(launch) == _TORCHRUN else _accelerate(launch, meeting)
    return [*options, "-m", "groundling", "train", *arguments]


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
    options += ["--num_machines", str(launch.machines), "--machine_rank", meeting.rank, *where]
    if launch.engine == "fsdp2":
        return options
    return [*options, "--deepspeed_multinode_launcher", "standard"]  # else one machine starts the others by ssh


def refuse_other_number(launch: Launch, environment: Mapping[str, str] = os.environ) -> None:
    """SettingsError where a launcher has started another number of processes; this can be told before all else."""
    if "WORLD_SIZE" in environment and (wrong := _other_number(launch, int(environment["WORLD_SIZE"]))):
        raise SettingsError(f"{wrong}. {_CURE}")


def refuse_other_launch(launch: Launch, *, engine: str, processes: int) -> None:
    """SettingsError where another engine or number of processes runs than the recipe asks for."""
    is_other = launch.engine is not None and launch.engine != engine
    wrong = [f"launch.engine is {launch.engine}, but {engine} runs"] if is_other else []
    wrong += filter(None, [_other_number(launch, processes)])
    if wrong:
        raise SettingsError(f"{'; '.join(wrong)}. {_CURE}")


def _other_number(launch: Launch, processes: int) -> str | None:
    if launch == Launch() or launch.devices == processes:
        return None
    asked = f"launch asks for {launch.machines} x {launch.processes or 1} processes"
    return f"{asked}, but {processes} {'runs' if processes == 1 else 'run'}"


_CURE = "`groundling train` alone, without torchrun or accelerate before it, starts what the recipe asks for"
