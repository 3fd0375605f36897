"""One run a folder: by processes that hold it, end, and are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import groundling as gl
from groundling.evaluation.lock import LOCK_FILE, hold_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Starts a process that holds `tmp_path/run`, with a child of its own as loading processes are; returns its id."""
    started: list[int] = []

    def start() -> int:
        ready, tell = os.pipe()
        process = os.fork()
        if not process:
            with hold_folder(tmp_path / "run", "--to"):
                child = os.fork()
                if child:
                    os.write(tell, b"%d" % child)
                while True:
                    signal.pause()
        started.append(process)
        started.append(int(os.read(ready, 20)))
        return process

    yield start
    for process in started:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_second_run_in_one_folder_is_refused_by_name(tmp_path: Path, holder: Callable[[], int]) -> None:
    process = holder()
    with (
        pytest.raises(
            gl.SettingsError, match=rf"run is in use by process {process} on .+; wait for it, or choose another --to"
        ),
        hold_folder(tmp_path / "run", "--to"),
    ):
        pass
    assert json.loads((tmp_path / "run" / LOCK_FILE).read_text(encoding="utf-8"))["process"] == process


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: Callable[[], int]) -> None:
    """Though its own child lives on for a while, and its file is still there."""
    process = holder()
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert (tmp_path / "run" / LOCK_FILE).exists()
    with hold_folder(tmp_path / "run", "--to"):
        pass
    assert not (tmp_path / "run").exists(), "an empty folder goes with its lock"


def test_the_lock_goes_with_the_run_and_leaves_what_it_has_written(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "deep" / "run", "--to"):
        (tmp_path / "deep" / "run" / "recipe.yaml").touch()
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["recipe.yaml"]


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(gl.SettingsError, match=r"--to .* is a file; choose another --to"),
        hold_folder(tmp_path / "thesis.tex", "--to"),
    ):
        pass
