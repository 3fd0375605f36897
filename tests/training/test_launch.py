"""What a recipe's `launch` starts, and what is refused in its place."""

from __future__ import annotations

import logging
import math
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from published import write_published
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure

from groundling.cli import app, screen, training
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
    refuse_impossible_start,
    refuse_other_launch,
    refuse_other_number,
)
from groundling.training.processes import refuse_other_state


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `start` leaves in the environment is not there afterwards."""
    for name in ("GROUNDLING_LAUNCHER", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


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
    refuse_other_state(tmp_path, "ddp", processes=3)
    with pytest.raises(SettingsError, match="one process or ddp, and zero2 runs"):
        refuse_other_state(tmp_path, "zero2", processes=1)
    (tmp_path / "optimizer.pt").rename(tmp_path / "optimizer.bin")
    refuse_other_state(tmp_path, "fsdp2", processes=3)
    (tmp_path / "optimizer.bin").unlink()
    states = tmp_path / "global_step8"
    states.mkdir()
    for number in (0, 1):
        (states / f"bf16_zero_pp_rank_{number}_mp_rank_00_optim_states.pt").touch()
    refuse_other_state(tmp_path, "zero2", processes=2)
    refuse_other_state(tmp_path, "zero1", processes=2)
    for engine in ("fsdp2", "zero3"):
        with pytest.raises(SettingsError, match=f"under zero1 or zero2, and {engine} runs"):
            refuse_other_state(tmp_path, engine, processes=2)
    (states / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    refuse_other_state(tmp_path, "zero3", processes=2)
    with pytest.raises(SettingsError, match="under zero3, and zero2 runs"):
        refuse_other_state(tmp_path, "zero2", processes=2)


def test_a_state_in_pieces_is_for_as_many_processes(tmp_path: Path) -> None:
    (tmp_path / "global_step8").mkdir()
    for number in (0, 1):
        (tmp_path / "global_step8" / f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(SettingsError, match=r"under zero2 by 2 processes, and now there are 4, which .* its weights"):
        refuse_other_state(tmp_path, "zero2", processes=4)


def test_the_command_line_starts_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "_run_launcher", lambda _, options, seconds: started.append([*options, str(seconds)]))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        training.train("tiny", ["launch.processes=2"])
    assert ended.value.exit_code == 0 and signal.getsignal(signal.SIGTERM) == before
    line = "--standalone --nproc_per_node 2 -m groundling train tiny launch.processes=2"
    assert started == [[*shlex.split(line), "120"]]
    assert f"-m torch.distributed.run {line}" in capsys.readouterr().err


def test_a_large_checkpoint_is_given_the_time_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 s for the step; 3.75 billion numbers of 12 bytes at 2.2 s a GB."""
    assert launch.seconds_to_save(10**9) == launch.LEAST_TO_SAVE == 120
    given: list[int] = []
    monkeypatch.setattr(launch, "_run_launcher", lambda _, __, seconds: given.append(seconds))
    monkeypatch.setenv("GROUNDLING_LAUNCHER", "")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    folder = write_published(tmp_path / "3b", "3b", with_processor=False)
    with pytest.raises(typer.Exit):
        training.train("textvqa-3b", [f"model.name={folder}", "launch.processes=2"])
    assert given == [60 + math.ceil(2.2 * 3.754622976 * 12)] == [160]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    refuse_impossible_start(Launch(processes=4, engine="fsdp2"))
    with pytest.raises(SettingsError, match=r"launch\.processes is 8, and this machine has 4 GPUs"):
        refuse_impossible_start(Launch(processes=8))


def test_fsdp_without_a_gpu_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(launch, "_run_launcher", lambda *_: pytest.fail("it was started"))
    with pytest.raises(SettingsError, match=r"fsdp2, which needs GPUs, .* on a CPU use launch\.engine=ddp"):
        training.train("tiny", ["launch.processes=2", "launch.engine=fsdp2"])
    assert "starting" not in capsys.readouterr().err
    refuse_impossible_start(Launch(processes=2))


def test_an_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r'zero3, and DeepSpeed is not installed; pip install "groundling'):
        refuse_impossible_start(Launch(processes=2, engine="zero3"))
    refuse_impossible_start(Launch(processes=2))


@pytest.mark.parametrize(("processes", "share"), [(1, "7"), (2, "3"), (9, "1")])
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, processes: int, share: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(launch, "_run_launcher", lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch.start(Launch(processes=processes), ["tiny"])
    assert os.environ["OMP_NUM_THREADS"] == "5", "as the user wants it"
    del os.environ["OMP_NUM_THREADS"]
    launch.start(Launch(processes=processes), ["tiny"])
    assert os.environ["OMP_NUM_THREADS"] == share


def test_another_number_of_processes_is_refused_before_torch_is_loaded() -> None:
    """By hand under torchrun: the error stands there at once, from the process that speaks."""
    program = "import sys; from groundling.cli import main; sys.argv[1:] = {words!r}\n"
    program += "try: main()\nfinally: print('torch' in sys.modules)"
    words = ["train", "tiny", "launch.processes=3"]
    where = os.environ | {"RANK": "0", "WORLD_SIZE": "2"}
    del where["GROUNDLING_LAUNCHER"]
    command = [sys.executable, "-c", program.format(words=words)]
    done = subprocess.run(command, env=where, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr == (
        "error: launch asks for 1 x 3 processes, but 2 run. `groundling train` alone, without torchrun or accelerate "
        "before it, starts what the recipe asks for\n"
    )
    refuse_other_number(Launch(processes=3), {})
    refuse_other_number(Launch(processes=3), {"WORLD_SIZE": "3"})
    refuse_other_number(Launch(), {"WORLD_SIZE": "3"})


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


def test_torchrun_tells_an_error_as_it_is_and_not_of_its_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its block ends with what it finds in the file; of a form that it does not expect it warns."""
    tell(monkeypatch, tmp_path, 1, "the disk is full:\nfree some")
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(tmp_path / "1" / "error.json"))
    assert "traceback : the disk is full:\n  free some\n====" in str(ChildFailedError("groundling", {1: failure}))
    ErrorHandler().override_error_code_in_rootcause_data("", failure.error_file_data, 2)
    assert failure.error_file_data["message"]["errorCode"] == 2


def test_only_one_line_of_deepspeed_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell_of(message: str) -> bool:
        return app.is_news(logging.LogRecord("DeepSpeed", logging.WARNING, "", 0, message, None, None))

    nothing = "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not tell_of(nothing) and tell_of("the disk is full")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert tell_of(nothing), "torch has found one"


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
