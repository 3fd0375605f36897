from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sources import garbage, make, save_lines, save_picture

from groundling.data.recognise import SIGNS, Seen, look_at, recognise, tell
from groundling.data.sources import FORMATS
from groundling.errors import SettingsError

TURNS = [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": "b"}]
MESSAGES = [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}]
REGION = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["cat"]}

PEEKS: dict[str, list[Seen]] = {
    "coco": [Seen(("instances.json",), whole={"info": {}, "images": [], "annotations": [], "categories": []})],
    "yolo": [
        Seen(("data.yaml", "train/images/1.jpg")),
        Seen(("images/train/1.jpg", "labels/train/1.txt")),
        Seen(("train/labels/1.txt",)),
        Seen(("data/1.jpg", "data/1.txt", "obj.names")),
    ],
    "voc": [Seen(("Annotations/1.xml", "JPEGImages/1.jpg"), root="annotation")],
    "labelme": [Seen(("1.jpg", "1.json"), whole={"version": "5", "shapes": [], "imagePath": "1.jpg"})],
    "createml": [
        Seen(("a.json",), entry={"image": "1.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}),
        Seen(("a.json",), entry={"imagefilename": "1.jpg", "annotation": [{"label": "cat", "coordinates": {"x": 1}}]}),
    ],
    "refcoco": [
        Seen(("instances.json", "refs(unc).p"), whole={"images": [], "annotations": [], "categories": []}),
        Seen(("refs.json",), entry={"ref_id": 1, "ann_id": 2, "sentences": []}),
    ],
    "hf-objects": [
        Seen(("train.parquet",), columns=("image_id", "image", "objects")),
        Seen(("metadata.jsonl", "1.jpg"), entry={"file_name": "1.jpg", "objects": {"bbox": [], "categories": []}}),
    ],
    "textvqa": [Seen(("train.parquet",), columns=("image", "question", "answer", "bbox"))],
    "label-studio": [
        Seen(("a.json",), entry={"id": 1, "data": {"image": "1.jpg"}, "annotations": [{"result": []}]}),
        Seen(("a.json",), entry={"image": "1.jpg", "id": 1, "label": [REGION]}),
    ],
    "cvat": [Seen(("annotations.xml", "images/1.jpg"), root="annotations")],
    "odvg": [
        Seen(("a.jsonl",), entry={"filename": "1.jpg", "height": 1, "width": 1, "detection": {"instances": []}}),
        Seen(("a.jsonl",), entry={"filename": "1.jpg", "height": 1, "width": 1, "grounding": {"regions": []}}),
    ],
    "tutorial": [Seen(("a.jsonl",), entry={"image": ["1.jpg"], "query": "a", "response": "b"})],
    "swift": [
        Seen(("a.jsonl",), entry={"messages": MESSAGES, "images": ["1.jpg"], "objects": {"bbox": []}}),
        Seen(("a.jsonl",), entry={"query": "a", "response": "b", "images": ["1.jpg"]}),
    ],
    "llamafactory": [
        Seen(("a.json",), entry={"messages": MESSAGES, "images": ["1.jpg"]}),
        Seen(("a.json",), entry={"conversations": TURNS, "images": ["1.jpg"]}),
    ],
    "qwen-chat": [Seen(("a.json",), entry={"id": "1", "image": "1.jpg", "conversations": TURNS})],
    "roboflow": [Seen(("_annotations.train.jsonl",), entry={"image": "1.jpg", "prefix": "a", "suffix": "b"})],
}


@pytest.mark.parametrize(("format", "seen"), [(name, seen) for name, peeks in PEEKS.items() for seen in peeks])
def test_each_format_is_told_from_all_others(format: str, seen: Seen):
    found = tell(seen, "here")
    assert found.format == format
    assert found.reason == next(sign.words for sign in SIGNS if sign.format == format)


def test_every_format_that_is_read_can_be_recognised():
    assert set(FORMATS) <= {sign.format for sign in SIGNS} == set(PEEKS)


def test_an_unknown_source_lists_what_was_seen_and_considered():
    with pytest.raises(SettingsError) as error:
        tell(Seen(("a.json", "b.txt"), whole={"boxes": [], "size": 3}), "here")
    message = str(error.value)
    assert "here is in no format that is recognised" in message
    assert "\n  coco: a JSON object with images, annotations and categories" in message
    assert message.endswith("seen: a.json, b.txt; a JSON object of boxes, size")


def test_several_formats_are_listed_to_choose_from():
    seen = Seen(("data.yaml", "1.xml"), root="annotation")
    with pytest.raises(SettingsError, match="looks like several formats; name the one") as error:
        tell(seen, "here")
    assert "\n  yolo: " in str(error.value) and "\n  voc: " in str(error.value)
    assert "\n  coco: " not in str(error.value)


def test_a_record_file_needs_no_converting():
    with pytest.raises(SettingsError, match="is a record file already"):
        tell(Seen(("a.jsonl",), entry={"image": "1.jpg", "question": "a", "targets": []}), "here")


# ---- looking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_is_seen_whole_however_it_is_laid_out(tmp_path: Path, indent: int | None):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": [], "annotations": [{"bbox": [1]}], "categories": []}, indent=indent))
    assert recognise(file).format == recognise(tmp_path).format == "coco"
    file.write_text(file.read_text().replace("1", "NaN"))
    assert recognise(file).format == "coco"  # what is wrong inside is for its reader


def test_the_first_entry_that_can_be_read_is_seen(tmp_path: Path):
    file = save_lines(tmp_path / "a.jsonl", "{cut", "[1]", {"image": "1.jpg", "prefix": "a", "suffix": "b"})
    assert recognise(file).format == "roboflow"
    file.write_text(json.dumps([5, {"conversations": TURNS, "image": "1.jpg"}], indent=1))
    assert recognise(file).format == "qwen-chat"


def test_of_a_folder_the_first_file_of_each_kind_is_seen(tmp_path: Path):
    save_lines(tmp_path / "deep/er/a.jsonl", {"x": 1})
    save_lines(tmp_path / "b.jsonl", {"filename": "1.jpg", "detection": {}})
    (tmp_path / "c.xml").write_text("<annotations/>")
    pq.write_table(pa.Table.from_pylist([{"image": "a", "objects": "b"}]), tmp_path / "d.parquet")
    seen = look_at(tmp_path)
    assert seen.names == ("b.jsonl", "c.xml", "d.parquet", "deep/er/a.jsonl")
    assert (seen.entry, seen.root, seen.columns) == (
        {"filename": "1.jpg", "detection": {}},
        "annotations",
        ("image", "objects"),
    )


def test_captions_beside_instances_are_passed_over(tmp_path: Path):
    whole = {"images": [], "annotations": []}
    for name in ("captions_val2017", "instances_val2017", "person_keypoints_val2017"):
        categories = {} if "captions" in name else {"categories": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(whole | categories))
    assert recognise(tmp_path).format == "coco"


def test_files_that_are_not_what_their_names_say_show_nothing(tmp_path: Path):
    for name in ("a.json", "b.jsonl", "c.xml", "d.parquet"):
        (tmp_path / name).write_bytes(b"\xff\x00 [")
    (tmp_path / "e.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>')
    assert look_at(tmp_path) == Seen(("a.json", "b.jsonl", "c.xml", "d.parquet", "e.xml"))


def test_what_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(SettingsError, match="no file or folder"):
        recognise(tmp_path / "absent")


KEYS = ("images", "annotations", "categories", "data", "messages", "conversations", "image", "query", "objects")


@given(garbage(KEYS, ["cat"]), st.booleans())
def test_anything_is_recognised_or_refused_with_a_settings_error(
    tmp_path_factory: pytest.TempPathFactory, value: object, is_line: bool
):
    file = tmp_path_factory.mktemp("g") / "a.json"
    file.write_text(json.dumps(value, indent=None if is_line else 1))
    with suppress(SettingsError):
        assert recognise(file).format in PEEKS


# ---- real files, and through convert ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "format"),
    [
        ("coco_labelme", "coco"),
        ("coco_labelme/annotations.json", "coco"),
        ("voc", "voc"),
        ("labelme", "labelme"),
        ("labelme/2011_000003.json", "labelme"),
        ("../textvqa_like", "textvqa"),
    ],
)
def test_real_files_are_recognised(shared_data: Path, source: str, format: str):
    assert recognise(shared_data / "formats" / source).format == format


def test_convert_auto_says_what_it_read(tmp_path: Path):
    save_picture(tmp_path / "in/photo.jpg")
    entry = {"filename": "photo.jpg", "detection": {"instances": [{"bbox": [1, 2, 3, 4], "category": "cat"}]}}
    done = make("auto", save_lines(tmp_path / "in/a.jsonl", entry), tmp_path)
    assert done.notes == ["read as odvg: entries with filename, and detection or grounding"]
    assert [record.question for record in done.records] == ["cat"]


def test_options_of_another_format_are_refused_after_recognition(tmp_path: Path):
    file = save_lines(tmp_path / "a.jsonl", {"filename": "photo.jpg", "detection": {}})
    with pytest.raises(SettingsError, match="the frame of odvg is known"):
        make("auto", file, tmp_path, frame="original")


def test_a_folder_with_one_file_is_read_as_that_file(tmp_path: Path):
    save_picture(tmp_path / "in" / "photo.jpg")
    answer = json.dumps({"bbox_2d": [1, 2, 30, 40], "label": "dog"})
    turns = [{"from": "human", "value": "<image>the dog"}, {"from": "gpt", "value": answer}]
    save_lines(tmp_path / "in" / "a.jsonl", {"image": "photo.jpg", "conversations": turns})

    done = make("auto", tmp_path / "in", tmp_path, frame="original")

    assert [record.question for record in done.records] == ["the dog"]
    save_lines(tmp_path / "in" / "b.jsonl", {"image": "photo.jpg", "conversations": turns})
    with pytest.raises(SettingsError, match=r"in is a folder with a\.jsonl, b\.jsonl; name the file to read"):
        make("qwen-chat", tmp_path / "in", tmp_path, frame="original")
