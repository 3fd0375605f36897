from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import answers_of, assert_read_or_refused, documents, entries, faults_of, save_picture, save_text, things_of

from groundling.data.convert import convert
from groundling.data.formats.detection import FRACTIONS
from groundling.data.formats.found import Reading
from groundling.data.formats.hf_objects import read_hf_objects
from groundling.errors import RecordError, SettingsError

HORSE = [300.0, 137.0, 200.0, 278.0]  # x, y, width, height; as x, y, x, y or around a centre it does not fit


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return save_picture(tmp_path / "7.png").read_bytes()


def objects(*boxes: Any, labels: Any = None) -> dict[str, Any]:
    return {"id": list(range(len(boxes))), "bbox": list(boxes), "category": labels or ["horse"] * len(boxes)}


def save_rows(file: Path, rows: list[dict[str, Any]], features: object = None, **options: Any) -> Path:
    """A Parquet or Arrow file, with what the `datasets` library would note of these features."""
    table = pa.Table.from_pylist(rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".arrow":
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        pq.write_table(table, file, **options)
    return file


def row(content: bytes, *boxes: Any, **changes: Any) -> dict[str, Any]:
    image = {"bytes": content, "path": "7.png"}
    return {"image_id": 7, "image": image, "width": 640, "height": 428, "objects": objects(*boxes)} | changes


def read(source: Path, **options: Any) -> list[Any]:
    return list(read_hf_objects(str(source), Reading(**options)))


# ---- what is there ---------------------------------------------------------------------------------------------

CLASSES = {"names": ["horse", "dog"], "_type": "ClassLabel"}
NESTINGS = {
    "old": {"feature": {"bbox": {"_type": "Sequence"}, "category": CLASSES}, "_type": "Sequence"},
    "new": {"bbox": {"_type": "List"}, "category": {"feature": CLASSES, "_type": "List"}},
    "structs": {"feature": {"category": CLASSES}, "_type": "List"},
    "bare": [{"category": CLASSES}],
}


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("nesting", NESTINGS)
def test_numbers_of_classes_get_the_names_in_the_files_metadata(
    tmp_path: Path, content: bytes, nesting: str, ending: str
):
    features = {"image": {"_type": "Image"}, "objects": NESTINGS[nesting]}
    boxes = objects(HORSE, [0, 0, 10, 20], HORSE, labels=[0, 1, 2])
    file = save_rows(tmp_path / f"set/train{ending}", [row(content, objects=boxes, where="field")], features)
    (found,) = read(file)
    assert things_of([found]) == [("7.png", "horse", (300, 137, 500, 415)), ("7.png", "dog", (0, 0, 10, 20))]
    assert "the category 2 is none of the 2 names in the file's metadata" in faults_of([found])
    assert found.looked_for == ["horse", "dog"] and found.image == content
    assert (found.id, found.extra, found.things[1].extra) == (
        "7",
        {"image_id": 7, "where": "field"},
        {"annotation_id": 1},
    )


def test_without_names_numbers_are_no_labels_and_texts_are(tmp_path: Path, content: bytes):
    number = save_rows(tmp_path / "a.parquet", [row(content, objects=objects(HORSE, labels=[3]))])
    assert "the category 3 is a number, and no names are in the file's metadata" in faults_of(read(number))
    assert things_of(read(save_rows(tmp_path / "b.parquet", [row(content, HORSE)])))[0][1] == "horse"


def test_a_list_of_structs_is_read_too(tmp_path: Path, content: bytes):
    listed = [{"bbox": HORSE, "label": "horse"}, {"bbox": [0.0, 0.0, 10.0, 20.0], "label": "dog"}]
    file = save_rows(tmp_path / "a.parquet", [row(content, objects=listed)])
    assert [label for _, label, _ in things_of(read(file))] == ["horse", "dog"]


def test_a_folder_of_pictures_with_a_list_of_metadata(tmp_path: Path):
    save_picture(tmp_path / "set/train/7.png")
    lines = [{"file_name": "7.png", "objects": {"bbox": [HORSE], "categories": ["horse"]}}, {"file_name": 5}, "x"]
    broken = ["{", '{"file_name": "7.png", "objects": {"bbox": [[1, 2, NaN, 4]], "categories": ["a"]}}']
    text = "\r\n".join([*broken, *map(json.dumps, lines), ""])
    save_text(tmp_path / "set/train/metadata.jsonl", text)
    found = read(tmp_path / "set")
    assert things_of(found) == [("7.png", "horse", (300, 137, 500, 415))]
    assert [item.line for item in found] == [1, 2, 3, 4, 5]
    assert "expected an object with file_name and objects" in faults_of(found)


def test_a_part_is_a_word_of_the_files_name_or_folder(tmp_path: Path, content: bytes):
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        save_rows(tmp_path / f"set/data/{name}.parquet", [row(content, HORSE)])
    assert len(read(tmp_path / "set")) == 2
    assert [item.file.name for item in read(tmp_path / "set", part="test")] == ["test-00000-of-00001.parquet"]
    with pytest.raises(SettingsError, match="part 'val'"):
        read(tmp_path / "set", part="val")


# ---- the form of the boxes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "boxes"),
    [
        ("xywh", [HORSE]),
        ("xyxy", [[146, 137, 615, 415], [500, 300, 600, 400]]),
        ("cxcywh", [[380.5, 276, 469, 278], [600, 100, 80, 10], [600, 300, 10, 256]]),
        ("xywh-fractions", [[0.5, 0.25, 0.25, 0.125], [0.1, 0.1, 0.9, 0.9]]),
        ("xyxy-fractions", [[0.5, 0.25, 0.75, 0.375], [0.9, 0.9, 1, 1]]),
        ("cxcywh-fractions", [[0.5, 0.5, 1, 1], [0.75, 0.5, 0.5, 0.25]]),
    ],
)
def test_the_form_in_which_alone_all_boxes_fit_is_proven_and_said(
    tmp_path: Path, content: bytes, form: Any, boxes: list[list[float]]
):
    file = save_rows(tmp_path / "a.parquet", [row(content, *[[float(number) for number in box] for box in boxes])])
    proven = read(file)
    note = f"boxes are {form}: all {len(boxes)} fit their pictures so, and in no other form"
    assert convert("hf-objects", file, tmp_path / "out/r.jsonl").notes == [note]
    assert convert("hf-objects", file, tmp_path / "out/r.jsonl", box_form=form).notes == []
    assert things_of(proven) == things_of(read(file, box_form=form))
    assert (proven[0].units == FRACTIONS) == form.endswith("-fractions")


