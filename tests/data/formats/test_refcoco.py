from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import DEEP, anything, assert_read_or_refused, documents, entries, faults_of, save_json, save_picture

from groundling.data.convert import convert
from groundling.data.formats.detection import Annotated
from groundling.data.formats.found import Reading
from groundling.data.formats.refcoco import read_refcoco
from groundling.errors import RecordError, SettingsError

INSTANCES = {
    "images": [{"id": 7, "file_name": "7.png", "width": 640, "height": 428}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [146, 137, 469, 278], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 20], "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 404, "bbox": [0, 0, 10, 20]},
    ],
    "categories": [{"id": 3, "name": "horse"}],
}


def ref(*sentences: Any, **changes: Any) -> dict[str, Any]:
    said = [
        {"sent_id": n, "sent": text, "raw": text} if isinstance(text, str) else text for n, text in enumerate(sentences)
    ]
    # file_name is no picture of the data set: its end is the annotation's id
    whole = {"ref_id": 5, "ann_id": 1, "image_id": 7, "category_id": 3, "split": "val", "file_name": "7_1.png"}
    return whole | {"sentences": said} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path / "set/7.png")
    save_json(tmp_path / "set/instances.json", INSTANCES)
    return tmp_path / "set"


def read(folder: Path, value: object, **options: Any) -> list[Any]:
    save_json(folder / "refs(unc).json", value)
    return list(read_refcoco(str(folder), Reading(**options)))


def questions_in(items: list[Any]) -> list[str]:
    return [item.question for item in items if isinstance(item, Annotated)]


def test_one_question_a_sentence_with_the_things_box(folder: Path, tmp_path: Path):
    read(folder, [ref("the brown horse", "horse by the fence "), ref("", {"raw": "A Horse"}, ref_id=6, split="train")])
    conversion = convert("refcoco", folder, tmp_path / "out/r.jsonl")
    assert [record.question for record in conversion.records] == ["the brown horse", "horse by the fence", "A Horse"]
    for record in conversion.records:
        assert record.targets[0].box == (146, 137, 615, 415)
        assert record.targets[0].label == "horse" and record.targets[0].extra == {"annotation_id": 1}
    assert [record.id for record in conversion.records] == ["5-1", "5-2", "6-2"]
    assert conversion.records[2].extra == {"coco_image_id": 7, "ref_id": 6, "split": "train"}
    assert conversion.rejected[0].line == 2 and "sentence 1 is" in conversion.rejected[0].reason


def test_a_part_is_a_split(folder: Path):
    refs = [ref("a", split=split) for split in ("train", "val", "testA", "testB")]
    assert len(questions_in(read(folder, refs, part="testA"))) == 1
    assert len(questions_in(read(folder, refs))) == 4
    with pytest.raises(SettingsError, match=r"no part 'test' in .*its splits are testA, testB, train, val"):
        read(folder, refs, part="test")


def test_a_turned_picture(folder: Path, tmp_path: Path):
    save_picture(folder / "7.png", orientation=6)
    stored = INSTANCES | {
        "images": [{"id": 7, "file_name": "7.png", "width": 428, "height": 640}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [137, 25, 278, 469]}],
    }
    save_json(folder / "instances.json", stored)
    read(folder, [ref("the horse")])
    (record,) = convert("refcoco", folder, tmp_path / "out/r.jsonl").records
    assert record.targets[0].box == (146, 137, 615, 415)


def test_options_about_labels_are_refused_for_it_has_questions_of_its_own(folder: Path, tmp_path: Path):
    read(folder, [ref("a")])
    with pytest.raises(SettingsError, match="refcoco has questions of its own"):
        convert("refcoco", folder, tmp_path / "r.jsonl", per="box")


def test_the_pictures_may_lie_in_another_folder(folder: Path, tmp_path: Path):
    save_picture(tmp_path / "train2014/7.png")
    (folder / "7.png").unlink()
    assert "there is no picture '7.png'" in faults_of(read(folder, [ref("a")]))
    assert len(questions_in(read(folder, [ref("a")], images=tmp_path / "train2014"))) == 1


