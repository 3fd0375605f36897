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
    expected_boxes,
    faults_of,
    save_json,
    save_picture,
    things_of,
)

from groundling.data.convert import convert
from groundling.data.formats.coco import read_coco
from groundling.data.formats.detection import Annotated
from groundling.data.formats.found import Reading
from groundling.data.record import Rejected
from groundling.errors import RecordError, SettingsError

CATEGORIES = [{"id": 3, "name": "horse", "supercategory": "animal"}, {"id": 9, "name": "dog"}]


def image(number: Any = 7, **changes: Any) -> dict[str, Any]:
    return {"id": number, "file_name": "7.png", "width": 640, "height": 428} | changes


def annotation(number: Any = 1, **changes: Any) -> dict[str, Any]:
    whole = {"id": number, "image_id": 7, "category_id": 3, "bbox": [146, 137, 469, 278], "iscrowd": 0}
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def document(*annotations: Any, images: Any = None, categories: Any = None) -> dict[str, Any]:
    return {"images": images or [image()], "annotations": list(annotations), "categories": categories or CATEGORIES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path / "set/7.png")
    return tmp_path / "set"


def read(folder: Path, value: object, **options: Any) -> list[Annotated | Rejected]:
    save_json(folder / "instances.json", value)
    return list(read_coco(str(folder), Reading(**options)))


def pictures_in(items: list[Annotated | Rejected]) -> list[Annotated]:
    return [item for item in items if isinstance(item, Annotated)]


# ---- what is there ---------------------------------------------------------------------------------------------


def test_a_picture_and_its_boxes(folder: Path):
    (found,) = pictures_in(read(folder, document(annotation(), annotation(2, category_id=9, bbox=[0, 0, 10.5, 20]))))
    # 146 + 469 and 137 + 278: the vendor's horse
    assert things_of([found]) == [("7.png", "horse", (146, 137, 615, 415)), ("7.png", "dog", (0, 0, 10.5, 20))]
    assert (found.id, found.line, found.extra) == ("7", 1, {"coco_image_id": 7})
    assert [thing.extra for thing in found.things] == [{"annotation_id": 1}, {"annotation_id": 2}]
    assert found.size is not None and found.size.size_wh == (640, 428)
    assert found.looked_for == ["horse", "dog"] and found.units is None


def test_a_picture_without_annotations_is_one_with_nothing_on_it(folder: Path):
    (found,) = pictures_in(read(folder, document()))
    assert found.things == [] and found.looked_for == ["horse", "dog"]


def test_ids_are_the_same_as_text_and_as_numbers(folder: Path):
    categories = [{"id": "0", "name": "horse"}]
    value = document(annotation("a", image_id="7", category_id=0.0), images=[image(7.0)], categories=categories)
    assert things_of(read(folder, value)) == [("7.png", "horse", (146, 137, 615, 415))]


def test_category_0_is_one_like_others_and_backgrounds_and_mere_groups_are_not_looked_for(folder: Path):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},  # as one tool's exports begin
        {"id": 1, "name": "_background_"},
        {"id": 2, "name": "horse", "supercategory": "animals"},
        {"id": 4, "name": "person", "supercategory": "person"},  # as COCO's own
    ]
    (unused,) = pictures_in(read(folder, document(annotation(category_id=2), categories=categories)))
    assert unused.looked_for == ["horse", "person"]
    (used,) = pictures_in(read(folder, document(annotation(category_id=0), categories=categories)))
    assert used.looked_for == ["animals", "horse", "person"]
    assert used.things[0].label == "animals"


def test_crowds_are_not_asked_about(folder: Path, tmp_path: Path):
    value = document(annotation(), annotation(2, iscrowd=1), annotation(3, category_id=9), annotation(4, ignore=True))
    save_json(folder / "instances.json", value)
    conversion = convert("coco", folder, tmp_path / "out/r.jsonl")
    assert answers_of(conversion.records) == {"dog": [(146, 137, 615, 415)]}
    assert [bad.reason for bad in conversion.rejected] == [
        f"7.png: thing {n} ('horse'): annotation {n + 1}: a crowd or a region to ignore, "
        "whose box is around no one thing"
        for n in (1, 3)
    ]


