"""Training on shards: each record once an epoch, each row group read about once, the weights those of a record file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import Recipe, changed_weights, read_metrics
from PIL import Image

import groundling as gl
from groundling.data import shards as module
from groundling.data.shards import Shards, open_shards, read_group, write_shards
from groundling.evaluation.processes import from_main_process
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.mixture import WINDOW_GROUPS, Mixture, Part
from groundling.training.ready import build_dataset, build_sampler
from groundling.training.records import Gathered, gather_records, pictures_of, write_set_aside
from groundling.training.rows import Lengths


def settings_of(*train: Path | dict[str, Any], **sections: Any) -> Settings:
    sources = [source if isinstance(source, dict) else str(source) for source in train]
    plain = {"model": {"name": "tiny"}, "data": {"train": sources}, "run": {"dir": "run"}}
    return Settings.model_validate(plain | sections)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 questions about 320 pictures and 8 of words alone, in 5 shards of 17 row groups of 4 rows: 6 windows."""
    folder = tmp_path_factory.mktemp("many")
    records = [gl.Record(question=f"count {end}", image=None, answer="one", id=f"words-{end}") for end in range(8)]
    for number in range(320):
        image = folder / f"{number}.png"
        Image.new("RGB", (56, 56), (number % 256, number // 256, 0)).save(image)
        target = gl.Target(box=(1, 2, 20 + number % 30, 40))
        records += [gl.Record(f"the {again} thing", image, (target,), id=f"{number}-{again}") for again in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GROUP_ROWS", 4)
        write_shards(records, folder / "many", shards=5, seed=1)
    return folder / "many"


def sampler_of(
    records: Gathered, processor: Processor, settings: Settings, *, epoch: int = 0, processes: int = 1
) -> Any:
    dataset = build_dataset(records, processor, settings)
    sampler = build_sampler(records, dataset, settings, processes=processes)
    sampler.epoch = lambda: epoch
    return sampler


# ---- windows ---------------------------------------------------------------------------------------------------


def test_windows_are_whole_row_groups_of_a_few_shards(many: Path) -> None:
    shards = open_shards(many)
    assert len(shards) == 648 and len(shards.group_files) == 85
    mixture = Mixture([Part(shards, np.arange(len(shards)))])
    seen: list[list[set[int]]] = []
    for seed in (0, 1):
        windows = mixture.windows(np.random.default_rng(seed))
        assert len(windows) == -(-85 // WINDOW_GROUPS) == 6
        assert sorted(chain(*windows)) == list(range(648))
        groups = [set(shards.groups_of(shards.rows_of(numbers)).tolist()) for numbers in windows]
        assert sum(map(len, groups)) == 85, "none is torn"
        assert max(map(len, groups)) <= WINDOW_GROUPS
        files = [Counter(shards.group_files[[*own]].tolist()) for own in groups]
        assert max(map(len, files)) <= 2, "one shard after the other"
        first = min(files[0].elements())
        assert {group for group in groups[0] if shards.group_files[group] == first} not in (
            set(range(first * 17, first * 17 + files[0][first])),
            set(range(first * 17 + 17 - files[0][first], first * 17 + 17)),
        ), "the row groups of a shard are shuffled"
        seen.append(groups)
    assert seen[0] != seen[1], "another epoch, another order"


def test_what_is_no_shard_is_dealt_over_the_windows_by_picture(many: Path) -> None:
    shards = open_shards(many)
    images = [Path(f"{number % 70}.png") for number in range(140)]
    plain = [gl.Record("what?", image) for image in images]
    mixture = Mixture([Part(shards, np.arange(len(shards))), Part(plain, np.tile(np.arange(140), 2))])
    assert len(mixture) == 648 + 280
    assert mixture[648 + 141] == mixture[648 + 1] == plain[1] and mixture[647] == shards[647]
    windows = mixture.windows(np.random.default_rng(0))
    pictures = mixture.pictures()
    place = {picture: set[int]() for picture in pictures if picture is not None}
    for number, numbers in enumerate(windows):
        for picture in {pictures[one] for one in numbers.tolist()} - {None}:
            place[picture].add(number)
    assert len(place) == 320 + 70 and {len(found) for found in place.values()} == {1}, "no picture in two windows"
    plain_ones = {sum(one >= 648 for one in numbers.tolist()) for numbers in windows}
    assert plain_ones == {4 * 11, 4 * 12}, "4 records of 11 or 12 pictures each"


def test_two_sets_of_shards_share_no_picture(many: Path) -> None:
    parts = [Part(open_shards(many), np.arange(648)), Part(open_shards(many), np.arange(648))]
    pictures = Mixture(parts).pictures()
    assert pictures.count(None) == 16 and len(set(pictures)) == 641


@pytest.mark.parametrize("plan", [{"batch_size": 6, "accumulate": 2}, {"batch_size": 1, "pack_tokens": 600}])
def test_an_epoch_has_every_record_once_and_reads_each_group_about_once(
    many: Path, tiny_processor: Processor, plan: dict[str, int]
) -> None:
    settings = settings_of(many, train=plan)
    records = gather_records(settings, tiny_processor)
    assert isinstance(records.train, Mixture) and len(records.train) == 648
    orders: list[list[int]] = []
    for epoch in (0, 1):
        for processes in (1, 2):
            sampler = sampler_of(records, tiny_processor, settings, epoch=epoch, processes=processes)
            rows = [row.numbers for row in sampler]
            assert sorted(chain(*rows)) == list(range(648))
            assert len(rows) == len(sampler) and len(rows) % processes == 0
            assert rows == [row.numbers for row in sampler], "the same rows whenever they are drawn"
        orders.append(list(chain(*rows)))
        read_group.cache_clear()
        for row in rows:
            for number in row:
                records.train[number]
        read = read_group.cache_info().misses
        assert 85 <= read <= 85 * 1.1, f"{read} groups read"
    assert orders[0] != orders[1]
    rows_read = open_shards(many).rows_of(np.array(orders[0]))
    steps = np.diff(rows_read)[np.diff(rows_read) != 0]
    assert (np.abs(steps) > 8).mean() > 0.5, "shuffled, and not read through"


def test_rows_share_pictures_as_those_of_a_record_file_do(
    many: Path, tiny_processor: Processor, tmp_path: Path
) -> None:
    gl.write_records(open_shards(many), tmp_path / "same.jsonl")
    described: list[float] = []
    for source in (many, tmp_path / "same.jsonl"):
        settings = settings_of(
            source, train={"batch_size": 1, "pack_tokens": 900}, data={"train": str(source), "allow_absolute": True}
        )
        records = gather_records(settings, tiny_processor)
        pictures = pictures_of(records.train)
        rows = list(sampler_of(records, tiny_processor, settings))
        described.append(sum(len({pictures[number] for number in row.numbers}) for row in rows) / len(rows))
    assert described[0] == pytest.approx(described[1], rel=0.1)


# ---- gathered --------------------------------------------------------------------------------------------------


def test_shards_are_gathered_as_their_record_file_is(scenes: Path, tiny_processor: Processor, tmp_path: Path) -> None:
    records = [record for name in ("train", "uneven", "words") for record in gl.read_records(scenes / f"{name}.jsonl")]
    records.append(replace(records[0], targets=(gl.Target(box=(10, 10, 5000, 20)),), id="beyond"))
    records.append(replace(records[0], question=" ", id="silent"))
    records.append(replace(records[1], targets=(gl.Target(box=(90, 40, 20, 10)),), id="inverted"))
    write_shards(records, tmp_path / "packed", shards=2)
    shards = open_shards(tmp_path / "packed")
    by_id = {record.id: record.image for record in records}
    gl.write_records([replace(record, image=by_id[record.id]) for record in shards], tmp_path / "plain.jsonl")
    write_shards(gl.read_records(scenes / "test.jsonl"), tmp_path / "test", shards=2)
    longest = {"max_length": 120, "allow_absolute": True, "test": str(tmp_path / "test")}
    found: list[Gathered] = []
    for source in (tmp_path / "packed", tmp_path / "plain.jsonl"):
        settings = settings_of(data={"train": str(source)} | longest)
        found.append(gather_records(settings, tiny_processor))
        assert write_set_aside(found[-1], tmp_path / "aside.jsonl", settings) == 3 + len(found[-1].too_long)
    packed, plain = found
    assert [record.id for record in packed.train] == [record.id for record in plain.train]
    assert list(packed.lengths) == list(plain.lengths) and isinstance(packed.lengths, Lengths)
    assert (
        [(long.record.id, long.tokens) for long in packed.too_long]
        == [(long.record.id, long.tokens) for long in plain.too_long]
        != []
    )
    errors = [Counter((one.code, one.record) for one in each.findings if one.level == "error") for each in found]
    assert errors[0].keys() == errors[1].keys() and len(errors[0]) == 3
    assert packed.test == plain.test == list(open_shards(tmp_path / "test"))
    assert packed.read == plain.read == len(records) + 6


def flip(file: Path, columns: dict[int, str]) -> None:
    """Change a byte on the page of a column, in each of these row groups."""
    metadata, whole = pq.read_metadata(file), bytearray(file.read_bytes())
    names = [metadata.row_group(0).column(number).path_in_schema for number in range(metadata.num_columns)]
    for group, column in columns.items():
        chunk = metadata.row_group(group).column(names.index(column))
        whole[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    file.write_bytes(whole)
    read_group.cache_clear()


class Damage(NamedTuple):
    """What was done to a set of shards."""

    folder: Path
    rows: dict[str, str]  # FILE.parquet/ROW of each record, by its id
    texts: list[str]  # ids of the records whose words cannot be read
    pictures: set[str]  # and of those whose picture cannot


def damage(scenes: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Damage:
    """Shards of the scenes, two rows a group: one page of pictures, one of texts changed, one picture cut before."""
    monkeypatch.setattr(module, "GROUP_ROWS", 2)
    records = gl.read_records(scenes / "train.jsonl")
    cut = folder / "cut.png"
    cut.write_bytes(Path(str(records[0].image)).read_bytes()[:-50])
    write_shards([replace(records[0], image=cut), *records[1:]], folder / "packed", shards=2)
    everything = list(open_shards(folder / "packed"))
    flip(next(folder.glob("packed/*00000-of*")), {0: "records", 1: "image.bytes"})
    rows = {record.id: f"{record.image}" for record in everything}
    texts, pictures = ([one.id for one in everything[start : start + 2]] for start in (0, 2))
    return Damage(folder / "packed", rows, texts, {*pictures, records[0].id})


def test_what_is_damaged_in_shards_is_set_aside_and_named(
    recipe: Recipe, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="groundling")
    done = damage(scenes, tmp_path, monkeypatch)
    pictures = done.pictures - set(done.texts)
    run = gl.train(recipe(data={"train": str(done.folder)}, train={"max_steps": 6, "batch_size": 4}))
    lines = [json.loads(line) for line in (run / "set-aside.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(line["code"] for line in lines) == {"unreadable_record": 2, "unreadable_picture": len(pictures)}
    assert {(line["file"], line["line"]) for line in lines if line["record"] is None} == {
        (done.rows[one], 1) for one in done.texts
    }
    for line in lines:
        assert line["record"] is None or (line["record"] in pictures and done.rows[line["record"]] in line["reason"])
    assert f"{2 + len(pictures)} records are set aside" in caplog.text
    assert "20 lines read: " in caplog.text, "those that cannot be read are counted"
    trained = json.loads((run / "final" / "groundling.json").read_text(encoding="utf-8"))["trained_on"]
    assert trained["records"] == 18 - len(pictures)
    assert "done: " in caplog.text


def test_damaged_shards_are_refused_where_record_files_would_be(
    recipe: Recipe, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = damage(scenes, tmp_path, monkeypatch)
    with pytest.raises(
        gl.SettingsError, match=r"data\.strict is set, .* 2 errors; the first: .*\.parquet/\d+:1: .* rows"
    ):
        gl.train(recipe(data={"train": str(done.folder), "strict": True}))
    write_shards([gl.read_records(scenes / "train.jsonl")[0]], tmp_path / "one", shards=1)
    (only,) = (tmp_path / "one").iterdir()
    flip(only, {0: "image.bytes"})
    with pytest.raises(gl.SettingsError, match=r"no record of data\.train can be used: 1 errors; the first: "):
        gl.train(recipe(data={"train": str(tmp_path / "one")}))
    only.write_bytes(only.read_bytes()[:-1000])
    with pytest.raises(
        gl.RecordError, match=r"one-00000-of-00001\.parquet is no whole Parquet file: .*; bring it again"
    ):
        gl.train(recipe(data={"train": str(tmp_path / "one")}))


def test_sources_are_mixed_by_weight(scenes: Path, tiny_processor: Processor, tmp_path: Path) -> None:
    write_shards(gl.read_records(scenes / "train.jsonl"), tmp_path / "packed", shards=2)
    sources = [{"path": str(tmp_path / "packed"), "weight": 1.5}, {"path": str(scenes / "test.jsonl"), "weight": 2}]
    records = gather_records(settings_of(*sources), tiny_processor)
    times = Counter(record.id for record in records.train)
    assert sorted(times[f"train-{number}"] for number in range(20)) == [1] * 10 + [2] * 10
    assert all(times[f"test-{number}"] == 2 for number in range(6))
    assert len(records.train) == len(records.lengths) == 42
    rows = list(sampler_of(records, tiny_processor, settings_of(*sources, train={"batch_size": 4})))
    assert sorted(number for row in rows for number in row.numbers) == list(range(42))
    assert from_main_process(lambda: records) is records


def test_a_picture_larger_than_the_recipe_allows_is_set_aside(tiny_processor: Processor, tmp_path: Path) -> None:
    for name, side in (("small", 40), ("large", 90)):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{name}.png")
    write_shards(
        [gl.Record("it", tmp_path / f"{name}.png", id=name) for name in ("small", "large")], tmp_path / "s", shards=1
    )
    records = gather_records(settings_of(tmp_path / "s", images={"max_file_pixels": 2000}), tiny_processor)
    assert [record.id for record in records.train] == ["small"]
    assert [(found.code, found.record) for found in records.findings] == [("unfit_size", "large")]


# ---- trained ---------------------------------------------------------------------------------------------------

TEN = {"max_steps": 10, "learning_rate": 1e-3}


@pytest.fixture
def packed(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """The 20 records of train.jsonl in 3 shards, 20 row groups, 2 windows."""
    monkeypatch.setattr(module, "GROUP_ROWS", 1)
    write_shards(gl.read_records(scenes / "train.jsonl"), tmp_path / "packed", shards=3)
    return open_shards(tmp_path / "packed")


@pytest.mark.parametrize("plan", [{}, {"batch_size": 1, "pack_tokens": 300}])
def test_the_weights_are_those_of_a_record_file(
    recipe: Recipe, scenes: Path, tmp_path: Path, plan: dict[str, int]
) -> None:
    """To the bit, where the data is no larger than a window."""
    records = gl.read_records(scenes / "train.jsonl")
    write_shards(records, tmp_path / "packed", shards=3)
    images = {record.id: record.image for record in records}
    plain = [replace(record, image=images[record.id]) for record in open_shards(tmp_path / "packed")]
    gl.write_records(plain, tmp_path / "plain.jsonl")
    runs = [
        gl.train(recipe(name, data={"train": str(source), "allow_absolute": True}, train=plan | {"max_steps": 6}))
        for name, source in (("by shards", tmp_path / "packed"), ("by file", tmp_path / "plain.jsonl"))
    ]
    assert not changed_weights(runs[0] / "final", runs[1] / "final")
    assert [line["loss"] for line in read_metrics(runs[0])] == [line["loss"] for line in read_metrics(runs[1])]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_shards_goes_on_to_the_bit(recipe: Recipe, packed: Shards, tmp_path: Path, workers: int) -> None:
    """From the middle of the second epoch, of five steps each; loaded by workers as without."""
    data = {"train": str(packed.folder)}
    whole = gl.train(recipe("whole", data=data, train=TEN, run={"save_every": 7}))
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "final")
    shutil.rmtree(broken / "checkpoints" / "10")
    resumed = gl.train(recipe("broken", data=data, train=TEN | {"workers": workers}, run={"save_every": 7}))
    assert resumed == broken and not changed_weights(whole / "final", resumed / "final")
    assert changed_weights(whole / "checkpoints" / "7", resumed / "final"), "the last three steps were done"


def test_other_shards_are_no_data_to_go_on_with(recipe: Recipe, packed: Shards, tmp_path: Path) -> None:
    data = {"train": str(packed.folder)}
    short = recipe(data=data, train=TEN | {"max_steps": 4}, run={"save_every": 2})
    whole = gl.train(short)
    shutil.rmtree(whole / "final")
    shutil.rmtree(whole / "checkpoints" / "4")
    everything = list(packed)
    flip(packed.files[0], {0: "records"})
    told = r"has learned from other records .*: 20 .*, now 19 .*; 1 errors .* first: .*parquet is damaged"
    with pytest.raises(gl.SettingsError, match=told):
        gl.train(short)
    records = [replace(record, question=f"{record.question}?") for record in everything]
    write_shards(records, tmp_path / "other", shards=3)
    shutil.rmtree(packed.folder)
    (tmp_path / "other").rename(packed.folder)
    with pytest.raises(gl.SettingsError, match=r"has learned from other records than data\.train holds"):
        gl.train(short)


@pytest.mark.slow
def test_two_processes_learn_from_shards_what_one_does(recipe: Recipe, packed: Shards, tmp_path: Path) -> None:
    plan = {"max_steps": 8, "batch_size": 4, "workers": 1}
    data = {"train": str(packed.folder), "test": str(packed.folder)}
    one = gl.train(recipe("one", data=data, train=plan, evaluate={"every": 4}))
    two = recipe("two", data=data, train=plan | {"batch_size": 2}, evaluate={"every": 4})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(gl.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, "-m", "groundling", "train", str(two)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:]
    expected, found = read_metrics(one), read_metrics(tmp_path / "two")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for before, after in zip(expected, found, strict=True):
        for name in before.keys() & {"loss", "miou", "tokens"}:
            assert after[name] == pytest.approx(before[name], abs=1e-3), (name, before, after)
