"""Shards hold the records and pictures they were written from, give each when asked for it, and are whole or named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cameras import as_stored, exif
from PIL import Image

import groundling as gl
from groundling.checking import examine_files
from groundling.data import look
from groundling.data import shards as module
from groundling.data.convert import convert
from groundling.data.export import export
from groundling.data.look import find_unreadable, look_at_pictures
from groundling.data.predictions import scan_predictions
from groundling.data.shards import Shards, open_records, open_shards, read_group, write_shards
from groundling.errors import ImageError, RecordError, SettingsError
from groundling.evaluation.report import hash_records
from groundling.geometry import packed
from groundling.geometry.images import open_image
from groundling.geometry.packed import read_stored
from groundling.inference.gallery import find_pictures


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[gl.Record]:
    """40 questions about 13 pictures of every orientation, of some kinds of answers, and two records of words."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    kinds = [
        {"targets": (gl.Target(box=(3, 4, 20, 25.5), label="a mug", extra={"score": 0.5}),)},
        {"targets": (gl.Target(point=(7, 8)), gl.Target(box=(1, 2, 3, 4))), "extra": {"from": ["a", 1, None]}},
        {"targets": ()},
        {"answer": "it is \u0436 red", "extra": {"doubt": "hm"}},
    ]
    made: list[gl.Record] = []
    for number in range(40):
        image = folder / f"{number % 13}.png"
        upright = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        if not image.exists():
            orientation = 1 + number % 8
            as_stored(upright, orientation).save(image, exif=exif(orientation))
        made.append(gl.Record(f"what {number}?", image, id=f"r{number}", width=40, height=30, **kinds[number % 4]))
    words = [gl.Record(f"say {number}", None, answer="yes", id=f"w{number}") for number in range(2)]
    return [*made[:20], words[0], *made[20:], words[1]]


