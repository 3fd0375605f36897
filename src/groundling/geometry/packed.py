"""Pictures that lie inside Parquet files: `train-00003-of-00010.parquet/17` is the one in row 17, from 0, of that file.

The files have a column `image`, a struct whose `bytes` are the picture's file as it was: what the `datasets` library of
Hugging Face writes. So a picture has a path wherever it lies, and the image door opens both kinds.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from groundling.errors import ImageError

if TYPE_CHECKING:
    from pyarrow import Array

KEPT_BYTES = 96 * 2**20  # of the row groups read last, in each process


class Packed(NamedTuple):
    """A picture that is no file of its own."""

    file: Path
    row: int  # from 0


def find_packed(path: str | Path) -> Packed | None:
    """Where a picture with such a path lies; None for a file of its own, and where there is no such Parquet file."""
    file, row = os.path.split(path)
    if not file.endswith(".parquet") or not re.fullmatch("[0-9]{1,12}", row) or not os.path.isfile(file):
        return None
    return Packed(Path(file), int(row))


def is_there(path: Path) -> bool:
    """Whether a picture is a file, or lies in one; unlike Path.is_file, also for names that no file can have."""
    return os.path.isfile(path) or find_packed(path) is not None


def read_stored(path: Path) -> bytes:
    """The bytes of a picture's file, as they are, wherever it lies. ImageError where they cannot be read."""
    packed = find_packed(path)
    if packed is not None:
        return read_packed(packed)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None


def read_packed(packed: Packed) -> bytes:
    """The bytes of the picture's file. ImageError where the row is not there, has no picture, or is damaged."""
    reader = _READERS.setdefault(os.getpid(), _Reader())
    return reader.read(packed)


class _Reader:
    """The row groups that a process read last, since pictures near each other are asked for together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: dict[Path, np.ndarray] = {}  # first row of each group, and how many there are
        self._groups: OrderedDict[tuple[Path, int], Array] = OrderedDict()
        self._bytes = 0

    def read(self, packed: Packed) -> bytes:
        with self._lock:
            try:
                starts = self._find_starts(packed.file)
                group = int(np.searchsorted(starts, packed.row, side="right")) - 1
                if group == len(starts) - 1:
                    raise ImageError(f"the file has {starts[-1]} rows")
                content = self._read_group(packed.file, group)[packed.row - int(starts[group])].as_py()
            except _damage() as error:
                raise ImageError(f"the Parquet file is damaged, or no picture's: {error}") from None
        if content is None:
            raise ImageError("the row has no picture")
        return content

    def _find_starts(self, file: Path) -> np.ndarray:
        from pyarrow.parquet import read_metadata

        if file not in self._starts:
            found = read_metadata(file)
            rows = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
            self._starts[file] = np.cumsum([0, *rows])
        return self._starts[file]

    def _read_group(self, file: Path, group: int) -> Array:
        from pyarrow.parquet import ParquetFile

        if (file, group) in self._groups:
            self._groups.move_to_end((file, group))
            return self._groups[file, group]
        with ParquetFile(file, page_checksum_verification=True) as table:
            read = table.read_row_group(group, columns=["image.bytes"], use_threads=False)
        found = read.column("image").combine_chunks().field("bytes")
        self._groups[file, group] = found
        self._bytes += found.nbytes
        while self._bytes > KEPT_BYTES and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return found


_READERS: dict[int, _Reader] = {}  # by process, so that none uses a lock, or what was read, from before it was forked


def _damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises on a damaged file, or on one without such a column."""
    import pyarrow

    return pyarrow.ArrowException, OSError, KeyError
