"""What a run learns from: bad records set aside by name, several files mixed, nothing ever cut."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import Recipe
from PIL import Image

import groundling as gl
from groundling.geometry.images import open_image
from groundling.inference.batch import IGNORED, encode_record, pack_row
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training import records as module
from groundling.training.records import (
    RecordDataset,
    choose_sample,
    gather_records,
    join_samples,
    measure,
    mix_records,
    refuse_unmeasurable,
    write_set_aside,
)
from groundling.training.rows import Row


def settings_of(**data: Any) -> Settings:
    return Settings.model_validate({"model": {"name": "tiny"}, "data": data, "run": {"dir": "run"}})


# ---- mixing ----------------------------------------------------------------------------------------------------


def asked(*questions: str) -> list[gl.Record]:
    return [gl.Record(question=question, image=None) for question in questions]


def test_weights_say_how_often_a_record_is_seen() -> None:
    twice, half = asked("a", "b", "c"), asked("d", "e", "f", "g")
    mixed = [record.question for record in mix_records([twice, half], [2, 0.5], seed=0)]
    assert mixed[:6] == ["a", "b", "c", "a", "b", "c"]
    assert len(mixed[6:]) == 2 and set(mixed[6:]) < {"d", "e", "f", "g"} and mixed[6:] == sorted(mixed[6:])
    assert mixed == [record.question for record in mix_records([twice, half], [2, 0.5], seed=0)]
    chosen = {tuple(record.question for record in mix_records([half], [0.5], seed=seed)) for seed in range(20)}
    assert len(chosen) > 3, "another seed, another half"


def test_a_weight_between_whole_numbers_adds_some() -> None:
    assert len(mix_records([asked(*"abcdefghij")], [1.3], seed=0)) == 13
    assert mix_records([[]], [2.0], seed=0) == []


def test_the_sample_is_the_same_every_time_and_in_order() -> None:
    records = asked(*(f"{number:02}" for number in range(30)))
    sample = choose_sample(records, 10, seed=0)
    assert sample == choose_sample(records, 10, seed=0) != choose_sample(records, 10, seed=1)
    assert [record.question for record in sample] == sorted(record.question for record in sample)
    assert choose_sample(records, 99, seed=0) == records


def test_a_metric_that_applies_to_no_test_record_is_refused(scenes: Path) -> None:
    single, none = gl.read_records(scenes / "test.jsonl"), gl.read_records(scenes / "none.jsonl")
    for sample, metric in ((single, "acc@0.5"), (single, "f1@0.75"), (none, "none_recall"), (none, "parse_rate")):
        refuse_unmeasurable(sample, metric)
    for sample, metric in ((single, "none_recall"), (none, "miou")):
        with pytest.raises(gl.SettingsError, match=rf"evaluate\.metric is {metric}, which applies to none of the"):
            refuse_unmeasurable(sample, metric)


# ---- lengths ---------------------------------------------------------------------------------------------------


def test_lengths_are_those_of_the_samples(tiny_processor: Processor, scenes: Path) -> None:
    records = [*gl.read_records(scenes / "uneven.jsonl"), *gl.read_records(scenes / "words.jsonl")]
    records.append(replace(records[0], targets=(), answer="a scene with shapes"))
    for record in records:
        picture = None if record.image is None else open_image(record.image)
        sample = encode_record(tiny_processor, record, picture)
        length = measure(record, tiny_processor, 10**6)
        assert length.tokens == len(sample.input_ids) == len(sample.labels)
        assert sample.input_ids[: length.shared].count(tiny_processor.image_token_id) == (
            sample.input_ids.count(tiny_processor.image_token_id)
        )
        assert length.shared == 0 or sample.input_ids[length.shared - 1] == tiny_processor.image_token_id


def test_what_is_too_long_is_set_aside_and_nothing_is_cut(
    tiny_processor: Processor, scenes: Path, tmp_path: Path
) -> None:
    records = gl.read_records(scenes / "uneven.jsonl")
    lengths = [measure(record, tiny_processor, 10**6).tokens for record in records]
    assert lengths == sorted(lengths) and lengths[1] < lengths[2]
    settings = settings_of(train=str(scenes / "uneven.jsonl"), max_length=lengths[1])
    gathered = gather_records(settings, tiny_processor)
    assert gathered.train == records[:2] and gathered.read == 4
    assert [length.tokens for length in gathered.lengths] == lengths[:2]
    assert [(found.record, found.tokens) for found in gathered.too_long] == [
        (records[2], lengths[2]),
        (records[3], lengths[3]),
    ]
    assert write_set_aside(gathered, tmp_path / "set-aside.jsonl", settings) == 2
    first = json.loads((tmp_path / "set-aside.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["line"] == 3 and first["code"] == "too_long" and first["record"] == "uneven-2"
    assert first["reason"] == f"{lengths[2]} tokens; data.max_length is {lengths[1]}"


def test_nothing_that_fits_is_refused(tiny_processor: Processor, scenes: Path) -> None:
    with pytest.raises(gl.SettingsError, match=r"no record of data\.train .* 4 too long \(data\.max_length is 20\)"):
        gather_records(settings_of(train=str(scenes / "uneven.jsonl"), max_length=20), tiny_processor)


def test_a_row_of_fewer_tokens_is_a_limit_too(tiny_processor: Processor, scenes: Path) -> None:
    train = {"pack_tokens": 30}
    settings = Settings.model_validate(settings_of(train=str(scenes / "uneven.jsonl")).model_dump() | {"train": train})
    with pytest.raises(gl.SettingsError, match=r"4 too long \(train\.pack_tokens is 30\)"):
        gather_records(settings, tiny_processor)


def test_an_answer_form_that_cannot_hold_a_record_is_refused(tiny_processor: Processor, scenes: Path) -> None:
    bare = tiny_processor.with_contract(replace(tiny_processor.contract, answer_form="bare"))
    with pytest.raises(gl.RecordError, match=r"uneven\.jsonl:2: .*'bare' holds one target, not 4; use"):
        gather_records(settings_of(train=str(scenes / "uneven.jsonl")), bare)


# ---- bad records -----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed_bag(scenes: Path, tmp_path: Path) -> Path:
    """A record file of the 20 good records and one of each bad thing, in the order of BAD."""
    folder = tmp_path / "bag"
    shutil.copytree(scenes, folder)
    good = (folder / "images" / "train-0.png").read_bytes()
    made = {
        "cut.png": good[: len(good) // 2],
        "empty.png": b"",
        "drawing.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in made.items():
        (folder / "images" / name).write_bytes(content)
    Image.fromarray(np.zeros((40, 40), dtype=np.float32)).save(folder / "images" / "floats.tif")
    Image.new("RGB", (3000, 10)).save(folder / "images" / "strip.png")
    lines = [json.dumps(line) if isinstance(line, dict) else line for line in BAD.values()]
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def bad(image: str = "images/train-0.png", box: Any = (10, 10, 90, 90), **more: Any) -> dict[str, Any]:
    return {"question": "the thing", "image": image, "targets": [{"box": list(box)}]} | more


BAD: dict[str, Any] = {
    "no JSON": '{"question": ',
    "NaN": '{"question": "q", "image": "images/train-0.png", "targets": [{"box": [NaN, 1, 2, 3]}]}',
    "no targets": {"question": "q", "image": "images/train-0.png"},
    "outside its folder": bad("../bag.png"),
    "absolute": bad("/etc/hostname"),
    "missing picture": bad("images/nowhere.png"),
    "cut picture": bad("images/cut.png"),
    "empty picture": bad("images/empty.png"),
    "drawing": bad("images/drawing.jpg"),
    "picture of floats": bad("images/floats.tif"),
    "strip": bad("images/strip.png", (0, 0, 100, 10)),
    "corners out of order": bad(box=(90, 90, 10, 10)),
    "no area": bad(box=(10, 10, 10, 90)),
    "outside its picture": bad(box=(10, 10, 900, 90)),
    "wrong size": bad(width=100, height=224),
    "no question": bad(question=" "),
}


def test_one_of_each_bad_record_is_set_aside_and_the_rest_trained(
    recipe: Recipe, mixed_bag: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = gl.train(recipe(data={"train": str(mixed_bag), "test": str(mixed_bag)}))
    lines = (run / "set-aside.jsonl").read_text(encoding="utf-8").splitlines()
    found = {json.loads(line)["line"]: json.loads(line)["reason"] for line in lines}
    assert sorted(found) == list(range(21, 21 + len(BAD))), "every bad line, and no good one"
    assert all(found.values())
    assert json.loads((run / "final" / "groundling.json").read_text())["trained_on"]["records"] == 20
    assert json.loads((run / "report" / "report.json").read_text())["n"] == 20
    assert any("records are set aside" in message for message in caplog.messages)


def test_strict_refuses_a_bad_record(recipe: Recipe, mixed_bag: Path) -> None:
    with pytest.raises(gl.SettingsError, match=r"data\.strict is set, and the data has \d+ errors; the first: .*:21: "):
        gl.train(recipe(data={"train": str(mixed_bag), "strict": True}))


@pytest.mark.parametrize("part", ["train", "test"])
def test_no_usable_record_is_refused(recipe: Recipe, scenes: Path, tmp_path: Path, part: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "image": "x.png", "targets": []}\n', encoding="utf-8")
    data = {"train": str(scenes / "train.jsonl"), part: str(tmp_path / "bad.jsonl")}
    with pytest.raises(gl.SettingsError, match=rf"no record of data\.{part} can be used: 1 errors; the first: "):
        gl.train(recipe(data=data))


def test_answers_longer_than_will_be_generated_are_told(recipe: Recipe, scenes: Path, caplog) -> None:
    gl.train(recipe(data={"test": str(scenes / "test.jsonl")}, train={"max_steps": 1}))
    assert "evaluate.max_new_tokens is 8, and a true answer in data.test has" in caplog.text


def test_what_check_finds_is_told_before_the_training(recipe: Recipe, scenes: Path, tmp_path: Path, caplog) -> None:
    gl.train(recipe(data={"test": [str(scenes / "train.jsonl")]}, train={"max_steps": 1}))
    assert "train.jsonl is both trained on and measured on" in caplog.text
    gl.write_records(gl.read_records(scenes / "train.jsonl"), tmp_path / "copy.jsonl")
    data = {"test": str(tmp_path / "copy.jsonl"), "allow_absolute": True}
    gl.train(recipe("other", data=data, train={"max_steps": 1}))
    assert re.search(r"leak: \d+ findings in the data, listed in", caplog.text)


# ---- rows ------------------------------------------------------------------------------------------------------


def test_only_a_row_of_words_alone_gets_a_blank_picture(tiny_processor: Processor, scenes: Path) -> None:
    words = [encode_record(tiny_processor, record, None) for record in gl.read_records(scenes / "words.jsonl")]
    shape = gl.read_records(scenes / "train.jsonl")[0]
    assert shape.image is not None
    seen = encode_record(tiny_processor, shape, open_image(shape.image))
    row, plain = join_samples(words, tiny_processor), pack_row(words, tiny_processor)
    length = plain["input_ids"].shape[1]
    assert row["image_grid_thw"].tolist() == [[1, 2, 2]] and "image_grid_thw" not in plain
    assert torch.equal(row["input_ids"][:, :length], plain["input_ids"])
    assert torch.equal(row["labels"][:, :length], plain["labels"])
    assert row["labels"][0, length:].eq(IGNORED).all(), "nobody is asked about the blank picture"
    assert row["layout"].stretches[:-1] == plain["layout"].stretches
    both = join_samples([*words, seen], tiny_processor)
    assert torch.equal(both["input_ids"], pack_row([*words, seen], tiny_processor)["input_ids"])


def test_a_picture_is_opened_once_a_row(
    tiny_processor: Processor, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = gl.read_records(scenes / "train.jsonl")[:2]
    opened: list[object] = []
    monkeypatch.setattr(module, "open_image", lambda image, **_: opened.append(image) or open_image(image))

    records = [one, other, replace(one, question="it")]
    dataset = RecordDataset(records, tiny_processor, max_pixels=10**8)
    samples = dataset.__getitems__(Row([0, 1, 2]))

    assert opened == [one.image, other.image]
    assert [stretch.prefix > 0 for stretch in pack_row(samples, tiny_processor)["layout"].stretches] == [
        False,
        False,
        True,
    ]
    assert samples[1].input_ids == dataset[1].input_ids
    apart = RecordDataset(records, tiny_processor, max_pixels=10**8, share_pictures=False).__getitems__(Row([0, 1, 2]))
    assert not any(stretch.prefix for stretch in pack_row(apart, tiny_processor)["layout"].stretches)


def test_words_shapes_and_several_files_train_together(recipe: Recipe, scenes: Path) -> None:
    sources = [str(scenes / "train.jsonl"), {"path": str(scenes / "words.jsonl"), "weight": 3}]
    run = gl.train(recipe(data={"train": sources}, train={"epochs": 1, "max_steps": None}))
    trained_on = json.loads((run / "final" / "groundling.json").read_text(encoding="utf-8"))["trained_on"]
    assert trained_on["records"] == 20 + 3 * 4