@pytest.fixture
def shards(records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """The records in four shards, three pictures in a row group."""
    monkeypatch.setattr(module, "GROUP_ROWS", 3)
    files = write_shards(records, tmp_path / "train", shards=4, seed=3)
    assert [file.name for file in files] == [f"train-{number:05}-of-00004.parquet" for number in range(4)]
    return open_shards(tmp_path / "train")


# ---- there and back --------------------------------------------------------------------------------------------


def test_what_comes_back_is_what_was_written(records: list[gl.Record], shards: Shards) -> None:
    assert len(shards) == len(records) and {record.id for record in shards} == {record.id for record in records}
    before = {record.id: record for record in records}
    for record in shards:
        own = before[record.id]
        assert replace(record, image=own.image) == own
        if record.image is None or own.image is None:
            assert record.image is own.image is None
            continue
        assert read_stored(record.image) == own.image.read_bytes(), "not one byte is changed"
        np.testing.assert_array_equal(open_image(record.image), open_image(own.image))


def test_numbers_stay_what_they_were(shards: Shards) -> None:
    box = next(record.targets[0].box for record in shards if record.id == "r0")
    assert json.dumps(box) == "[3, 4, 20, 25.5]"


def test_each_record_is_found_by_its_number(shards: Shards) -> None:
    everything = list(shards)
    assert shards.group_files.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert shards.groups.tolist() == [0, 3, 4, 7, 8, 11, 12, 15], "four rows, three times, and three"
    order = np.random.default_rng(0).permutation(len(shards)).tolist()
    assert [shards[number] for number in order] == [everything[number] for number in order]
    assert shards[-1] == everything[-1] and shards[3:9:2] == everything[3:9:2]
    assert [record.line for record in shards] == list(range(1, len(shards) + 1))
    assert {record.file for record in shards} == {shards.folder}
    with pytest.raises(IndexError):
        shards[len(shards)]
    copy = pickle.loads(pickle.dumps(shards))
    assert list(copy) == everything and copy[5] == everything[5]


def test_questions_about_a_picture_stand_in_one_row(records: list[gl.Record], shards: Shards) -> None:
    rows = shards.rows_of(np.arange(len(shards))).tolist()
    row_of = {record.id: row for record, row in zip(shards, rows, strict=True)}
    by_picture = {record.image: row_of[record.id] for record in records if record.image}
    assert all(row_of[record.id] == by_picture[record.image] for record in records if record.image)
    assert len(set(by_picture.values())) == 13 and len(set(rows)) == 15, "and words in rows of their own"
    assert shards.has_picture.tolist() == [row not in (row_of["w0"], row_of["w1"]) for row in range(15)]


def test_a_seed_decides_the_order(records: list[gl.Record], tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_shards(records, tmp_path / name, shards=2, seed=seed)
        orders.append([record.id for record in open_shards(tmp_path / name)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [record.id for record in records] and sorted(orders[0]) == sorted(orders[2])


def test_shards_are_as_many_as_there_are_pictures_at_most(records: list[gl.Record], tmp_path: Path) -> None:
    assert len(write_shards(records[:3], tmp_path / "few", shards=8)) == 3
    sizes = [len(pq.read_table(file)) for file in write_shards(records, tmp_path / "even", shards=4)]
    assert sizes == [4, 4, 4, 3]


def test_a_record_file_can_name_pictures_inside_shards(shards: Shards) -> None:
    file = shards.folder.parent / "same.jsonl"
    gl.write_records(shards, file)
    again = gl.read_records(file)
    assert again == list(shards)
    assert hash_records(again) == hash_records(shards), "and is the same data to a checkpoint"


def test_datasets_reads_them_as_pictures(shards: Shards, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(str(shards.folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert table.num_rows == 15 and isinstance(table.features["image"], datasets.Image)
    row = next(row for row in table if row["image"])
    assert row["image"].size == (40, 30) and json.loads(row["records"])[0]["question"].startswith("what")


# ---- what is wrong ---------------------------------------------------------------------------------------------


def test_a_set_that_is_not_whole_is_refused(records: list[gl.Record], shards: Shards, tmp_path: Path) -> None:
    files, folder = shards.files, shards.folder
    assert files[2].rename(tmp_path / "away") and (tmp_path / "away").exists()
    with pytest.raises(RecordError, match=r"train lacks 00002-of-00004; bring the missing shards"):
        open_shards(folder)
    shutil.copy(files[1], folder / "copy.parquet")
    with pytest.raises(RecordError, match=r"train-00001-of-00004\.parquet is the same shard as .*copy\.parquet"):
        open_shards(folder)
    (folder / "copy.parquet").unlink()
    write_shards(records[:30], tmp_path / "other", shards=4)
    shutil.copy(tmp_path / "other" / "other-00002-of-00004.parquet", files[2])
    with pytest.raises(RecordError, match=r"train-00002-of-00004\.parquet was not written together with .*00000-of"):
        open_shards(folder)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RecordError, match=r"nothing is a folder without shards; name a record file in it, or write"):
        open_records(tmp_path / "nothing")


def test_a_file_that_is_no_shard_is_refused(shards: Shards) -> None:
    whole = shards.files[0].read_bytes()
    shards.files[0].write_bytes(whole[:-100])
    with pytest.raises(RecordError, match=r"00000-of-00004\.parquet is no whole Parquet file: .* bring it again"):
        open_shards(shards.folder)
    pq.write_table(pa.table({"image": [1]}), shards.files[0])
    with pytest.raises(RecordError, match=r"is a Parquet file, but no shard of groundling's"):
        open_shards(shards.folder)
    note = {"version": 2, "set": "x"}
    pq.write_table(pa.table({"image": [1]}).replace_schema_metadata({"groundling": json.dumps(note)}), shards.files[0])
    with pytest.raises(RecordError, match=r"is of version 2, and 1 is known; update groundling"):
        open_shards(shards.folder)


def test_no_changed_byte_goes_unseen(shards: Shards) -> None:
    """Of pictures, and of texts: every page has a checksum."""
    file = shards.files[1]
    whole = bytearray(file.read_bytes())
    picture = next(record.image for record in shards if record.image is not None and record.image.parent == file)
    place = whole.index(read_stored(picture)) + 200
    whole[place] ^= 1
    file.write_bytes(whole)
    packed._READERS.clear()
    with pytest.raises(ImageError, match="the Parquet file is damaged"):
        read_stored(picture)
    whole[place] ^= 1
    texts = pq.read_metadata(file).row_group(0).column(5)
    assert texts.path_in_schema == "records"
    for place in np.linspace(1, texts.total_compressed_size - 1, 9).astype(int) + texts.data_page_offset:
        whole[place] ^= 1
        file.write_bytes(whole)
        with pytest.raises(RecordError, match=r"(?s)00001-of-00004\.parquet is damaged: .*; bring it again"):
            list(open_shards(shards.folder))
        whole[place] ^= 1


def flip(file: Path, column: str, *, group: int = 0) -> None:
    """Change one byte in the middle of a column's page."""
    found = pq.read_metadata(file).row_group(group)
    (chunk,) = (one for one in map(found.column, range(found.num_columns)) if one.path_in_schema == column)
    whole = bytearray(file.read_bytes())
    whole[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    file.write_bytes(whole)


@pytest.mark.parametrize(("column", "is_counted"), [("records", True), ("height", True), ("count", False)])
def test_records_on_a_damaged_page_are_set_aside_and_named(shards: Shards, column: str, is_counted: bool) -> None:
    """Those of three rows, and no others; by number as long as it is known."""
    file, everything = shards.files[1], list(shards)
    flip(file, column, group=0)
    read_group.cache_clear()
    found, rejected = open_records(shards.folder)
    lost = everything[int(shards.firsts[4]) : int(shards.firsts[7])]
    assert list(found) == [record for record in everything if record not in lost]
    assert [found[number] for number in range(len(found))] == list(found)
    assert found.rows_of(np.arange(len(found))).tolist() == np.repeat(np.arange(15), np.diff(found.firsts)).tolist()
    counts = np.diff(shards.firsts)[4:7].tolist()
    lines = [(row, line) for row in range(3) for line in (range(1, counts[row] + 1) if is_counted else [None])]
    assert [(bad.file, bad.line) for bad in rejected] == [(f"{file}/{row}", line) for row, line in lines]
    assert {bad.reason for bad in rejected} == {rejected[0].reason}
    assert f"{file} is damaged: rows 0 to 2 cannot be read (" in rejected[0].reason
    assert rejected[0].reason.endswith("); bring it again, or write the set anew")
    again = open_records(shards.folder)[0]
    assert [record.id for record in again] == [record.id for record in found]
    findings = [one for one in examine_files([shards.folder]).findings if one.code == "unreadable_record"]
    assert len(findings) == len(rejected), "the doctor names them"


def test_a_row_of_another_writer_is_named(records: list[gl.Record], tmp_path: Path) -> None:
    (file,) = write_shards(records[:2], tmp_path / "set", shards=1)
    table = pq.read_table(file)
    texts = table["records"].to_pylist()
    table = table.set_column(4, "records", pa.array([texts[0], texts[1].replace("what", '"')]))
    pq.write_table(table, file)
    with pytest.raises(RecordError, match=r"set-00000-of-00001\.parquet/1: not JSON: .*; write the set anew"):
        list(open_shards(tmp_path / "set"))


def test_pictures_inside_shards_are_looked_at_once(
    records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_ROWS", 2)
    monkeypatch.setenv("GROUNDLING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cut.png").write_bytes(Path(str(records[0].image)).read_bytes()[:-300])
    Image.fromarray(np.zeros((30, 40), dtype=np.float32)).save(tmp_path / "float.tiff")
    bad = [replace(records[0], image=tmp_path / name, id=name) for name in ("cut.png", "float.tiff")]
    write_shards([*records, *bad], tmp_path / "set", shards=2)
    shards = open_shards(tmp_path / "set")
    image_of = {record.id: record.image for record in shards}
    flip(shards.files[0], "image.bytes")
    packed._READERS.clear()
    on_page = {file for file in shards.pictures_in(0)}
    told: list[tuple[int, int]] = []
    found = find_unreadable(shards, progress=lambda *done: told.append(done))
    assert found.keys() == {image_of["cut.png"], image_of["float.tiff"], *on_page} and told[-1] == (15, 15)
    assert {look.fault for look in found.values()} == {"unreadable_picture"}
    assert all(str(path) in look.reason for path, look in found.items())

    sound = write_shards(records, tmp_path / "sound", shards=1)
    assert find_unreadable(open_shards(tmp_path / "sound")) == {}
    opened: list[object] = []
    monkeypatch.setattr(look, "refuse_unreadable", lambda path, **_: opened.append(path))
    assert find_unreadable(open_shards(tmp_path / "sound")) == {} and not opened, "known to be sound"
    os.utime(sound[0], ns=(1, 1))
    find_unreadable(open_shards(tmp_path / "sound"))
    assert len(opened) == 13, "all of a file that has changed"


def test_another_set_in_its_place_is_noticed(records: list[gl.Record], shards: Shards) -> None:
    shutil.rmtree(shards.folder)
    write_shards(list(reversed(records)), shards.folder, shards=4, seed=4)
    read_group.cache_clear()
    with pytest.raises(RecordError, match="was written anew while it was being read; start again"):
        list(shards)


def test_what_cannot_be_written_leaves_nothing_behind(records: list[gl.Record], tmp_path: Path) -> None:
    bad = {
        "declared 30x40, but .* is 40x30": replace(records[0], width=30, height=40),
        "no such file|cannot be read": replace(records[0], image=tmp_path / "none.png"),
        "cannot be written as JSON": replace(records[0], extra={"x": float("nan")}),
    }
    for reason, record in bad.items():
        with pytest.raises((RecordError, ImageError), match=reason):
            write_shards([*records, record], tmp_path / "out", shards=2)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingsError, match="out is there already; delete it, or name another"):
        write_shards(records, tmp_path / "out", shards=2)
    for wanted, given in ((0, records), (2, [])):
        with pytest.raises(SettingsError, match=r"expected at least 1|no records to write"):
            write_shards(given, tmp_path / "new", shards=wanted)


# ---- beside record files ---------------------------------------------------------------------------------------


def save_source(records: list[gl.Record], file: Path) -> Path:
    """The data set that the tutorial starts from, pictures inside."""
    chosen = [(record, record.image) for record in records if record.image is not None]
    columns = {
        "image": [{"bytes": image.read_bytes(), "path": image.name} for _, image in chosen],
        "question": [record.question for record, _ in chosen],
        "answer": [["x"]] * len(chosen),
        "dataset_id": [record.id for record, _ in chosen],
        "bbox": [[3.0, 4.0, 10.0, 12.0]] * len(chosen),
    }
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), file)
    return file


def test_convert_writes_shards_that_hold_what_its_record_files_would(records: list[gl.Record], tmp_path: Path) -> None:
    source = save_source(records, tmp_path / "source" / "train-0.parquet")
    plain = convert("textvqa", source, tmp_path / "plain" / "set.jsonl", split="train=25,test=10", seed=2)
    out = tmp_path / "packed"
    done = convert("textvqa", source, out / "set.jsonl", split="train=25,test=10", seed=2, shards=3)
    assert done.files == [out / "set-train", out / "set-test"] and done.rejected == plain.rejected
    assert sorted(path.name for path in out.iterdir()) == ["set-test", "set-train"], "no other folder of pictures"
    assert done.notes == plain.notes
    for file, folder in zip(plain.files, done.files, strict=True):
        before = {record.id: record for record in gl.read_records(file)}
        found = open_shards(folder)
        assert len(found) == len(before) and len(list(folder.iterdir())) == 3
        for record in found:
            own = before[record.id]
            assert replace(record, image=own.image) == own
            assert record.image and own.image and read_stored(record.image) == own.image.read_bytes()
    assert {record.id for record in done.records} == {record.id for record in plain.records}
    with pytest.raises(SettingsError, match="set-train is there already"):
        convert("textvqa", source, out / "set.jsonl", split="train=25,test=10", shards=3)
    with pytest.raises(SettingsError, match="both --shards and --link"):
        convert("textvqa", source, out / "new.jsonl", link=True, shards=3)


def test_the_doctor_finds_in_shards_what_it_finds_in_a_record_file(
    records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beyond = replace(records[0], targets=(gl.Target(box=(3, 4, 90, 20)),), id="beyond")
    twin = replace(records[1], id="r1")
    (tmp_path / "broken.png").write_bytes(Path(str(records[0].image)).read_bytes()[:-300])
    broken = replace(records[2], image=tmp_path / "broken.png", id="broken")
    everything = [*records, beyond, twin, broken]
    gl.write_records(everything, tmp_path / "plain.jsonl")
    write_shards(everything, tmp_path / "packed", shards=3)
    plain = examine_files([tmp_path / "plain.jsonl"], allow_absolute=True)
    own = examine_files([tmp_path / "packed"])
    found = sorted((finding.code, finding.record) for finding in own.findings)
    expected = sorted((finding.code, finding.record) for finding in plain.findings)
    twins = ("ambiguous", "duplicate_id", "duplicate_record", "near_duplicate")  # whichever comes second
    assert [pair for pair in found if pair[0] not in twins] == [pair for pair in expected if pair[0] not in twins]
    assert {("outside", "beyond"), ("unreadable_picture", "broken")} <= set(found)
    assert [code for code, _ in found] == [code for code, _ in expected]

    monkeypatch.setenv("GROUNDLING_CACHE", str(tmp_path / "cache"))
    images = [record.image for record in open_shards(tmp_path / "packed") if record.image is not None]
    told: list[int] = []
    first = look_at_pictures(images, progress=lambda done, _: told.append(done))
    opened = len(told)
    assert look_at_pictures(images, progress=lambda done, _: told.append(done)) == first
    assert opened == 14 and len(told) == opened + 2, "sound ones are remembered in one go, and the broken one opened"


def test_shards_are_exported_as_record_files_are(shards: Shards, tmp_path: Path) -> None:
    boxes = [record for record in shards if any(target.label for target in record.targets)]
    done = export(boxes, "coco", tmp_path / "coco.json")
    coco = json.loads(done.file.read_text())
    assert len(coco["images"]) == len(boxes) == 10
    for image in coco["images"]:
        assert (tmp_path / image["file_name"]).is_file(), "as other tools open it"
        assert open_image(done.file.parent / image["file_name"]).size == (image["width"], image["height"]) == (40, 30)

    again = convert("coco", done.file, tmp_path / "again" / "set.jsonl", shards=2)
    assert again.files == list((tmp_path / "again").iterdir()) == [tmp_path / "again" / "set"], "no pictures beside it"
    assert len(again.records) == 10 and open_shards(tmp_path / "again" / "set")[0].targets[0].label == "a mug"


def test_a_picture_in_a_shard_is_one_to_ask_about(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = next(record.image for record in shards if record.image is not None)
    assert find_pictures([picture]) == [picture]
    with pytest.raises(SettingsError, match=r"no such picture: .*parquet/x"):
        find_pictures([picture.parent / "x"])
    monkeypatch.chdir(tmp_path)
    named = picture.relative_to(tmp_path)
    answer = {"id": "1", "image": str(named), "question": "it", "text": "", "boxes": [[1, 2, 3, 4]], "flaw": None}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "predictions.jsonl").write_text(json.dumps(answer))
    assert scan_predictions(tmp_path / "elsewhere" / "predictions.jsonl").records[0].image == named
