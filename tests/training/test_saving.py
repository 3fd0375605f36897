"""Folders that are written together: whole under their name, or gone and told. (End to end: `space`, `distributed`.)"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from groundling.errors import TrainingError
from groundling.training.manifest import find_damage
from groundling.training.saving import Saver


def test_what_is_whole_takes_its_name(tmp_path: Path) -> None:
    saver, partial, best = Saver(tmp_path, is_spread=False), tmp_path / "best.partial", tmp_path / "best"
    with saver.writing(partial, needed=1000):
        partial.mkdir()
        (partial / "weights").write_bytes(b"1234")
    saver.put_in_place(partial, best, needed=1000)
    assert (best / "weights").read_bytes() == b"1234" and find_damage(best) is None and not partial.exists()


@pytest.mark.parametrize("is_spread", [False, True])
def test_what_the_disk_refuses_is_gone_and_told(tmp_path: Path, is_spread: bool) -> None:
    partial = tmp_path / "best.partial"
    told = (
        r"best\.partial could not be written: \[Errno 28\] no room; it needs 1\.0 kB, and .* are free\. no checkpoint "
    )
    with (
        pytest.raises(TrainingError, match=told),
        Saver(tmp_path, is_spread=is_spread).writing(partial, needed=1000),
    ):
        partial.mkdir()
        raise OSError(errno.ENOSPC, "no room")
    assert not partial.exists()


def test_more_than_the_disk_has_is_told_as_that(tmp_path: Path) -> None:
    saver, partial = Saver(tmp_path, is_spread=False), tmp_path / "best.partial"
    with pytest.raises(TrainingError, match="the disk is full; it needs"), saver.writing(partial, needed=10**18):
        raise OSError(errno.EIO, "whatever")
    with pytest.raises(TrainingError, match="the disk is full; it needs"):
        saver.put_in_place(partial, tmp_path / "best", needed=10**18)  # there is nothing to put in place


def test_an_error_of_other_kinds_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), Saver(tmp_path, is_spread=False).writing(tmp_path, needed=1):
        raise RuntimeError("a bug")
