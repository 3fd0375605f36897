from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import (
    BROKEN_NUMBERS,
    DEEP,
    answers_of,
    assert_read_or_refused,
    documents,
    entries,
    faults_of,
    save_json,
    save_picture,
    things_of,
)

from groundling.data.convert import convert
from groundling.data.formats.createml import read_createml
from groundling.data.formats.found import Reading
from groundling.errors import RecordError, SettingsError


def annotation(label: Any = "horse", **coordinates: Any) -> dict[str, Any]:
    return {"label": label, "coordinates": {"x": 380.5, "y": 276, "width": 469, "height": 278} | coordinates}


def entry(*annotations: Any, **changes: Any) -> dict[str, Any]:
    return {"image": "7.png", "annotations": list(annotations)} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path / "set/7.png")
    return tmp_path / "set"


def read(folder: Path, value: object, **options: Any) -> list[Any]:
    save_json(folder / "_annotations.createml.json", value)
    return list(read_createml(str(folder), Reading(**options)))


def test_boxes_around_their_middles(folder: Path):
    # 380.5 - 469 / 2, 276 - 278 / 2 and so on
    (found,) = read(folder, [entry(annotation(), annotation("dog", x=5, y=5, width=10, height=3))])
    assert things_of([found]) == [("7.png", "horse", (146, 137, 615, 415)), ("7.png", "dog", (0, 3.5, 10, 6.5))]
    assert (found.id, found.line, found.size, found.looked_for) == ("7", 1, None, None)


def test_other_names_for_the_same_keys(folder: Path):
    assert len(things_of(read(folder, [{"imagefilename": "7.png", "annotation": [annotation()]}]))) == 1


def test_a_part_chooses_among_several_files(tmp_path: Path):
    for part in ("train", "valid"):
        save_picture(tmp_path / part / "7.png")
        save_json(tmp_path / part / "_annotations.createml.json", [entry(annotation())])
    (found,) = read_createml(str(tmp_path), Reading(part="valid"))
    assert found.file.parent.name == "valid" and not faults_of([found])
    with pytest.raises(SettingsError, match="2 files of annotations"):
        list(read_createml(str(tmp_path), Reading()))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("null", "the entry is None; expected an object of image and annotations"),
        ('{"image": "7.png", "image": "7.png"}', "the entry is the key 'image'"),
        (json.dumps(entry(image=None)), "the image is None; expected the path of a picture"),
        (json.dumps(entry(image="absent.png")), "there is no picture 'absent.png'"),
        (json.dumps(entry(image="../secret.png")), "lies outside"),
        (json.dumps(entry(annotations=None)), "the annotations are None; expected a list"),
        (json.dumps(entry(None)), "the annotation is None; expected a label and coordinates"),
        (json.dumps(entry({"label": "horse"})), "expected a label and coordinates"),
        (json.dumps(entry(annotation(None))), "the label is None"),
        (json.dumps(entry(annotation(x=None))), "the box is [None, 276, 469, 278]; expected 4 finite numbers"),
        (DEEP, "the entry is [["),
        *(
            (json.dumps(entry(annotation())).replace("276", number), "expected 4 finite numbers")
            for number in [*BROKEN_NUMBERS, DEEP]
        ),
    ],
)
def test_a_bad_entry_leaves_its_neighbour(folder: Path, bad: str, words: str):
    save_picture(folder.parent / "secret.png")
    found = read(folder, f"[{bad}, {json.dumps(entry(annotation('dog')))}]")
    assert things_of(found) == [("7.png", "dog", (146, 137, 615, 415))]
    assert words in faults_of(found)


def test_what_is_no_list_is_refused(folder: Path):
    for value, words in (({}, "expected a list of pictures"), ("[", "not JSON"), (b"\xff\xfe[", "not UTF-8")):
        with pytest.raises(RecordError, match=words):
            read(folder, value)


@settings(max_examples=100, deadline=None)
@given(
    documents(
        st.lists(
            st.builds(lambda found: entry(*found), st.lists(entries("label", "coordinates"), max_size=3))
            | entries("image", "annotations"),
            max_size=3,
        )
    )
)
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, content: bytes):
    assert_read_or_refused(lambda: _read_alone(garbage, content))


def _read_alone(garbage: Path, content: bytes) -> list[Any]:
    file = save_json(garbage / "createml.json", content)
    return list(read_createml(str(file), Reading()))


def test_convert(folder: Path, tmp_path: Path):
    save_picture(folder / "7.png", orientation=6)
    read(folder, [entry(annotation())])
    (record,) = convert("createml", folder, tmp_path / "out/r.jsonl").records
    assert answers_of([record]) == {"horse": [(146, 137, 615, 415)]}
    assert "nothing tells whether its boxes were drawn before or after" in record.extra["doubt"]
