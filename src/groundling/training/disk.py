"""What a disk may do to a run: lose what is not yet written through, and be full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundling.errors import TrainingError

PARTIAL = ".partial"  # ends the name of a file or a folder that is still being written
BESIDE_WEIGHTS = 20_000_000  # bytes of tokenizers, pictures and pages, roughly
_FULL = (errno.ENOSPC, errno.EDQUOT)


# ---- writing through -------------------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk itself: they outlive a loss of power from here on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # a disk that cannot be asked to, as some networks' for folders
            raise
    finally:
        os.close(handle)


def write_whole(file: Path, text: str) -> None:
    """Write a text file that is, whenever the process ends, there as a whole or as it was before."""
    beside = file.with_name(file.name + PARTIAL)
    beside.write_text(text, encoding="utf-8")
    sync(beside)
    os.replace(beside, file)
    sync(file.parent)


# ---- full ------------------------------------------------------------------------------------------------------


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is, or will be."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def show_bytes(size: int) -> str:
    """A number of bytes as it is said: `48.2 GB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1000:.1f} kB"


def is_failed_write(error: Exception) -> bool:
    """Whether an error while saving is the disk's: torch 2.13 and safetensors 0.8 have errors of their own for it."""
    text = str(error)
    from_torch = isinstance(error, RuntimeError) and ("inline_container" in text or "PytorchStreamWriter" in text)
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError" or from_torch


@contextmanager
def telling_full_disk(run: Path) -> Iterator[None]:
    """Whatever cannot be written because there is no room becomes a TrainingError that says where and how much is."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = Path(error.filename) if error.filename else run
        needed, free = show_bytes(BESIDE_WEIGHTS), show_bytes(free_bytes(where))
        raise TrainingError(
            f"{where} could not be written: {error.strerror}; beside its weights a run needs some {needed}, and {free} "
            "are free on its disk. With more room, the same command goes on from the last checkpoint, if there is one"
        ) from error