def test_polygons_without_a_box_need_reduce_and_masks_have_none(folder: Path):
    value = document(
        annotation(bbox=..., segmentation=[[10, 20, 30, 5, 20, 40], [100, 20, 110, 20, 110, 30]]),
        annotation(2, bbox=[], segmentation={"counts": "abc", "size": [428, 640]}),
        annotation(3, bbox=...),
        annotation(4, bbox=..., segmentation=[[10, 20, 30]]),
        annotation(5, bbox=..., segmentation=[]),
        annotation(6, segmentation={"counts": [1, 2], "size": [428, 640]}),
    )
    kept = read(folder, value)
    assert things_of(kept) == [("7.png", "horse", (146, 137, 615, 415))]
    assert faults_of(kept).count("with --reduce the box around it is taken") == 3
    assert "annotation 2: it has only a mask (RLE)" in faults_of(kept) and "annotation 3: it has no bbox" in faults_of(
        kept
    )
    reduced = read(folder, value, reduce=True)
    assert things_of(reduced)[0] == ("7.png", "horse", (10, 5, 110, 40))
    assert len(things_of(reduced)) == 2
    assert "the corner is [30]; expected 2 finite numbers" in faults_of(reduced)


def test_lvis_says_what_was_looked_for_and_what_is_not_marked_to_the_last(folder: Path):
    address = "http://images.example.org/val2017/7.png"
    entry = {"id": 7, "coco_url": address, "neg_category_ids": [9, 404], "not_exhaustive_category_ids": [3]}
    (found,) = pictures_in(read(folder, document(annotation(), images=[entry])))
    assert found.image == folder / "7.png"
    assert found.looked_for == ["dog"]
    assert "not all of its kind are marked here" in found.things[0].fault and not found.things[0].numbers


def test_file_names_with_folders_and_of_other_machines(tmp_path: Path):
    save_picture(tmp_path / "set/val2017/a/7.png")
    names = ["val2017/a/7.png", "a/7.png", "7.png", "/home/else/7.png", "val2017\\a\\7.png"]
    images = [image(n, file_name=name) for n, name in enumerate(names)]
    save_json(tmp_path / "set/annotations/instances_val2017.json", document(images=images))
    found = list(read_coco(str(tmp_path / "set/annotations/instances_val2017.json"), Reading()))
    assert [item.image for item in found if isinstance(item, Annotated)] == [tmp_path / "set/val2017/a/7.png"] * 5


def test_the_pictures_may_lie_in_another_folder(folder: Path, tmp_path: Path):
    save_json(tmp_path / "apart/instances.json", document(annotation()))
    assert "there is no picture '7.png'" in faults_of(read_coco(str(tmp_path / "apart"), Reading()))
    assert len(things_of(read_coco(str(tmp_path / "apart"), Reading(images=folder)))) == 1


# ---- several files, and other kinds ----------------------------------------------------------------------------


def test_of_several_files_the_part_chooses_and_other_kinds_are_passed_over(tmp_path: Path):
    save_picture(tmp_path / "train2017/7.png")
    for name in ("captions_train2017", "person_keypoints_train2017", "instances_train2017", "instances_val2017"):
        box = [0, 0, 1, 1] if "val" in name else [1, 1, 2, 2]
        save_json(tmp_path / f"annotations/{name}.json", document(annotation(bbox=box)))
    with pytest.raises(SettingsError, match=r"2 files .*annotations/instances_train2017.json, .*--part a word"):
        list(read_coco(str(tmp_path), Reading()))
    assert things_of(read_coco(str(tmp_path), Reading(part="val2017"))) == [("7.png", "horse", (0, 0, 1, 1))]
    with pytest.raises(SettingsError, match=r"part 'test'.*there are annotations/instances_train2017.json"):
        list(read_coco(str(tmp_path), Reading(part="test")))


