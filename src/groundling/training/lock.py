"""One run folder, one run: a lock that a second start finds, and that goes with the process that holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from groundling.errors import SettingsError
from groundling.evaluation.processes import from_main_process
from groundling.training.disk import telling_full_disk

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told apart there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "running.lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)

log = logging.getLogger(__name__)


@contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Keep the run folder to this training; SettingsError, with who has it, where another one does.

    The main process holds the lock for all. It is POSIX's: the kernel takes it back when the process ends, however it
    does; its loading processes do not inherit it; network disks know it. Where a disk has no locks it is said.
    """
    held: list[IO[str]] = []

    def take() -> None:
        with telling_full_disk(run):
            held.extend(_take(run))

    from_main_process(take)
    try:
        yield
    finally:
        for file in held:
            (run / LOCK_FILE).unlink(missing_ok=True)
            file.close()
            with suppress(OSError):
                run.rmdir()  # where a refused recipe has left it empty


def _take(run: Path) -> list[IO[str]]:
    if run.exists() and not run.is_dir():
        raise SettingsError(f"run.dir {run} is a file; choose another run.dir")
    if fcntl is None:
        return []
    run.mkdir(parents=True, exist_ok=True)
    path = run / LOCK_FILE
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read()
            file.close()
            if error.errno in _TAKEN:
                raise SettingsError(
                    f"{run} is in use by {_describe(holder)}; wait for it, or choose another run.dir"
                ) from None
            log.warning("%s: its disk has no locks (%s); see that nothing else trains there", run, error.strerror)
            return []
        if _is_at(path, file):
            break
        file.close()  # its holder has just removed it
    _write_holder(file, path)
    return [file]


def _write_holder(file: IO[str], path: Path) -> None:
    """Say who holds the lock; where that cannot be written, nobody does."""
    try:
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname()}))
        file.flush()
    except OSError:
        path.unlink()
        with suppress(OSError):
            path.parent.rmdir()
        with suppress(OSError):  # from what it tries to write once more
            file.close()
        raise


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _describe(holder: str) -> str:
    try:
        told = json.loads(holder)
        return f"process {told['process']} on {told['machine']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
