"""Pictures looked at once, and never again where a cache is at hand; a cache that can do no harm."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from clean_set import clouds
from PIL import Image

from groundling.data import look_cache
from groundling.data.look import Look, look_at_pictures
from groundling.data.look_cache import cache_file
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, pixel_digest


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures, one of them animated."""
    import numpy as np

    drawn = [clouds(np.random.default_rng(seed), 60, 40) for seed in range(3)]
    paths = [tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.gif"]
    for path, picture in zip(paths, drawn, strict=True):
        more = {"save_all": True, "append_images": drawn[:1]} if path.suffix == ".gif" else {}
        picture.save(path, **more)
    return paths


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUNDLING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures.sqlite"


def ruin(path: Path) -> None:
    """The file without its picture, but of the same size and time: who opens it will notice."""
    found = path.stat()
    path.write_bytes(b"\0" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_look_tells_size_digest_frames_and_faults(pictures: list[Path], tmp_path: Path) -> None:
    gone, cut, thread = tmp_path / "gone.png", tmp_path / "cut.png", tmp_path / "thread.png"
    cut.write_bytes(pictures[0].read_bytes()[:100])
    Image.new("L", (900, 3)).save(thread)
    looks = look_at_pictures([*pictures, gone, cut, thread, pictures[0]])
    assert list(looks) == [*pictures, gone, cut, thread]
    assert [look.fault for look in looks.values()] == [
        *[None] * 3,
        "missing_picture",
        "unreadable_picture",
        "unfit_size",
    ]
    first = looks[pictures[0]]
    assert (first.frame, first.digest) == (Frame(60, 40), pixel_digest(open_image(pictures[0])))
    assert [looks[path].has_more_frames for path in pictures] == [False, False, True]
    assert look_at_pictures([]) == {}


def test_a_second_look_opens_nothing(pictures: list[Path], cache: Path) -> None:
    first = look_at_pictures(pictures)
    assert cache.is_file()
    for path in pictures:
        ruin(path)
    told: list[tuple[int, int]] = []
    assert look_at_pictures(pictures, progress=lambda done, total: told.append((done, total))) == first
    assert told == [(3, 3)]


def test_without_a_cache_pictures_are_opened(pictures: list[Path]) -> None:
    look_at_pictures(pictures)
    ruin(pictures[0])
    assert look_at_pictures(pictures)[pictures[0]].fault == "unreadable_picture"


def test_what_changed_is_looked_at_again(pictures: list[Path], cache: Path) -> None:
    look_at_pictures(pictures)
    Image.new("RGB", (30, 30)).save(pictures[0])
    assert look_at_pictures(pictures)[pictures[0]].frame == Frame(30, 30)
    ruin(pictures[1])
    os.utime(pictures[1], ns=(1, 1))  # as large as before, but of another time
    assert look_at_pictures(pictures)[pictures[1]].fault == "unreadable_picture"


def test_other_rules_and_another_limit_do_not_take_what_was_kept(
    pictures: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at_pictures(pictures)
    assert look_at_pictures(pictures[:1], max_pixels=1000)[pictures[0]].fault == "unfit_size"
    ruin(pictures[0])
    monkeypatch.setattr(look_cache, "RULES", "0")
    assert look_at_pictures(pictures)[pictures[0]].fault == "unreadable_picture"


def test_faults_are_not_kept(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "late.png"
    path.write_bytes(b"")
    assert look_at_pictures([path])[path].fault == "unreadable_picture"
    Image.new("RGB", (20, 20)).save(path)
    assert look_at_pictures([path])[path].fault is None


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 500])
def test_a_corrupted_cache_is_passed_over(pictures: list[Path], cache: Path, content: bytes) -> None:
    expected = look_at_pictures(pictures)
    cache.write_bytes(content)
    assert look_at_pictures(pictures) == expected == look_at_pictures(pictures)


@pytest.mark.parametrize("value", ["NULL", "'text'", "-3", "x'00'"])
@pytest.mark.parametrize("column", ["width", "digest", "sketch"])
def test_rows_that_others_wrote_are_passed_over(pictures: list[Path], cache: Path, column: str, value: str) -> None:
    expected = look_at_pictures(pictures)
    with sqlite3.connect(cache) as connection:
        connection.execute(f"UPDATE looks SET {column} = {value}")
    connection.close()
    assert look_at_pictures(pictures) == expected


def test_a_table_of_another_shape_is_passed_over(pictures: list[Path], cache: Path) -> None:
    expected = look_at_pictures(pictures)
    cache.unlink()
    with sqlite3.connect(cache) as connection:
        connection.execute("CREATE TABLE looks (name TEXT)")
    connection.close()
    assert look_at_pictures(pictures) == expected


def test_a_cache_that_cannot_be_written_is_no_failure(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GROUNDLING_CACHE", str(tmp_path / "file" / "below"))
    assert all(look.fault is None for look in look_at_pictures(pictures).values())


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUNDLING_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_file() == tmp_path / ".cache/groundling/pictures.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_file() == tmp_path / ".cache/groundling/pictures.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file() == tmp_path / "xdg/groundling/pictures.sqlite"
    monkeypatch.setenv("GROUNDLING_CACHE", str(tmp_path / "here"))
    assert cache_file() == tmp_path / "here/pictures.sqlite"
    monkeypatch.setenv("GROUNDLING_CACHE", "off")
    assert cache_file() is None


def test_several_processes_may_share_it(pictures: list[Path], cache: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom groundling.data.look import look_at_pictures\n"
    code += "for _ in range(20):\n    look_at_pictures([Path(name) for name in sys.argv[1:]])\n"
    running = [subprocess.Popen([sys.executable, "-c", code, *map(str, pictures)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert all(isinstance(look, Look) and look.fault is None for look in look_at_pictures(pictures).values())


def test_a_name_that_no_file_can_have_is_a_missing_picture(cache: Path) -> None:
    path = Path("a\0b.png")
    assert look_at_pictures([path])[path].fault == "missing_picture"