def test_a_part_may_be_a_folder(tmp_path: Path):
    for part in ("train", "valid"):
        save_picture(tmp_path / part / "7.png")
        save_json(tmp_path / part / "_annotations.coco.json", document(annotation()))
    (found,) = pictures_in(list(read_coco(str(tmp_path), Reading(part="valid"))))
    assert found.image == tmp_path / "valid/7.png"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}], "is a list, as results of a detector are"),
        ({"images": [], "annotations": []}, "holds images, annotations; expected lists of images, annotations and"),
        ({}, "holds nothing"),
        (5, "holds 5"),
        (document({"id": 1, "image_id": 7, "caption": "a horse"}), "holds captions; expected boxes"),
        (document(annotation(keypoints=[1, 2, 2])), "holds keypoints"),
        (document(annotation(segments_info=[{}])), "holds panoptic masks"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "the key 'images' is given twice"),
    ],
)
def test_other_kinds_of_files_are_refused(folder: Path, value: object, words: str):
    with pytest.raises(RecordError) as error:
        read(folder, value)
    assert words in str(error.value) and "instances.json" in str(error.value)


def test_wrong_encodings_are_named_and_a_mark_of_order_is_no_harm(folder: Path):
    text = json.dumps(document(annotation()))
    for encoding in ("utf-16", "latin-1"):
        (folder / "instances.json").write_bytes(text.replace("horse", "k\u00e4fer").encode(encoding))
        with pytest.raises(RecordError, match="not UTF-8"):
            list(read_coco(str(folder), Reading()))
    (folder / "instances.json").write_bytes(b"\xef\xbb\xbf" + text.replace(", ", ",\r\n").encode())
    assert len(things_of(read_coco(str(folder), Reading()))) == 1


def test_a_folder_without_annotations_is_an_error_that_names_it(tmp_path: Path):
    for place, words in ((tmp_path, "no file that ends in .json below"), (tmp_path / "absent", "no file or folder")):
        with pytest.raises(RecordError, match=words):
            list(read_coco(str(place), Reading()))
    save_json(tmp_path / "captions_val.json", {})
    with pytest.raises(RecordError, match="only of other kinds"):
        list(read_coco(str(tmp_path), Reading()))


# ---- broken neighbours -----------------------------------------------------------------------------------------

