"""The bundled model: small, whole, and made by the script that stands beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from groundling.model.load import TINY_FOLDER, find_checkpoint, load_model
from groundling.tiny.build import build_processor
from groundling.tiny.demo import draw_records
from groundling.tiny.pretrain import pretrain


def test_the_weights_are_small_and_load_strictly() -> None:
    assert sum(file.stat().st_size for file in TINY_FOLDER.iterdir()) <= 4_000_000
    model = load_model(find_checkpoint("tiny"), dtype=torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == 496_192


def test_its_contract_is_the_one_it_was_built_with() -> None:
    assert find_checkpoint("tiny").contract == build_processor().contract


def test_the_schooling_is_repeatable(tmp_path: Path) -> None:
    for name in ("one", "other"):
        pretrain(tmp_path / name, steps=3)
    weights = [load_model(find_checkpoint(str(tmp_path / name)), dtype=torch.float32) for name in ("one", "other")]
    pairs = zip(weights[0].parameters(), weights[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_demos_records_are_in_the_pixels_of_their_pictures(tmp_path: Path) -> None:
    records = draw_records(tmp_path / "few.jsonl", pictures=3, seed=0)
    assert {(record.width, record.height) for record in records} == {(336, 336)}
    assert all(max(target.numbers) <= 336 for record in records for target in record.targets)
