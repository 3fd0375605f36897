"""What the command line says beside its results: lines, bars and errors, all on stderr."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def is_speaker() -> bool:
    """Whether this is the process of a distributed launch that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print what is no result."""
    print(line, file=sys.stderr)


def fail(message: str, code: int) -> int:
    """Tell an error, be it to the launcher; returns the exit code."""
    if is_speaker():
        print(f"error: {message}", file=sys.stderr)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # what torchrun tells of a process, in the form it expects
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        told = {"message": {"message": message, "extraInfo": details}}
        Path(file).write_text(json.dumps(told), encoding="utf-8")
    return code


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Load what every model needs, and keep the libraries' own bars and hints off the screen while one is at work."""
    with _without_collection():
        import transformers.modeling_utils  # noqa: F401  # with torch, nearly all that is loaded
        from transformers.utils import logging as libraries

    libraries.disable_progress_bar()
    libraries.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage while modules are loaded, nor ever among them.

    There is none, and looking takes a sixth of the time in which torch and transformers are loaded (2026-11-28).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Something to call with (done, of how many): a bar with the time left on a terminal, silence elsewhere."""
    if not sys.stderr.isatty() or not is_speaker():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from groundling.evaluation.pace import Pace, in_words

    pace = Pace()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, left="")

        def tell(done: int, total: int) -> None:
            left = pace.left(done, total)
            bar.update(task, completed=done, total=total, left="" if left is None else f"{in_words(left)} left")

        yield tell