GOOD = json.dumps(annotation(99, category_id=9))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("null", "entry 1 of annotations: None names no picture"),
        ("[]", "entry 1 of annotations: [] names no picture"),
        ("{}", "names no picture"),
        ('{"id": 1, "id": 2}', "the key 'id' is given twice"),
        (json.dumps(annotation(image_id=404)), "there is no picture 404 in images"),
        (json.dumps(annotation(image_id=None)), "names no picture"),
        (json.dumps(annotation(category_id=404)), "annotation 1: the category 404 is none of the file's"),
        (json.dumps(annotation(category_id=[3])), "the category [3] is none"),
        (json.dumps(annotation(bbox=[1, 2, 3])), "annotation 1: the box is [1, 2, 3]; expected 4 finite numbers"),
        (json.dumps(annotation(bbox="1 2 3 4")), "the box is '1 2 3 4'"),
        (json.dumps(annotation(bbox={"x": 1})), "expected 4 finite numbers"),
        (GOOD, "entry 2 of annotations: annotation 99 stands there twice"),
        *(
            (f'{{"image_id": 7, "category_id": 3, "bbox": [1, 2, {n}, 4]}}', "expected 4 finite")
            for n in BROKEN_NUMBERS
        ),
        (f'{{"image_id": 7, "category_id": 3, "bbox": {DEEP}}}', "the box is [["),
        (f'{{"image_id": {DEEP}, "category_id": 3, "bbox": []}}', "names no picture"),
        (DEEP, "names no picture"),
    ],
)
def test_a_bad_annotation_leaves_its_neighbour(folder: Path, bad: str, words: str):
    text = json.dumps(document()).replace('"annotations": []', f'"annotations": [{bad}, {GOOD}]')
    found = read(folder, text)
    assert things_of(found) == [("7.png", "dog", (146, 137, 615, 415))]
    assert words in faults_of(found)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("null", "entry 1 of images: None has no id"),
        ('{"file_name": "7.png"}', "has no id"),
        ('{"id": 7, "id": 7}', "is given twice has no id"),
        ('{"id": NaN, "file_name": "7.png"}', "has no id"),
        (json.dumps(image(8, file_name=None)), "the file_name is None; expected the path of a picture"),
        (json.dumps(image(8, file_name="absent.png")), "there is no picture 'absent.png'"),
        (json.dumps(image(8, file_name="../secret.png")), "lies outside"),
        (json.dumps(image(8, file_name="link.png")), "lies outside"),
        (json.dumps(image(8, file_name="http://127.0.0.1/7.png")), "never downloaded"),
        (json.dumps(image(8, file_name="x" * 5000)), "there is no picture 'xxx"),
        (json.dumps(image(8, file_name="a\0b.png")), "is no path"),
        (json.dumps(image(8, file_name="\ud800.png")), "there is no picture"),
        (json.dumps(image(8, width="640")), "the declared size is ['640', 428]; expected width and height in"),
        (json.dumps(image(8, width=-1)), "the declared size is [-1, 428]"),
        (json.dumps(image(8, width=None)), "the declared size is [None, 428]"),
        (json.dumps(image(7)), "its id 7 is that of entry 1 too"),
    ],
)
def test_a_bad_picture_leaves_its_neighbour(folder: Path, bad: str, words: str):
    save_picture(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    good = json.dumps(image())
    text = json.dumps(document(annotation())).replace(f'"images": [{good}]', f'"images": [{bad}, {good}]')
    found = read(folder, text)
    assert things_of(found) == [("7.png", "horse", (146, 137, 615, 415))]
    assert words in faults_of(found)


def test_sizes_that_no_tool_knew_are_none(folder: Path):
    for sides in ({"width": 0, "height": 0}, {"width": None, "height": None}):
        (found,) = pictures_in(read(folder, document(images=[image(**sides)])))
        assert found.size is None


def test_two_pictures_of_one_id_are_both_refused_for_nothing_tells_whose_the_boxes_are(folder: Path):
    save_picture(folder / "8.png")
    found = read(folder, document(annotation(), images=[image(), image(file_name="8.png"), image(5)]))
    assert [item.id for item in pictures_in(found)] == ["5"]
    assert "entry 1 of images: its id 7 is that of entry 2 too, and nothing tells whose the boxes are" in faults_of(
        found
    )


def test_a_category_with_two_names_has_none(folder: Path):
    categories = [*CATEGORIES, {"id": 3, "name": "pony"}, None, {"id": 4}, {"name": "x"}, {"id": 5, "name": " "}]
    found = read(folder, document(annotation(), annotation(2, category_id=9), categories=categories))
    assert things_of(found) == [("7.png", "dog", (146, 137, 615, 415))]
    assert "category 3 is called 'pony' here and 'horse' before; which is it?" in faults_of(found)
    assert faults_of(found).count("has no id or name") == 4


def test_an_annotation_with_a_used_id_but_other_content_is_another_thing(folder: Path):
    assert len(things_of(read(folder, document(annotation(), annotation(bbox=[1, 2, 3, 4]))))) == 2


def test_numbers_whose_sum_no_picture_has_spoil_only_their_question(folder: Path, tmp_path: Path):
    value = document(annotation(bbox=[9e14, 0, 9e14, 5]), annotation(2, category_id=9))
    save_json(folder / "instances.json", value)
    conversion = convert("coco", folder, tmp_path / "r.jsonl")
    assert answers_of(conversion.records) == {"dog": [(146, 137, 615, 415)]}
    assert "beyond any picture" in conversion.rejected[0].reason


# ---- properties, real files, the whole way ---------------------------------------------------------------------

some = st.lists(entries(*annotation(), *image(), "segmentation", "name", "neg_category_ids", "coco_url"), max_size=4)


@settings(max_examples=100, deadline=None)
@given(documents(st.fixed_dictionaries({"images": some, "annotations": some, "categories": some})), st.booleans())
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, content: bytes, reduce: bool):
    assert_read_or_refused(lambda: read(garbage, content, reduce=reduce))


