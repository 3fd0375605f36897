"""Manifests: what they say of a folder, and what they notice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from groundling.training.manifest import find_damage, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "global_step3").mkdir()
    (tmp_path / "global_step3" / "states.pt").write_bytes(b"abc")
    (tmp_path / "model.safetensors").write_bytes(b"")
    write_manifest(tmp_path)
    return tmp_path


def test_every_file_with_its_size_and_hash(folder: Path) -> None:
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8")) == {
        "version": 1,
        "files": [
            {
                "file": "global_step3/states.pt",
                "bytes": 3,
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            },
            {
                "file": "model.safetensors",
                "bytes": 0,
                "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            },
        ],
    }
    assert sorted(path.name for path in folder.iterdir()) == ["global_step3", "manifest.json", "model.safetensors"]


def test_every_byte_is_on_the_disk_before_the_manifest_has_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calls, in their order: what a loss of power would do cannot be tried here."""
    (folder / "manifest.json").unlink()
    expected = {path.stat().st_ino for path in (*folder.rglob("*"), folder) if path != folder}
    written: set[int] = set()
    at_rename: list[set[int]] = []
    fsync, replace = os.fsync, os.replace

    def note_written(handle: int) -> None:
        written.add(os.fstat(handle).st_ino)
        fsync(handle)

    def note_rename(source: Path, target: Path) -> None:
        at_rename.append(written | {0} if source.stat().st_ino in written else set())
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_written)
    monkeypatch.setattr(os, "replace", note_rename)
    write_manifest(folder)
    assert len(at_rename) == 1 and expected <= at_rename[0], "files, the folder in it and the manifest itself"
    assert folder.stat().st_ino in written, "and its new name"


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda at: (at / "model.safetensors").unlink(), "model.safetensors is missing"),
    "shorter": (
        lambda at: (at / "global_step3" / "states.pt").write_bytes(b"ab"),
        "global_step3/states.pt has 2 bytes, and had 3 when it was written",
    ),
    "other": (
        lambda at: (at / "global_step3" / "states.pt").write_bytes(b"abd"),
        "global_step3/states.pt has other content than was written",
    ),
    "half a manifest": (
        lambda at: (at / "manifest.json").write_text('{"version": 1, "fi', encoding="utf-8"),
        "its manifest.json cannot be read",
    ),
    "no manifest of ours": (
        lambda at: (at / "manifest.json").write_text("{}", encoding="utf-8"),
        "its manifest.json cannot be read (KeyError: 'files')",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(folder: Path, damage: str) -> None:
    assert find_damage(folder) is None
    make, told = DAMAGE[damage]
    make(folder)
    assert (find_damage(folder) or "").startswith(told)


def test_a_folder_from_before_there_were_manifests_is_believed(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "model.safetensors").unlink()
    assert find_damage(folder) is None