def test_the_numbers_of_each_form(tmp_path: Path, content: bytes):
    file = save_rows(tmp_path / "a.parquet", [row(content, [0.25, 0.5, 0.25, 0.5])])
    shown = {"xywh": (0.25, 0.5, 0.5, 1), "xyxy": (0.25, 0.5, 0.25, 0.5), "cxcywh": (0.125, 0.25, 0.375, 0.75)}
    for form, numbers in shown.items():
        for whole in (form, f"{form}-fractions"):
            (found,) = read(file, box_form=whole)
            assert found.things[0].numbers == numbers
            assert (found.units is not None) == whole.endswith("-fractions")


def test_what_is_not_proven_is_refused_with_what_was_found(tmp_path: Path, content: bytes):
    several = save_rows(tmp_path / "a.parquet", [row(content, [100.0, 100.0, 110.0, 110.0])])
    words = r"of 1 boxes, 1 as xywh, 1 as xyxy, 1 as cxcywh, 0 as xywh-fractions.*--boxes xywh"
    with pytest.raises(SettingsError, match=words):
        read(several)
    none = save_rows(tmp_path / "b.parquet", [row(content, HORSE, [300.0, 137.0, 500.0, 415.0])])
    with pytest.raises(SettingsError, match="of 2 boxes, 1 as xywh, 1 as xyxy, 0 as"):
        read(none)
    assert len(things_of(read(none, box_form="xywh"))) == 2
    with pytest.raises(RecordError, match="no row has a picture"):
        read(save_rows(tmp_path / "c.parquet", [row(content, objects=objects([1.0, 2.0]))]))


def test_without_declared_sizes_the_pictures_own_are_taken_and_turned_ones_prove_nothing(
    tmp_path: Path, content: bytes
):
    turned = save_picture(tmp_path / "t.png", orientation=6).read_bytes()
    rows = [row(content, HORSE), row(turned, [146.0, 137.0, 615.0, 415.0])]
    for each in rows:
        del each["width"], each["height"]
    found = read(save_rows(tmp_path / "a.parquet", rows))
    assert [len(item.things) for item in found] == [1, 1] and found[0].size is None


def test_an_unknown_form_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match="boxes as 'xyhw'; expected xywh, xyxy, cxcywh, xywh-fractions"):
        convert("hf-objects", tmp_path, tmp_path / "r.jsonl", box_form="xyhw")  # type: ignore[arg-type]


