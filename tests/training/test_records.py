"""What a run learns from: bad records set aside by name, several files mixed, nothing ever cut."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from drawn import Recipe, read_metrics
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import groundling as gl
from groundling.data.shards import open_shards, write_shards
from groundling.geometry.images import open_image
from groundling.inference.batch import IGNORED, encode_record, pack_row
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training import records as module
from groundling.training.ready import build_dataset, build_sampler
from groundling.training.records import (
    Gathered,
    RecordDataset,
    blank_sample,
    build_augmenter,
    choose_sample,
    gather_records,
    join_samples,
    longest_sample,
    measure,
    measure_changed,
    mix_numbers,
    pictures_of,
    refuse_unmeasurable,
    room_for_samples,
    write_set_aside,
)
from groundling.training.rows import Length, Row, RowPlan, RowSampler


def settings_of(**data: Any) -> Settings:
    return Settings.model_validate({"model": {"name": "tiny"}, "data": data, "run": {"dir": "run"}})


# ---- mixing ----------------------------------------------------------------------------------------------------


def asked(*questions: str) -> list[gl.Record]:
    return [gl.Record(question=question, image=None) for question in questions]


def mix(counts: list[int], weights: list[float], seed: int = 0) -> list[list[int]]:
    return [numbers.tolist() for numbers in mix_numbers(counts, weights, seed=seed)]


def test_weights_say_how_often_a_record_is_seen() -> None:
    twice, half = mix([3, 4], [2, 0.5])
    assert twice == [0, 1, 2, 0, 1, 2]
    assert len(half) == 2 and set(half) < {0, 1, 2, 3} and half == sorted(half)
    assert mix([3, 4], [2, 0.5]) == [twice, half]
    chosen = {tuple(mix([4], [0.5], seed)[0]) for seed in range(20)}
    assert len(chosen) > 3, "another seed, another half"


def test_a_weight_between_whole_numbers_adds_some() -> None:
    assert len(mix([10], [1.3])[0]) == 13
    assert mix([0], [2.0]) == [[]]


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


def test_rows_are_those_of_samples_encoded_one_by_one(
    tiny_processor: Processor, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, though words are encoded three samples at a time; from a record file and from shards."""
    monkeypatch.setattr(module, "_ENCODED_AT_ONCE", 3)
    names = ("train", "uneven", "words", "test")
    everything = [record for name in names for record in gl.read_records(scenes / f"{name}.jsonl")]
    again = [replace(record, question=f"{record.question} again", id=f"{record.id}-2") for record in everything]
    write_shards([*everything, *again], tmp_path / "packed", shards=2)
    packed = list(open_shards(tmp_path / "packed"))
    gl.write_records(packed, tmp_path / "plain.jsonl")
    samples = [
        encode_record(tiny_processor, one, None if one.image is None else open_image(one.image)) for one in packed
    ]
    image = tiny_processor.image_token_id
    lengths = [Length(len(ids), len(ids) - ids[::-1].index(image) if image in ids else 0) for ids, _, _ in samples]
    for source in (tmp_path / "packed", tmp_path / "plain.jsonl"):
        settings = settings_of(train=str(source))
        gathered = gather_records(settings, tiny_processor)
        assert list(gathered.train) == packed and list(gathered.lengths) == lengths
        plan = RowPlan(1, 300, 2, 1, True)
        pictures = pictures_of(gathered.train)
        rows = [list(RowSampler(pictures, each, plan, seed=5)) for each in (gathered.lengths, lengths)]
        assert rows[0] == rows[1] and len(rows[0]) > 5


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
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    told = rf"no record of data\.{part} can be used: 1 errors.*; the first: .*; `groundling check .*bad\.jsonl` tells"
    with pytest.raises(gl.SettingsError, match=told):
        gl.train(recipe(data=data))
    with pytest.raises(gl.RecordError, match=r"empty\.jsonl holds no records; `groundling convert` makes some"):
        gl.train(recipe(data=data | {part: str(tmp_path / "empty.jsonl")}))


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
    assert row["pixels"].dtype == both["pixels"].dtype == torch.uint8, "bytes until they are on the device"
    assert torch.equal(both["input_ids"], pack_row([*words, seen], tiny_processor)["input_ids"])


