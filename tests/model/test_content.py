"""Weights are known by what they hold: not by their time, size or place."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from groundling.model import content
from groundling.model.content import hash_contents
from groundling.model.load import TINY, find_checkpoint, hash_weights


def test_a_copy_is_the_same_and_any_other_byte_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "_BLOCK_BYTES", 1000)
    file = tmp_path / "a" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(bytes(range(256)) * 16)  # four blocks and a part of one
    known, time = hash_contents([file]), file.stat().st_mtime_ns
    assert known.startswith("sha256:") and len(known) == 7 + 64

    copied = shutil.copytree(file.parent, tmp_path / "b") / file.name
    os.utime(copied, ns=(time + 10**9, time + 10**9))
    assert hash_contents([copied]) == known
    for place in (0, 999, 1000, 2500, 4095):
        changed = bytearray(file.read_bytes())
        changed[place] ^= 1
        copied.write_bytes(changed)
        os.utime(copied, ns=(time, time))
        assert hash_contents([copied]) != known, f"byte {place}"
    copied.write_bytes(file.read_bytes()[:-1])
    assert hash_contents([copied]) != known


def test_blocks_and_files_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "_BLOCK_BYTES", 4)

    def hash_of(*contents: bytes) -> str:
        files = [tmp_path / f"{number}.safetensors" for number in range(len(contents))]
        for file, data in zip(files, contents, strict=True):
            file.write_bytes(data)
        return hash_contents(files)

    assert len({hash_of(b"aaaabbbb"), hash_of(b"bbbbaaaa"), hash_of(b"aaaa", b"bbbb"), hash_of(b"bbbb", b"aaaa")}) == 4


def test_one_trained_number_makes_other_weights_and_a_place_does_not(tmp_path: Path):
    tiny = find_checkpoint(TINY)
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "copy", copy_function=shutil.copy))
    copied = replace(tiny, folder=folder)
    assert hash_weights(copied) == hash_weights(tiny)

    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name, tensor in weights.items() if tensor.numel() > 9)
    weights[name].view(-1)[3] += 1
    save_file(weights, file, {"format": "pt"})
    assert hash_weights(copied) != hash_weights(tiny)


def test_an_adapter_is_known_by_its_base_too(tmp_path: Path):
    base = Path(shutil.copytree(find_checkpoint(TINY).folder, tmp_path / "base"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base.as_posix()}"}}')
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    known = hash_weights(find_checkpoint(str(adapter)))

    (file,) = base.glob("*.safetensors")
    file.write_bytes(file.read_bytes() + b"a")
    assert hash_weights(find_checkpoint(str(adapter))) != known
