"""What pictures showed when they were last looked at, kept in the user's cache folder: a second check opens none.

One small SQLite file, `pictures.sqlite` in `$XDG_CACHE_HOME/groundling` (else `~/.cache/groundling`), about 600 bytes a
picture; of shards only which of their files hold sound pictures alone. The environment variable GROUNDLING_CACHE names
another folder, or is `off`. A picture is known by its absolute path, size and time of change, and by the rules it was
looked at with. Several processes may share the file. Where it cannot be read or written the pictures are just looked at
again: a cache is never a reason to fail.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import PIL

from groundling.data.likeness import SIDE
from groundling.geometry.packed import find_packed

RULES = f"1, Pillow {PIL.__version__}"  # count up when a look changes; another Pillow may decode otherwise

log = logging.getLogger("groundling")

_TABLE = """CREATE TABLE IF NOT EXISTS looks (
    path TEXT PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, rules TEXT,
    width INTEGER, height INTEGER, has_more_frames INTEGER, digest BLOB, sketch BLOB)"""
_SOUND = "CREATE TABLE IF NOT EXISTS sound (path TEXT PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, rules TEXT)"
_COLUMNS = "path, bytes, mtime_ns, rules, width, height, has_more_frames, digest, sketch"
_ASKED_AT_ONCE = 500  # of the 999 values that an old SQLite takes
_PATIENCE = 5.0  # seconds to wait for another process


class Stamp(NamedTuple):
    """What tells a file from what stood in its place before."""

    path: str  # absolute
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """The stamp of a picture, by the file that it is or lies in; None where there is none."""
        packed = find_packed(path)
        try:
            found = os.stat(path if packed is None else packed.file)
        except (OSError, ValueError):  # a name that no file can have
            return None
        return cls(os.path.abspath(path), found.st_size, found.st_mtime_ns)


class KeptLook(NamedTuple):
    """A sound picture: its upright size, whether it has more frames, the digest of its pixels, its sketch."""

    width: int
    height: int
    has_more_frames: bool
    digest: bytes
    sketch: bytes

    @property
    def is_whole(self) -> bool:
        """Whether it can be what was kept: a file that others wrote to may hold anything."""
        sides = (self.width, self.height)
        if not all(isinstance(side, int) and side > 0 for side in sides):
            return False
        blobs = ((self.digest, 32), (self.sketch, SIDE * SIDE))
        return all(isinstance(blob, bytes) and len(blob) == length for blob, length in blobs)


def cache_file() -> Path | None:
    """Where looks are kept; None where the user wants no cache or has no home."""
    wanted = os.environ.get("GROUNDLING_CACHE", "")
    if wanted == "off":
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    if not wanted and not os.path.isabs(base) and not os.path.isabs(home):
        return None
    folder = wanted or os.path.join(base if os.path.isabs(base) else os.path.join(home, ".cache"), "groundling")
    return Path(folder) / "pictures.sqlite"


def recall_looks(stamps: Mapping[Path, Stamp]) -> dict[Path, KeptLook]:
    """The looks at those of the files that are kept and have not changed since."""
    file = cache_file()
    if file is None or not file.is_file():
        return {}
    kept: dict[Stamp, KeptLook] = {}
    names = [stamp.path for stamp in stamps.values()]
    with _failing_softly(file), closing(_connect(file)) as connection:
        for start in range(0, len(names), _ASKED_AT_ONCE):
            asked = names[start : start + _ASKED_AT_ONCE]
            query = f"SELECT {_COLUMNS} FROM looks WHERE path IN ({', '.join('?' * len(asked))})"
            for path, size, mtime_ns, rules, *values in connection.execute(query, asked):
                look = KeptLook(*values)
                if rules == RULES and look.is_whole:
                    kept[Stamp(path, size, mtime_ns)] = look
    return {path: kept[stamp] for path, stamp in stamps.items() if stamp in kept}


def keep_looks(looks: Mapping[Stamp, KeptLook]) -> None:
    """Keep looks for the next check; one at an earlier state of a file gives way."""
    file = cache_file()
    if file is None or not looks:
        return
    rows = [(*stamp, RULES, *look) for stamp, look in looks.items()]
    with _failing_softly(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connect(file)) as connection, connection:
            connection.execute(_TABLE)
            connection.executemany(f"REPLACE INTO looks ({_COLUMNS}) VALUES ({', '.join('?' * len(rows[0]))})", rows)


def is_known_sound(stamp: Stamp) -> bool:
    """Whether all pictures in a file of many were found to be sound, and it has not changed since."""
    file = cache_file()
    if file is None or not file.is_file():
        return False
    with _failing_softly(file), closing(_connect(file)) as connection:
        connection.execute(_SOUND)
        query = "SELECT 1 FROM sound WHERE path = ? AND bytes = ? AND mtime_ns = ? AND rules = ?"
        return connection.execute(query, (*stamp, RULES)).fetchone() is not None
    return False


def keep_sound(stamp: Stamp) -> None:
    """Keep that all pictures in a file of many are sound."""
    file = cache_file()
    if file is None:
        return
    with _failing_softly(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connect(file)) as connection, connection:
            connection.execute(_SOUND)
            connection.execute("REPLACE INTO sound (path, bytes, mtime_ns, rules) VALUES (?, ?, ?, ?)", (*stamp, RULES))


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=_PATIENCE)


@contextmanager
def _failing_softly(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeError) as error:  # UnicodeError: a path that is no text
        log.debug("the cache of pictures %s is not used: %s", file, error)