def test_the_shared_real_file_is_read_as_an_independent_reader_did(shared_data: Path):
    found = list(read_coco(str(shared_data / "formats/coco_labelme"), Reading()))
    expected = expected_boxes(shared_data, "coco")["coco_labelme/annotations.json"]
    boxes = [
        (str(item.image.relative_to(shared_data / "formats")), thing.label, list(thing.numbers))
        for item in pictures_in(found)
        for thing in item.things
        if isinstance(item.image, Path) and not thing.fault
    ]
    assert sorted(boxes) == sorted((image, label, box) for image, label, box, _ in expected)
    assert all("_background_" not in (item.looked_for or ()) for item in pictures_in(found))


@pytest.mark.parametrize(
    ("orientation", "declared", "bbox", "is_told"),
    [
        (1, (640, 428), [146, 137, 469, 278], True),
        (6, (640, 428), [146, 137, 469, 278], True),  # the size of the upright picture: so are the boxes
        # stored 428x640, and turned clockwise to be upright: y is 640 - x of the upright one, x is its y
        (6, (428, 640), [137, 640 - 615, 278, 469], True),
        (8, (428, 640), [428 - 415, 146, 278, 469], True),  # turned the other way: x is 428 - y, y is its x
        (3, (640, 428), [146, 137, 469, 278], False),  # no side is swapped, so the size does not tell
    ],
)
def test_the_declared_size_tells_whether_boxes_of_a_turned_picture_are_upright(
    folder: Path, tmp_path: Path, orientation: int, declared: tuple[int, int], bbox: list[int], is_told: bool
):
    save_picture(folder / "7.png", orientation=orientation)
    width, height = declared
    save_json(folder / "instances.json", document(annotation(bbox=bbox), images=[image(width=width, height=height)]))
    (record,) = convert("coco", folder, tmp_path / "out/r.jsonl").records
    assert (record.width, record.height) == (640, 428)
    assert record.targets[0].box == (146, 137, 615, 415)
    assert record.targets[0].extra == {"annotation_id": 1} and record.extra["coco_image_id"] == 7
    assert ("doubt" in record.extra) != is_told


def test_a_size_that_is_not_the_pictures_rejects_it(folder: Path, tmp_path: Path):
    save_json(folder / "instances.json", document(annotation(), images=[image(width=1280, height=856)]))
    conversion = convert("coco", folder, tmp_path / "out/r.jsonl")
    assert conversion.records == [] and "the file says that the picture is 1280x856, and it is 640x428" in str(
        conversion.rejected
    )


def test_each_way_of_asking(folder: Path, tmp_path: Path):
    save_picture(folder / "8.png")
    value = document(
        annotation(),
        annotation(2, bbox=[1, 2, 3, 4]),
        annotation(3, category_id=9),
        images=[image(), image(8, file_name="8.png")],
    )
    save_json(folder / "instances.json", value)

    def ask(**options: Any) -> list[tuple[str, int]]:
        records = convert("coco", folder, tmp_path / "out/r.jsonl", **options).records
        return [(record.question, len(record.targets)) for record in records]

    assert ask() == [("horse", 2), ("dog", 1)]
    assert ask(per="box", question="find a {label}") == [("find a horse", 1), ("find a horse", 1), ("find a dog", 1)]
    assert ask(per="picture", question="{labels}?") == [("horse, dog?", 3), ("horse, dog?", 0)]
    assert sorted(ask(negatives=2, labels=["dog", "horse"])) == [("dog", 0), ("dog", 1), ("horse", 0), ("horse", 2)]