# ---- broken neighbours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "the image is NoneType"),
        ({"image": {"bytes": None, "path": "../secret.png"}}, "lies outside"),
        ({"image": {"bytes": None, "path": None}}, "neither bytes nor a path"),
        ({"objects": None}, "the objects are None; expected a struct of lists"),
        ({"objects": {"id": [1], "bbox": [HORSE, HORSE], "category": ["horse"]}}, "1 of id, 2 of bbox, 1 of category"),
        ({"objects": {"id": [1], "bbox": [None], "category": ["horse"]}}, "the box is None"),
        ({"objects": {"id": [1], "bbox": [[1.0]], "category": ["horse"]}}, "the box is [1.0]"),
        ({"objects": {"id": [1], "bbox": [[1.0, 2.0, float("nan"), 4.0]], "category": ["a"]}}, "expected 4 finite"),
        ({"objects": {"id": [1], "bbox": [HORSE], "category": [None]}}, "the label is None"),
        ({"width": -1}, "the declared size is [-1, 428]"),
    ],
)
def test_a_bad_row_leaves_its_neighbour(tmp_path: Path, content: bytes, changes: dict[str, Any], words: str):
    save_picture(tmp_path / "secret.png")
    found = read(save_rows(tmp_path / "set/a.parquet", [row(content) | changes, row(content, HORSE)]))
    assert things_of(found) == [("7.png", "horse", (300, 137, 500, 415))]
    assert words in faults_of(found)


def test_files_that_cannot_be_read_leave_their_neighbours(tmp_path: Path, content: bytes):
    save_rows(tmp_path / "set/a.parquet", [row(content, HORSE)])
    save_rows(tmp_path / "set/b.parquet", [{"image": {"bytes": content}, "text": "x"}])
    save_text(tmp_path / "set/c.parquet", "PAR1 cut off")
    save_text(tmp_path / "set/d.arrow", "x")
    arrow = save_rows(tmp_path / "set/e.arrow", [row(content, HORSE)] * 3)
    arrow.write_bytes(arrow.read_bytes()[:-200])
    found = read(tmp_path / "set")
    assert len(things_of(found)) == 1
    for words in (
        "no column objects; found image, text",
        "not a Parquet file that can be read",
        "not an Arrow file that can be read",
        "the rows from here on are damaged",
    ):
        assert words in faults_of(found)


def test_a_damaged_row_group_leaves_the_others(tmp_path: Path, content: bytes):
    rows = [row(content, HORSE, image_id=n) for n in range(4)]
    file = save_rows(tmp_path / "t.parquet", rows, row_group_size=2, compression="zstd")
    start = pq.ParquetFile(file).metadata.row_group(0).column(0).data_page_offset
    damaged = bytearray(file.read_bytes())
    damaged[start : start + 20] = b"\xff" * 20
    file.write_bytes(damaged)
    found = read(file, box_form="xywh")
    assert [item.id for item in found[1:]] == ["2", "3"]
    assert "row group 0 are damaged" in faults_of(found)


def test_metadata_of_another_kind_names_nothing(tmp_path: Path, content: bytes):
    for features in ([], {"objects": 5}, {"objects": {"category": {"_type": "ClassLabel", "names": 5}}}, 7):
        (found,) = read(save_rows(tmp_path / "a.parquet", [row(content, HORSE)], features))
        assert found.looked_for is None


# ---- properties, and the whole way -----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        documents(
            st.fixed_dictionaries(
                {
                    "file_name": st.just("7.png"),
                    "objects": entries("bbox", "category", "id") | st.lists(entries("bbox")),
                }
            )
        ),
        max_size=4,
    ),
    st.sampled_from([None, "xywh", "cxcywh-fractions"]),
)
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, lines: list[bytes], form: Any):
    save_text(garbage / "metadata.jsonl", b"\n".join(lines))
    assert_read_or_refused(lambda: read(garbage / "metadata.jsonl", box_form=form))


def test_convert(tmp_path: Path, content: bytes):
    turned = save_picture(tmp_path / "t.png", orientation=6).read_bytes()
    features = {"objects": NESTINGS["new"]}
    rows = [
        row(content, objects=objects(HORSE, labels=[0])),
        # stored as 428x640: its y is 640 - x of the upright picture, its x the upright y
        row(turned, objects=objects([137.0, 140.0, 278.0, 200.0], labels=[1]), width=428, height=640),
    ]
    save_rows(tmp_path / "set/train.parquet", rows, features)
    records = convert("hf-objects", tmp_path / "set", tmp_path / "out/r.jsonl", negatives=1).records
    assert answers_of(record for record in records if not record.is_negative) == {
        "horse": [(300, 137, 500, 415)],
        "dog": [(300, 137, 500, 415)],
    }
    assert sorted(record.question for record in records if record.is_negative) == ["dog", "horse"]
    with pytest.raises(SettingsError, match="coco takes no --boxes"):
        convert("coco", tmp_path / "set", tmp_path / "out/r.jsonl", box_form="xywh")
