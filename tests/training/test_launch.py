"""What a recipe's `launch` starts, and what is refused in its place."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch
import typer
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from groundling.cli import screen, training
from groundling.errors import SettingsError, TrainingError
from groundling.recipe import load_settings
from groundling.settings import Launch
from groundling.training import launch
from groundling.training.checkpoint import compare_recipes
from groundling.training.launch import (
    Meeting,
    find_meeting,
    has_lost_peer,
    launch_command,
    needs_launcher,
    refuse_other_launch,
)
from groundling.training.processes import refuse_other_state


def test_a_recipe_without_launch_starts_nothing() -> None:
    assert not needs_launcher(Launch(), {})


def test_what_a_launcher_started_starts_no_other() -> None:
    asked = Launch(processes=8)
    assert needs_launcher(asked, {})
    assert not needs_launcher(asked, {"RANK": "3"})
    assert not needs_launcher(asked, {"ACCELERATE_MIXED_PRECISION": "no"})


def test_one_machine() -> None:
    command = launch_command(Launch(processes=8), ["r.yaml", "train.epochs=2"])
    told = "-m torch.distributed.run --standalone --nproc_per_node 8 -m groundling train r.yaml train.epochs=2"
    assert command == [sys.executable, *shlex.split(told)]


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp2"])
def test_an_engine_brings_its_configuration(engine: str) -> None:
    command = launch_command(Launch.model_validate({"processes": 8, "engine": engine}), ["r.yaml"])
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    config = Path(command[command.index("--config_file") + 1])
    assert config.name == f"{engine}.yaml" and config.is_file()
    assert command[command.index("--num_processes") + 1] == "8"


def test_several_machines() -> None:
    meeting = Meeting("1", "10.0.0.1")
    command = shlex.join(launch_command(Launch(processes=8, machines=2), ["r.yaml"], meeting))
    assert "--nnodes 2 --node_rank 1 --nproc_per_node 8 --master_addr 10.0.0.1 --master_port 29500" in command
    command = shlex.join(launch_command(Launch(processes=8, machines=2, engine="zero3"), ["r.yaml"], meeting))
    assert "--num_processes 16 --num_machines 2 --machine_rank 1 --main_process_ip 10.0.0.1" in command
    assert "--main_process_port 29500 --deepspeed_multinode_launcher standard" in command


def test_machines_are_told_where_they_meet() -> None:
    two = Launch(machines=2)
    assert find_meeting(Launch(), {}) is None
    assert find_meeting(two, {"NODE_RANK": "0", "MASTER_ADDR": "host"}) == Meeting("0", "host", "29500")
    with pytest.raises(SettingsError, match=r"NODE_RANK and MASTER_ADDR are not set; .* NODE_RANK=0 to 1"):
        find_meeting(two, {})
    with pytest.raises(SettingsError, match="NODE_RANK is not set"):
        find_meeting(two, {"MASTER_ADDR": "host"})


def test_what_runs_is_held_against_what_was_asked_for() -> None:
    refuse_other_launch(Launch(), engine="zero3", processes=16)
    refuse_other_launch(Launch(processes=8, machines=2, engine="zero3"), engine="zero3", processes=16)
    with pytest.raises(SettingsError, match="launch asks for 1 x 8 processes, but 1 runs"):
        refuse_other_launch(Launch(processes=8), engine="ddp", processes=1)
    with pytest.raises(SettingsError, match=r"launch\.engine is zero3, but zero2 runs"):
        refuse_other_launch(Launch(processes=8, engine="zero3"), engine="zero2", processes=8)


def test_a_checkpoint_of_another_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").touch()
    refuse_other_state(tmp_path, "ddp")
    with pytest.raises(SettingsError, match="one process or ddp, and zero2 runs"):
        refuse_other_state(tmp_path, "zero2")
    (tmp_path / "global_step8").mkdir()
    refuse_other_state(tmp_path, "zero2")
    with pytest.raises(SettingsError, match="under zero, and fsdp2 runs"):
        refuse_other_state(tmp_path, "fsdp2")


def test_the_command_line_starts_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "_run_launcher", lambda _, options: started.append(options))
    monkeypatch.setenv("GROUNDLING_LAUNCHER", "")  # and put back afterwards
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        training.train("tiny", ["launch.processes=2"])
    assert ended.value.exit_code == 0 and signal.getsignal(signal.SIGTERM) == before
    assert started == [shlex.split("--standalone --nproc_per_node 2 -m groundling train tiny launch.processes=2")]
    assert f"-m torch.distributed.run {shlex.join(started[0])}" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(launch, "_run_launcher", lambda *_: None)
    assert launch.start(Launch(processes=4), ["tiny"]) == 0
    with pytest.raises(SettingsError, match=r"launch\.processes is 8, and this machine has 4 GPUs"):
        launch.start(Launch(processes=8), ["tiny"])


def fail(monkeypatch: pytest.MonkeyPatch, folder: Path, rank: int, exit_code: int) -> int:
    """What `start` makes of the failure of one process, whose own words are in the folder."""
    error_file = folder / str(rank) / "error.json"
    failure = ProcessFailure(local_rank=rank, pid=1, exitcode=exit_code, error_file=str(error_file))

    def run_launcher(*_: object) -> None:
        raise ChildFailedError("groundling", {rank: failure})

    monkeypatch.setattr(launch, "_run_launcher", run_launcher)
    return launch.start(Launch(processes=2), ["tiny"])


def tell(monkeypatch: pytest.MonkeyPatch, folder: Path, rank: int, message: str) -> None:
    file = folder / str(rank) / "error.json"
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    screen.fail(message, 1)


def test_a_process_that_spoke_is_not_told_of_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tell(monkeypatch, tmp_path, 0, "no such recipe")
    tell(monkeypatch, tmp_path, 1, "no such recipe")
    assert fail(monkeypatch, tmp_path, 0, 2) == 2
    assert fail(monkeypatch, tmp_path, 1, 2) == 2, "the first has said so"


def test_what_a_silent_process_failed_of_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tell(monkeypatch, tmp_path, 1, "the disk is full")
    assert capsys.readouterr().err == ""
    with pytest.raises(TrainingError, match="process 1: the disk is full"):
        fail(monkeypatch, tmp_path, 1, 1)


def test_what_only_tells_of_another_process_is_no_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both found in one look: the one that lost its peer has no words in a file of its own."""
    lost = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(tmp_path / "0" / "error.json"))
    killed = ProcessFailure(local_rank=1, pid=2, exitcode=-9, error_file=str(tmp_path / "1" / "error.json"))

    def run_launcher(*_: object) -> None:
        raise ChildFailedError("groundling", {0: lost, 1: killed})

    monkeypatch.setattr(launch, "_run_launcher", run_launcher)
    with pytest.raises(TrainingError, match="process 1 was ended by SIGKILL"):
        launch.start(Launch(processes=2), ["tiny"])


def test_a_lost_peer_is_told_from_an_error_of_ones_own() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2345")
    assert has_lost_peer(lost, {"RANK": "0"})
    assert not has_lost_peer(lost, {}), "one process has no peers"
    for text in (
        "Connection closed by peer",
        "[gloo/pair.cc:1] op.preamble.length <= op.nbytes",
        "shape '[2]' is invalid",
    ):
        assert not has_lost_peer(RuntimeError(text), {"RANK": "0"})


def test_a_killed_process_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="process 1 was ended by SIGKILL; the machine may have run out of memory"):
        fail(monkeypatch, tmp_path, 1, -9)


def test_a_run_may_go_on_by_another_launcher() -> None:
    before, now = load_settings("tiny"), load_settings("tiny", ["launch.processes=2"])
    assert compare_recipes(before, now) == []
