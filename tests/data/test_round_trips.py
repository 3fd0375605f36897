"""Read, write, read: what a format can hold comes back through its own reader, wherever `convert` has one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cameras import as_stored, exif
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

from groundling.data.convert import convert
from groundling.data.export import FORMATS as WRITTEN
from groundling.data.export import Exported, export
from groundling.data.labelled import LabelledPicture, label_picture
from groundling.data.record import Record, Target
from groundling.data.sources import FORMATS as READ
from groundling.geometry.images import open_image, pixel_digest

Things = dict[str, set[tuple[str, tuple[float, ...]]]]  # by the picture's pixels: labels, and numbers to 1e-6


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Three pictures: two classes and boxes of fractions, one box up to the border, and nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("street.png", (643, 481)), ("field.png", (100, 50)), ("sky.jpg", (64, 1000))):
        Image.new("RGB", size, (size[0] % 256, size[1] % 256, 7)).save(folder / name)
    cats = (Target(box=(10, 20, 40, 60), label="cat"), Target(box=(100.123456, 200.5, 164.333333, 248), label="cat"))
    return [
        Record("cat", folder / "street.png", cats, id="1", extra={"coco_image_id": 12}),
        Record("hund der Stra\u00dfe", folder / "street.png", (Target(box=(0, 0, 643, 481)),), id="2"),
        Record("cat", folder / "field.png", (Target(box=(99, 49, 100, 50)),), id="3"),
        Record("cat", folder / "sky.jpg", id="4"),
    ]


def look_at(records: list[Record]) -> Things:
    """What all records say about each picture."""
    by_picture: dict[str, list[Record]] = {}
    for record in records:
        assert record.image is not None
        by_picture.setdefault(pixel_digest(open_image(record.image)), []).append(record)
    return {digest: _things(label_picture(asked)) for digest, asked in by_picture.items()}


def _things(picture: LabelledPicture) -> set[tuple[str, tuple[float, ...]]]:
    return {(thing.label, tuple(round(number, 6) for number in thing.numbers)) for thing in picture.things}


def submit(file: Path) -> None:
    """Take every prediction of Label Studio's tasks for right, as whoever labels does with a click."""
    tasks = json.loads(file.read_text(encoding="utf-8"))
    for number, task in enumerate(tasks):
        task |= {"id": number + 1, "annotations": [{"result": task["predictions"][0]["result"]}]}
    file.write_text(json.dumps(tasks), encoding="utf-8")


def skip_without_reader(format: str) -> None:
    if format not in READ:
        pytest.skip(f"nothing reads {format} here")


def read_back(exported: Exported, format: str, out: Path, **options: Any) -> list[Record]:
    if format == "label-studio":
        submit(exported.file)
    again = convert(format, exported.file, out / "records.jsonl", **options)
    unlabelled = [bad for bad in again.rejected if "nothing on this picture is labelled" not in bad.reason]
    assert unlabelled == []
    return again.records


PICTURES = ["coco", "yolo", "voc", "label-studio", "labelme", "createml"]


@pytest.mark.parametrize("format", PICTURES)
def test_pictures_and_their_things_come_back(records: list[Record], tmp_path: Path, format: str):
    skip_without_reader(format)
    exported = export(records, format, tmp_path / "out/set.json")
    assert exported.rejected == []
    wanted = {digest: things for digest, things in look_at(records).items() if things}
    again = read_back(exported, format, tmp_path / "again")
    assert {digest: things for digest, things in look_at(again).items() if things} == wanted


@pytest.mark.parametrize("format", PICTURES)
def test_written_once_more_it_is_the_same(records: list[Record], tmp_path: Path, format: str):
    skip_without_reader(format)
    first = export(records[:3], format, tmp_path / "first/set.json")
    again = read_back(export(records[:3], format, tmp_path / "out/set.json"), format, tmp_path / "again")
    second = export(again, format, tmp_path / "second/set.json")
    assert texts_of(second.file) == texts_of(first.file)


def texts_of(place: Path) -> dict[str, str]:
    """What stands in a written file, or in the annotations of a written folder, by name."""
    files = (
        [place] if place.is_file() else [path for path in place.rglob("*") if path.suffix in (".txt", ".xml", ".json")]
    )
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def test_classic_voc_comes_back_too(records: list[Record], tmp_path: Path):
    skip_without_reader("voc")
    exported = export(records[:3], "voc", tmp_path / "out", one_based=True)
    assert look_at(read_back(exported, "voc", tmp_path / "again", one_based=True)) == look_at(records[:3])


def test_numbers_of_coco_come_back(records: list[Record], tmp_path: Path):
    skip_without_reader("coco")
    again = read_back(export(records[:1], "coco", tmp_path / "out/set.json"), "coco", tmp_path / "again")
    assert again[0].extra["coco_image_id"] == 12
    assert [target.extra["annotation_id"] for target in again[0].targets] == [1, 2]


def test_perfect_answers_to_what_was_read_from_coco_score_one_against_it(records: list[Record], tmp_path: Path):
    skip_without_reader("coco")
    coco = export(records, "coco", tmp_path / "out/set.json").file
    read = convert("coco", coco, tmp_path / "again/records.jsonl").records
    results = export(read, "coco-results", tmp_path / "results.json", like=coco)
    assert results.rejected == []
    known = COCO(str(coco))
    run = COCOeval_faster(known, known.loadRes(str(results.file)), iouType="bbox", print_function=lambda *_: None)
    run.evaluate()
    run.accumulate()
    run.summarize()
    assert run.stats[0] == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, {"family": "qwen2_5_vl"}, {"family": "qwen2_vl"}])
def test_lines_of_swift_come_back(records: list[Record], tmp_path: Path, options: dict[str, Any]):
    skip_without_reader("swift")
    box = records[0].targets[0].box
    mixed = (Target(box=box, label='a "cat"'), Target(box=box, label="back\\slash"), Target(point=(5, 6)))
    lines = [*records, replace(records[0], targets=mixed, id="5")]
    exported = export(lines, "swift", tmp_path / "out/swift.jsonl", **options)
    again = read_back(exported, "swift", tmp_path / "again")
    assert [(each.question, each.targets) for each in again] == [(each.question, each.targets) for each in lines]


@pytest.mark.parametrize("format", PICTURES)
def test_a_turned_photograph_comes_back_upright_and_without_a_doubt(tmp_path: Path, format: str):
    skip_without_reader(format)
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste("red", (0, 0, 16, 8))
    (tmp_path / "photos").mkdir()
    as_stored(upright, 6).save(tmp_path / "photos/a.png", exif=exif(6))
    turned = [Record("corner", tmp_path / "photos/a.png", (Target(box=(0, 0, 16, 8)),))]
    again = read_back(export(turned, format, tmp_path / "out/set.json"), format, tmp_path / "again")
    assert look_at(again) == look_at(turned)
    assert "doubt" not in again[0].extra


def test_every_format_that_is_written_and_read_is_tried_here():
    tried = {*PICTURES, "swift", "tutorial", "qwen-chat"}  # the last two in test_export.py
    assert WRITTEN.keys() & READ.keys() <= tried
