"""What looking at a picture shows, each picture opened once, and once for all where a cache is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from groundling.data.likeness import sketch
from groundling.data.look_cache import KeptLook, Stamp, is_known_sound, keep_looks, keep_sound, recall_looks
from groundling.data.shards import Shards
from groundling.errors import ImageError, ImageSizeError
from groundling.geometry.frame import Frame
from groundling.geometry.images import MAX_PIXELS, open_first_frame, pixel_digest, refuse_unreadable
from groundling.geometry.packed import is_there

Progress = Callable[[int, int], None]  # told (done, in all)

_MOST_READERS = 8  # threads, each holding one picture; Pillow decodes and hashlib hashes beside each other
_KEPT_AT_ONCE = 500  # what a broken-off check has to look at again


class Look(NamedTuple):
    """What a picture showed; or a `fault`, which is a code of a finding, with its reason."""

    frame: Frame | None = None  # its upright size
    digest: str | None = None  # of its upright pixels: equal for lossless copies
    sketch: bytes | None = None  # how it looks (`likeness`)
    has_more_frames: bool = False  # than the first, which is taken
    fault: str | None = None
    reason: str = ""


def look_at_pictures(
    paths: Iterable[Path], *, max_pixels: int = MAX_PIXELS, progress: Progress | None = None
) -> dict[Path, Look]:
    """What each picture shows, in the order of the paths; each is opened once.

    Sound ones of the cache (`look_cache`) are not opened at all. `progress` is told after each that is.
    """
    paths = list(dict.fromkeys(paths))
    stamps = {path: stamp for path in paths if (stamp := Stamp.of(path)) is not None}
    known = {path: _from_kept(kept) for path, kept in recall_looks(stamps).items()}
    looks = {path: look for path, look in known.items() if look.frame is not None and look.frame.area <= max_pixels}
    if looks and progress is not None:
        progress(len(looks), len(paths))
    fresh: dict[Stamp, KeptLook] = {}
    for path, look in _open_all([path for path in paths if path not in looks], max_pixels):
        looks[path] = look
        if path in stamps and look.fault is None:
            fresh[stamps[path]] = _to_kept(look)
        if len(fresh) == _KEPT_AT_ONCE:
            keep_looks(fresh)
            fresh = {}
        if progress is not None:
            progress(len(looks), len(paths))
    keep_looks(fresh)
    return {path: looks[path] for path in paths}


def _open_all(paths: list[Path], max_pixels: int) -> Iterator[tuple[Path, Look]]:
    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as readers:
        yield from zip(paths, readers.map(lambda path: _look(path, max_pixels), paths), strict=True)


def _look(path: Path, max_pixels: int) -> Look:
    if not is_there(path):
        return Look(fault="missing_picture", reason=f"there is no picture {path}")
    try:
        picture, has_more = open_first_frame(path, max_pixels=max_pixels)
    except ImageError as error:
        return _faulty(error)
    return Look(Frame(*picture.size), pixel_digest(picture), sketch(picture), has_more)


# ---- inside shards ---------------------------------------------------------------------------------------------


def find_unreadable(
    shards: Shards, *, max_pixels: int = MAX_PIXELS, progress: Progress | None = None
) -> dict[Path, Look]:
    """The pictures inside shards that cannot be read, with what is wrong; all are opened, one row group at a time.

    A file is passed over whose pictures were all sound when they were last looked at (`look_cache`).
    """
    bad: dict[Path, Look] = {}
    done, total = 0, int(shards.has_picture.sum())
    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as readers:
        for number, file in enumerate(shards.files):
            stamp, bad_before = Stamp.of(file), len(bad)
            is_known = stamp is not None and is_known_sound(stamp)
            for group in np.flatnonzero(shards.group_files == number).tolist():
                paths = shards.pictures_in(group)
                faults = [] if is_known else readers.map(partial(_find_fault, max_pixels=max_pixels), paths)
                bad |= {path: look for path, look in zip(paths, faults, strict=False) if look is not None}
                done += len(paths)
                if progress is not None:
                    progress(done, total)
            if stamp is not None and len(bad) == bad_before and not is_known:
                keep_sound(stamp)
    return bad


def _find_fault(path: Path, max_pixels: int) -> Look | None:
    try:
        refuse_unreadable(path, max_pixels=max_pixels)
    except ImageError as error:
        return _faulty(error)
    return None


def _faulty(error: ImageError) -> Look:
    return Look(fault="unfit_size" if isinstance(error, ImageSizeError) else "unreadable_picture", reason=str(error))


def _to_kept(look: Look) -> KeptLook:
    assert look.frame is not None and look.digest is not None and look.sketch is not None, "a sound picture has all"
    return KeptLook(*look.frame.size_wh, look.has_more_frames, bytes.fromhex(look.digest), look.sketch)


def _from_kept(kept: KeptLook) -> Look:
    return Look(Frame(kept.width, kept.height), kept.digest.hex(), kept.sketch, bool(kept.has_more_frames))