@given(
    words=st.lists(st.integers(1, 60), max_size=12),
    pictures=st.integers(0, 3),
    room=st.integers(0, 300),
    weight=st.sampled_from([1, 2]),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_no_row_is_over_its_budget_with_the_blank_picture_counted(
    tiny_processor: Processor, scenes: Path, words: list[int], pictures: int, room: int, weight: int
) -> None:
    shapes = gl.read_records(scenes / "train.jsonl")[:pictures]
    counted = [gl.Record(question="count", image=None, answer=" ".join(["1"] * end)) for end in words]
    records = [*shapes, *counted * weight]
    blank = len(blank_sample(tiny_processor).input_ids)
    lengths = [measure(record, tiny_processor, 10**6) for record in records]
    alone = [at.tokens + (0 if one.image else blank) for one, at in zip(records, lengths, strict=True)]
    budget = max(alone, default=1) + room
    plan = RowPlan(1, room_for_samples(records, tiny_processor, budget), 1, 1, True)
    sampler = RowSampler([record.image for record in records], lengths, plan, seed=room)
    dataset = RecordDataset(records, tiny_processor, max_pixels=10**8)

    rows = [join_samples(dataset.__getitems__(row), tiny_processor) for row in sampler]

    assert max((row["input_ids"].shape[1] for row in rows), default=0) <= budget
    assert room_for_samples(shapes, tiny_processor, budget) == budget, "nothing is kept free where nobody needs it"


def test_words_that_leave_no_room_for_the_blank_picture_are_set_aside(
    tiny_processor: Processor, scenes: Path, tmp_path: Path
) -> None:
    records = gl.read_records(scenes / "words.jsonl")
    longest = measure(records[-1], tiny_processor, 10**6).tokens
    blank = len(blank_sample(tiny_processor).input_ids)

    def gather(pack: int, max_length: int) -> tuple[Settings, Gathered]:
        data = settings_of(train=str(scenes / "words.jsonl"), max_length=max_length)
        packed = Settings.model_validate(data.model_dump() | {"train": {"pack_tokens": pack}})
        return packed, gather_records(packed, tiny_processor)

    assert len(gather(longest + blank, longest)[1].train) == 4
    packed, gathered = gather(longest + blank - 1, 1000)
    assert [(found.record, found.tokens) for found in gathered.too_long] == [(records[-1], longest)]
    write_set_aside(gathered, tmp_path / "set-aside.jsonl", packed)
    (line,) = (tmp_path / "set-aside.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"] == (
        f"{longest} tokens and a blank picture's beside them; train.pack_tokens is {longest + blank - 1}"
    )
    sampler = build_sampler(gathered, build_dataset(gathered, tiny_processor, packed), packed)
    assert sampler.plan.pack_tokens == longest - 1, "the rest is kept for the blank picture"


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


# ---- changed while training ------------------------------------------------------------------------------------

EVERYTHING = {"flip": 0.5, "rotate": 0.5, "crop": 0.5, "scale": 0.5, "mosaic": 0.3, "colour": 0.5, "jpeg": 0.5}


@pytest.fixture
def several(scenes: Path, tmp_path: Path) -> Path:
    """A record file of eight pictures, all asked for a, b, c, the first four also for their shapes; and of words."""
    drawn = gl.read_records(scenes / "train.jsonl")[:8]
    records = [replace(record, question=question) for record in drawn for question in "abc"] + drawn[:4]
    shutil.copytree(scenes / "images", tmp_path / "images")
    moved = [replace(record, image=tmp_path / "images" / record.image.name) for record in records if record.image]
    gl.write_records([*moved, *gl.read_records(scenes / "words.jsonl")], tmp_path / "several.jsonl")
    return tmp_path / "several.jsonl"


def augmented(file: Path, max_length: int = 8192, **augment: float) -> Settings:
    values = settings_of(train=str(file), max_length=max_length).model_dump()
    return Settings.model_validate(values | {"augment": augment, "train": {"seed": 5}})


def test_without_augmentation_samples_are_what_they_were(tiny_processor: Processor, several: Path) -> None:
    settings = augmented(several)
    gathered = gather_records(settings, tiny_processor)
    assert gathered.frames == {} and build_augmenter(gathered, settings, tiny_processor) is None
    samples = RecordDataset(gathered.train, tiny_processor, max_pixels=10**8).__getitems__(Row([0, 1, 30], epoch=3))
    for sample, number in zip(samples, (0, 1, 30), strict=True):
        record = gathered.train[number]
        plain = encode_record(tiny_processor, record, None if record.image is None else open_image(record.image))
        assert (sample.input_ids, sample.labels) == (plain.input_ids, plain.labels)
        if sample.patches is not None and plain.patches is not None:
            assert torch.equal(sample.patches.pixels, plain.patches.pixels)


def test_lengths_of_changed_samples_are_known_before_a_picture_is_opened(
    tiny_processor: Processor, several: Path
) -> None:
    settings = augmented(several, **EVERYTHING)
    gathered = gather_records(settings, tiny_processor)
    augmenter = build_augmenter(gathered, settings, tiny_processor)
    assert augmenter is not None
    dataset = RecordDataset(gathered.train, tiny_processor, max_pixels=10**8, augmenter=augmenter)
    limit = longest_sample(settings)
    different = 0
    for epoch, attempt in ((0, 0), (1, 0), (1, 2)):
        lengths = measure_changed(
            epoch, attempt, records=gathered, augmenter=augmenter, processor=tiny_processor, limit=limit
        )
        samples = dataset.__getitems__(Row(list(range(len(gathered.train))), epoch, attempt))
        for sample, length in zip(samples, lengths, strict=True):
            assert len(sample.input_ids) == length.tokens
            assert sample.input_ids[: length.shared].count(tiny_processor.image_token_id) == (
                sample.input_ids.count(tiny_processor.image_token_id)
            )
        different += sum(length != plain for length, plain in zip(lengths, gathered.lengths, strict=True))
    assert different > 20


def test_questions_about_a_changed_picture_share_it_in_any_order(tiny_processor: Processor, several: Path) -> None:
    settings = augmented(several, **EVERYTHING)
    gathered = gather_records(settings, tiny_processor)
    augmenter = build_augmenter(gathered, settings, tiny_processor)
    dataset = RecordDataset(gathered.train, tiny_processor, max_pixels=10**8, augmenter=augmenter)
    forth = dataset.__getitems__(Row([12, 13, 14, 15, 16], epoch=2))
    back = dataset.__getitems__(Row([16, 15, 14, 13, 12], epoch=2))[::-1]
    assert len({id(sample.patches) for sample in forth}) == 2
    for one, other in zip(forth, back, strict=True):
        assert (one.input_ids, one.labels) == (other.input_ids, other.labels)
        assert one.patches is not None and other.patches is not None
        assert torch.equal(one.patches.pixels, other.patches.pixels)
    assert pack_row(forth[:3], tiny_processor)["image_grid_thw"].shape == (1, 3)


def test_no_change_makes_a_sample_longer_than_it_may_be(tiny_processor: Processor, several: Path) -> None:
    most = max(length.tokens for length in gather_records(augmented(several), tiny_processor).lengths)
    for limit, is_longer in ((most, False), (8192, True)):
        settings = augmented(several, max_length=limit, mosaic=1)
        gathered = gather_records(settings, tiny_processor)
        augmenter = build_augmenter(gathered, settings, tiny_processor)
        dataset = RecordDataset(gathered.train, tiny_processor, max_pixels=10**8, augmenter=augmenter)
        tokens = [len(sample.input_ids) for sample in dataset.__getitems__(Row(list(range(28))))]
        assert (max(tokens) > most) == is_longer


def test_a_mosaic_needs_an_answer_form_that_holds_it(tiny_processor: Processor, several: Path) -> None:
    bare = tiny_processor.with_contract(replace(tiny_processor.contract, answer_form="bare"))
    with pytest.raises(gl.SettingsError, match=r"augment\.mosaic is 0\.3, and the answer form 'bare' holds one target"):
        gather_records(augmented(several, mosaic=0.3), bare)
    assert gather_records(augmented(several, crop=1), bare).frames


def test_all_changes_together_train(recipe: Recipe, several: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = {"max_steps": 20, "learning_rate": 3e-3, "workers": 2}
    caplog.set_level("INFO", "groundling")
    run = gl.train(recipe(data={"train": str(several)}, train=train, augment=EVERYTHING, run={"pictures": 4}))
    losses = [line["loss"] for line in read_metrics(run)]
    assert losses[-1] < losses[0] - 1
    assert (
        "augmentation, as words allow, of 8 pictures: crop 8, flip 8, mosaic 8, rotate 8, scale 8 (4 have"
        in caplog.text
    )
    assert (run / "samples" / "first-batch.jpg").is_file()