# ---- which file ------------------------------------------------------------------------------------------------


class Harm:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def test_a_pickle_is_never_opened_and_the_cure_works(folder: Path, tmp_path: Path):
    canary = tmp_path / "canary"
    for file in (folder / "refs(unc).p", folder / "disguised.json"):
        file.write_bytes(pickle.dumps([Harm(canary)]))
        with pytest.raises(RecordError, match="is a Python pickle, which can run any program"):
            list(read_refcoco(str(file), Reading()))
    with pytest.raises(RecordError) as error:
        list(read_refcoco(str(folder), Reading()))
    assert not canary.exists()

    (folder / "refs(unc).p").write_bytes(pickle.dumps([ref("the horse")], protocol=2))
    code = str(error.value).partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    assert questions_in(list(read_refcoco(str(folder), Reading()))) == ["the horse"]


def test_of_several_refs_one_has_to_be_given(folder: Path):
    for name in ("umd", "google"):
        save_json(folder / f"refs({name}).json", [ref(name)])
    with pytest.raises(SettingsError, match=r"refs\(google\)\.json, refs\(umd\)\.json in .*; give one of them"):
        list(read_refcoco(str(folder), Reading()))
    assert questions_in(list(read_refcoco(str(folder / "refs(umd).json"), Reading()))) == ["umd"]


def test_what_is_missing_is_named(folder: Path, tmp_path: Path):
    for source, words in ((tmp_path, r"no refs\(...\)\.json"), (tmp_path / "absent", "no file or folder")):
        with pytest.raises(RecordError, match=words):
            list(read_refcoco(str(source), Reading()))
    for value, words in (({}, "expected a list of refs"), ("[", "not JSON")):
        with pytest.raises(RecordError, match=words):
            read(folder, value)
    (folder / "instances.json").unlink()
    with pytest.raises(RecordError, match=r"instances\.json cannot be read: No such file"):
        read(folder, [])


# ---- broken neighbours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("null", "the ref is None; expected an object with a list of sentences"),
        ("{}", "expected an object with a list of sentences"),
        ('{"id": 1, "id": 2}', "the ref is the key 'id' is given twice"),
        (DEEP, "the ref is [["),
        (json.dumps(ref("x", ann_id=404)), "there is no annotation 404 in instances.json"),
        (json.dumps(ref("x", ann_id=None)), "there is no annotation None"),
        (json.dumps(ref("x", image_id=8)), "annotation 1 is not on the picture 8"),
        (json.dumps(ref("x", ann_id=2)), "'x': annotation 2: a crowd"),
        (json.dumps(ref("x", ann_id=3)), "'x': annotation 3: the category 404"),
        (json.dumps(ref(5, None, {"sent": []})), "sentence 1 is 5; expected a text under sent"),
        (json.dumps(ref("x", sentences="x")), "expected an object with a list of sentences"),
    ],
)
def test_a_bad_ref_leaves_its_neighbour(folder: Path, tmp_path: Path, bad: str, words: str):
    read(folder, f"[{bad}, {json.dumps(ref('the horse'))}]")
    conversion = convert("refcoco", folder, tmp_path / "out/r.jsonl")
    assert [record.question for record in conversion.records] == ["the horse"]
    assert words in conversion.rejected[0].reason and conversion.rejected[0].line == 1


refs = st.builds(lambda found: ref(*found), st.lists(anything, max_size=2)) | entries(*ref(), "ann_id")


@settings(max_examples=100, deadline=None)
@given(documents(st.lists(refs, max_size=3)))
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, content: bytes):
    save_json(garbage / "refcoco/instances.json", INSTANCES)
    save_picture(garbage / "refcoco/7.png")
    assert_read_or_refused(lambda: read(garbage / "refcoco", content))
