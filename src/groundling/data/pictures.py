"""The pictures beside a record file: each is copied once, as the bytes it came in, and named after its content."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from groundling.errors import ImageError
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image

FOLDER = "images"

_STARTS = {  # how files of a kind begin, from their specifications
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class Picture(NamedTuple):
    """A picture that was read in full. `identity` is the hash of its bytes: the same for every copy of the file."""

    path: Path
    frame: Frame  # its upright size
    identity: str


class Pictures:
    """Keeps the pictures of one record file below its folder, or (`link`) leaves files where they are.

    Bytes are never re-encoded and orientation tags stay: boxes count upright pixels, and whoever opens a picture
    through the image door sees it upright.
    """

    def __init__(self, folder: Path, *, link: bool = False) -> None:
        self.folder = folder / FOLDER
        self.link = link
        self._kept: dict[tuple[str, Path | None], Picture] = {}
        self._by_path: dict[Path, Picture] = {}

    def keep(self, source: bytes | Path, name: str) -> Picture:
        """The picture, copied (embedded bytes even with `link`). ImageError where it cannot be read to its last row.

        `name` is the picture's own file name, kept as far as it is safe; a part of the hash follows it.
        """
        if isinstance(source, Path) and source in self._by_path:
            return self._by_path[source]
        content = source if isinstance(source, bytes) else _read_bytes(source)
        identity = hashlib.sha256(content).hexdigest()
        linked = source.absolute() if self.link and isinstance(source, Path) else None
        if (identity, linked) not in self._kept:
            frame = Frame(*open_image(source).size)
            mark = identity[:12]
            path = linked or self._write(content, f"{_safe_stem(name, mark)}{mark}{_suffix(content, name)}")
            self._kept[identity, linked] = Picture(path, frame, identity)
        kept = self._kept[identity, linked]
        if isinstance(source, Path):
            self._by_path[source] = kept
        return kept

    def _write(self, content: bytes, name: str) -> Path:
        path = self.folder / name
        if path.is_file() and path.stat().st_size == len(content):  # an earlier run left it: the name holds the hash
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None


def _safe_stem(name: str, mark: str) -> str:
    """What of a file's name can stand in another, without the mark that an earlier copying gave it."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", re.split(r"[/\\]", name)[-1].rpartition(".")[0])
    stem = stem.removesuffix(mark)[:60].strip("_-")
    return f"{stem}-" if stem else ""


def _suffix(content: bytes, name: str) -> str:
    """The ending that fits the content, whatever the name says; the name's own for kinds not in the table."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    known = next((suffix for start, suffix in _STARTS.items() if content.startswith(start)), None)
    return known or "".join(re.findall(r"\.[a-z0-9]{1,5}$", name.lower()))
