"""The pictures beside what is written: copied once, as the bytes they came in, and never one over another.

Beside a record file they are named after their content; beside an export they keep their names, and are upright.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import NamedTuple

from groundling.errors import ImageError
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, read_header
from groundling.geometry.packed import read_stored

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
        content = source if isinstance(source, bytes) else read_stored(source)
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


class UprightPictures:
    """The pictures of an export, as every tool sees them alike: many pass over the orientation that metadata tell.

    One that lies below `home` and is stored upright stays where it is; others are copied to `folder` under their own
    names. Those that metadata turn are written anew with their pixels turned and no metadata: a JPEG as a JPEG of
    quality 95 (as a PNG a photograph takes several times the room), anything else as PNG, which loses nothing.

    `paired` is for data sets that consist of all pictures in `folder`, each with a file of annotations that is named
    after it: none of them may then differ from another in its ending only, or lie there unturned.
    """

    def __init__(self, folder: Path, home: Path, *, paired: bool = False) -> None:
        self.folder = folder
        self._home = home.resolve()
        self._paired = paired
        self._owners: dict[Path, str] = {}  # the picture at a place, its ending cut off, by the hash of its source

    def place(self, image: Path) -> Path:
        """Where the picture is then; ImageError where it cannot be read."""
        is_turned = read_header(image).orientation != 1
        is_home = image.is_file() and image.resolve().is_relative_to(self._home)
        if is_home and not is_turned and not self._paired:
            return image
        content = read_stored(image)
        mark = hashlib.sha256(content).hexdigest()[:12]
        if is_home and self._paired:
            return self._stay(image, mark, is_turned=is_turned)
        if is_turned:
            content = _turn_upright(image, content)
        return self._copy(content, _safe_stem(image.name, mark).removesuffix("-"), mark, _suffix(content, image.name))

    def _stay(self, image: Path, mark: str, *, is_turned: bool) -> Path:
        """The picture itself; ImageError where it cannot be one of those with a file of their own name."""
        if is_turned:
            raise ImageError(
                f"{image}: turned by its metadata, and an upright copy cannot lie beside it; export to a new folder"
            )
        if self._owners.setdefault(_without_ending(image), mark) != mark:
            raise ImageError(f"{image}: another picture differs from it only in the ending of its name; rename one")
        return image

    def _copy(self, content: bytes, stem: str, mark: str, suffix: str) -> Path:
        """The file with that content: called as it was where that name is free, else with a part of its hash."""
        names = (stem, f"{stem}-{mark}") if stem else (mark,)
        paths = [self.folder / f"{name}{suffix}" for name in names]
        path = next((path for path in paths if self._take(path, content, mark)), None)
        if path is None:
            raise ImageError(f"{paths[-1]} is there already, and holds something else; move it")
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path

    def _take(self, path: Path, content: bytes, mark: str) -> bool:
        """Whether that content may be at that place, which then is its own."""
        is_free = not path.exists() or path.read_bytes() == content
        return is_free and self._owners.setdefault(_without_ending(path), mark) == mark


_MARK = re.compile(r"-[0-9a-f]{12}$")


def plain_stem(name: str) -> str:
    """What copying keeps of a file's name: the same for the file itself and for its copies in `Pictures`."""
    stem = _MARK.sub("", name.rpartition(".")[0])
    return _safe_stem(f"{stem}.", "").removesuffix("-")


def _without_ending(path: Path) -> Path:
    return path.resolve().with_suffix("")


def _turn_upright(image: Path, content: bytes) -> bytes:
    """The bytes of a file that shows the picture without metadata as it is seen with them."""
    upright, file = open_image(image), io.BytesIO()
    if _suffix(content, "") == ".jpg":
        upright.save(file, "JPEG", quality=95, subsampling=0)
    else:
        upright.save(file, "PNG")
    return file.getvalue()


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
