"""SIGTERM and Ctrl-C: the step is finished and saved, and the same command comes to the end of an unbroken run."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from drawn import Recipe, at_step, changed_weights, read_metrics

import groundling as gl
from groundling.training.checkpoint import list_checkpoints
from groundling.training.manifest import find_damage
from groundling.training.stop import StopAsked, StopRequest

SOURCE = Path(gl.__file__).parents[1]
terminate: Callable[[], None] = partial(os.kill, os.getpid(), signal.SIGTERM)
interrupt: Callable[[], None] = partial(os.kill, os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Tests that a shell runs in the background ignore Ctrl-C, and so would what is tested."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def handlers() -> list[Any]:
    return [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]


# ---- signals ---------------------------------------------------------------------------------------------------


def test_a_signal_is_noted_and_what_handled_it_before_does_so_again() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        stop = StopRequest()
        stop.leave_if_asked()
        with stop.listen(signal.SIGTERM):
            terminate()
            terminate()
        assert stop.signal == signal.SIGTERM and not heard
        with pytest.raises(StopAsked):
            stop.leave_if_asked(1, 2)
        terminate()
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_interrupt_stops_at_once_but_not_its_echo_from_a_launcher() -> None:
    stop = StopRequest()
    with stop.listen(signal.SIGINT):
        interrupt()
        interrupt()
        stop._since -= 3
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_a_signal_that_the_process_ignores_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest().listen(signal.SIGINT):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_than_the_main_one_changes_no_handler() -> None:
    found: list[list[Any]] = []

    def listen() -> None:
        with StopRequest().listen(signal.SIGTERM, signal.SIGINT):
            found.append(handlers())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [handlers()]


# ---- trainings -------------------------------------------------------------------------------------------------


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(run)]


def check_same_end(whole: Path, run: Path, *kept: str) -> None:
    assert without_seconds(run) == without_seconds(whole)
    for name in kept:
        assert not changed_weights(whole / name, run / name) and find_damage(run / name) is None


@pytest.mark.parametrize(
    ("act", "error"),
    [(terminate, gl.PreemptedError), (interrupt, KeyboardInterrupt)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_the_step_is_finished_and_saved(
    recipe: Recipe, tmp_path: Path, act: Callable[[], None], error: type[BaseException]
) -> None:
    settings = {"train": {"max_steps": 8, "workers": 1}, "run": {"log_every": 1}}
    whole, file, before = gl.train(recipe("whole", **settings)), recipe(**settings), handlers()
    run = tmp_path / "run"
    with (
        at_step(3, act),
        pytest.raises(error, match=r"after step 4; .*checkpoints/4 is whole, and the same command goes"),
    ):
        gl.train(file)
    assert handlers() == before
    assert [path.name for path in list_checkpoints(run)] == ["4"]
    assert not (run / "final").exists() and not list(run.rglob("*.partial")) and not (run / "running.lock").exists()
    gl.train(file)
    check_same_end(whole, run, "final")


@pytest.mark.parametrize("step", [3, 4], ids=["before an evaluation", "while it evaluates"])
def test_an_evaluation_that_was_due_is_made_up_for(recipe: Recipe, scenes: Path, tmp_path: Path, step: int) -> None:
    none = str(scenes / "none.jsonl")
    settings = {
        "data": {"train": none, "test": none},
        "train": {"max_steps": 10, "learning_rate": 3e-3},
        "evaluate": {"every": 4, "metric": "none_recall", "max_new_tokens": 4, "batch_size": 1},
        "run": {"log_every": 1},
    }
    whole, file = gl.train(recipe("whole", **settings)), recipe(**settings)
    with at_step(step, terminate), pytest.raises(gl.PreemptedError, match="after step 4"):
        gl.train(file)
    assert not (tmp_path / "run" / "best").exists(), "nothing was evaluated yet"
    gl.train(file)
    check_same_end(whole, tmp_path / "run", "best", "final")


def test_patience_that_ends_with_such_an_evaluation_needs_no_step_more(
    recipe: Recipe, scenes: Path, tmp_path: Path
) -> None:
    test = str(scenes / "test.jsonl")
    settings = {
        "data": {"test": test},
        "train": {"max_steps": 12},
        "evaluate": {"every": 4, "patience": 1, "metric": "miou", "max_new_tokens": 2},
        "run": {"log_every": 1},
    }
    whole, file = gl.train(recipe("whole", **settings)), recipe(**settings)
    assert read_metrics(whole)[-1]["step"] == 8, "two evaluations, the second no better"
    with at_step(7, terminate), pytest.raises(gl.PreemptedError, match="after step 8"):
        gl.train(file)
    gl.train(file)
    check_same_end(whole, tmp_path / "run", "best", "final")


def test_what_is_left_after_the_last_step_is_done_by_the_same_command(
    recipe: Recipe, scenes: Path, tmp_path: Path
) -> None:
    settings = {"data": {"test": str(scenes / "test.jsonl")}, "run": {"log_every": 1, "save_every": 4}}
    run, file = tmp_path / "run", recipe(**settings)
    with at_step(4, terminate), pytest.raises(gl.PreemptedError, match="stopped by SIGTERM while it was measured"):
        gl.train(file)
    assert find_damage(run / "final") is None and not (run / "report" / "report.json").exists()
    before = (run / "final" / "model.safetensors").read_bytes()
    gl.train(file)
    assert (run / "report" / "report.json").is_file()
    assert (run / "final" / "model.safetensors").read_bytes() == before


@contextmanager
def at_first_question(act: Callable[[], None]) -> Iterator[None]:
    """While the block trains, `act` once the report on what was trained has begun."""

    def look(line: logging.LogRecord) -> bool:
        if "questions asked of" in line.getMessage():
            act()
        return True

    logger = logging.getLogger("groundling.training.reports")
    logger.setLevel(logging.INFO)
    logger.addFilter(look)
    try:
        yield
    finally:
        logger.removeFilter(look)
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("act", "error", "name"),
    [(terminate, gl.PreemptedError, "SIGTERM"), (interrupt, KeyboardInterrupt, "SIGINT")],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_what_is_said_while_it_is_measured_is_of_measuring(
    recipe: Recipe,
    scenes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    act: Callable[[], None],
    error: type[BaseException],
    name: str,
) -> None:
    file, before = recipe(data={"test": str(scenes / "test.jsonl")}, train={"max_steps": 1}), handlers()
    told = f"stopped by {name} while it was measured; all weights and the answers so far are kept, and the same command"
    with at_first_question(act), pytest.raises(error, match=told):
        gl.train(file)
    assert handlers() == before
    assert f"{name}: the answers so far are kept" in caplog.text and "the step is finished" not in caplog.text
    assert find_damage(tmp_path / "run" / "final") is None


# ---- the command line ------------------------------------------------------------------------------------------


def wait_until_heard(process: subprocess.Popen[str]) -> None:
    """Until the process catches SIGTERM, as Linux tells of it."""
    deadline, status = time.monotonic() + 60, Path(f"/proc/{process.pid}/status")
    while time.monotonic() < deadline and process.poll() is None:
        caught = next(line for line in status.read_text("ascii").splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)
    raise AssertionError("it never listened")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("processes", [None, 2])
def test_a_signal_before_anything_is_loaded_is_answered(recipe: Recipe, tmp_path: Path, processes: int | None) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "ACCELERATE_MIXED_PRECISION")}
    command = [sys.executable, "-m", "groundling", "train", str(recipe(launch={"processes": processes}))]
    environment = kept | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until_heard(process)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "error: stopped by SIGTERM before it began; the same command starts it\n" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_exit_code_tells_why(recipe: Recipe, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Sent to the whole group, as terminals and SLURM do: the processes that load pictures leave it to their parent."""
    file = recipe(train={"max_steps": 60, "workers": 1}, run={"log_every": 1})
    command = [sys.executable, "-m", "groundling", "train", str(file)]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and len(read_metrics(tmp_path / "run")) > 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    assert f"error: stopped by {number.name} after step" in told and "Traceback" not in told
    assert subprocess.run(command, env=environment).returncode == 0
    assert (tmp_path / "run" / "final").is_dir()
