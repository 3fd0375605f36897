"""The data doctor with a recipe or a model: its budget, the lengths of its samples, its answer form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import groundling as gl
from groundling.checking import examine_files
from groundling.data.check import Examination
from groundling.geometry.images import open_image
from groundling.inference.batch import IGNORED, encode_record
from groundling.model.processor import Processor
from groundling.settings import Settings

PICTURES = Path(__file__).parent / "pictures"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    shutil.copytree(PICTURES, tmp_path / "data")
    return tmp_path / "data" / "records.jsonl"


def settings_of(records: Path, **sections: object) -> Settings:
    recipe = {"model": {"name": "tiny"}, "data": {"train": str(records)}, "run": {"dir": "run"}}
    return Settings.model_validate(recipe | sections)


def codes(examination: Examination) -> list[str]:
    return [finding.code for finding in examination.findings]


def test_lengths_are_those_of_training(records: Path, tiny_processor: Processor) -> None:
    found = examine_files([records], model="tiny")
    samples = []
    for record in gl.read_records(records):
        assert record.image is not None
        samples.append(encode_record(tiny_processor, record, open_image(record.image)))
    tokens = sorted(len(sample.input_ids) for sample in samples)
    lengths = found.census.lengths
    assert lengths is not None and lengths.limit is None and lengths.max_new_tokens is None
    assert (lengths.samples, lengths.median, lengths.longest) == (9, tokens[4], tokens[-1])
    assert lengths.longest_answer == max(sum(label != IGNORED for label in sample.labels) for sample in samples)


def test_samples_beyond_the_recipes_length_are_found(records: Path) -> None:
    plain = examine_files([records], settings=settings_of(records)).census.lengths
    assert plain is not None and plain.too_long == 0 and plain.limit == 8192
    data = {"train": str(records), "max_length": plain.longest - 1}
    found = examine_files([records], settings=settings_of(records, data=data))
    finding = next(finding for finding in found.findings if finding.code == "too_long")
    assert finding.level == "warning" and finding.message.startswith(f"its sample has {plain.longest} tokens, ")
    assert finding.message.endswith(f"; {plain.longest - 1} are taken at most")
    assert any("of samples have more than" in words for words in found.census.advice)


def test_rows_by_tokens_are_a_limit_too(records: Path) -> None:
    found = examine_files([records], settings=settings_of(records, train={"pack_tokens": 30}))
    assert codes(found).count("too_long") == 9


def test_an_evaluation_that_stops_too_early_is_told(records: Path) -> None:
    settings = settings_of(records, evaluate={"max_new_tokens": 5})
    advice = examine_files([records], settings=settings).census.advice
    assert any("set evaluate.max_new_tokens=" in words for words in advice)


def test_an_answer_form_that_cannot_hold_a_record_is_an_error(records: Path) -> None:
    found = examine_files([records], settings=settings_of(records, answer={"form": "bare"}))
    (error,) = [finding for finding in found.findings if finding.level == "error"]
    assert (error.code, error.record) == ("unwritable", "cat-eyes")
    assert "'bare' holds one target, not 2" in error.message and "answer.form" in error.cure
    assert found.census.lengths is not None and found.census.lengths.samples == 8


def test_records_without_a_picture_that_can_be_read_are_not_measured(records: Path) -> None:
    extra = [{"image": "images/gone.jpg", "question": "?", "targets": []}, {"question": "Who?", "answer": "A model."}]
    records.write_text(records.read_text() + "".join(json.dumps(row) + "\n" for row in extra))
    found = examine_files([records], model="tiny")
    assert codes(found).count("missing_picture") == 1
    assert found.census.lengths is not None and found.census.lengths.samples == 10


def test_a_recipe_and_a_model_are_one_too_many(records: Path) -> None:
    with pytest.raises(gl.SettingsError, match="both --recipe and --model"):
        examine_files([records], settings=settings_of(records), model="tiny")


def test_the_public_check_takes_a_model(records: Path) -> None:
    read = gl.read_records(records)
    assert gl.check(read) == []
    grounder = gl.load("tiny")
    assert gl.check(read, model="tiny") == gl.check(read, model=grounder)
