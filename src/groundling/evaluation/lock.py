"""One folder, one run or evaluation: a lock that a second start finds, and that goes with the process that holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from groundling.errors import SettingsError
from groundling.evaluation.processes import from_main_process

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told apart there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "running.lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)

log = logging.getLogger(__name__)


@contextmanager
def hold_folder(
    folder: Path, option: str, *, telling: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[None]:
    """Keep the folder that `option` names to this process; SettingsError, with who has it, where another one does.

    The main process holds the lock for all. It is POSIX's: the kernel takes it back when the process ends, however it
    does; its loading processes do not inherit it; network disks know it. Where a disk has no locks it is said.
    `telling` is around the writing, for errors of the disk to be told in the caller's words.
    """
    held: list[IO[str]] = []

    def take() -> None:
        with telling():
            held.extend(_take(folder, option))

    from_main_process(take)
    try:
        yield
    finally:
        for file in held:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            file.close()
            with suppress(OSError):
                folder.rmdir()  # where a refused recipe has left it empty


def _take(folder: Path, option: str) -> list[IO[str]]:
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{option} {folder} is a file; choose another {option}")
    if fcntl is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
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
                    f"{folder} is in use by {_describe(holder)}; wait for it, or choose another {option}"
                ) from None
            log.warning("%s: its disk has no locks (%s); see that nothing else writes there", folder, error.strerror)
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
