from __future__ import annotations

import base64
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
from groundling.data.formats.detection import Annotated
from groundling.data.formats.found import Reading
from groundling.data.formats.labelme import read_labelme
from groundling.errors import RecordError, SettingsError


def shape(kind: str | None = "rectangle", *points: Any, label: Any = "horse", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": list(points) or [[146, 137], [615, 415]], "shape_type": kind} | more


def annotation(*shapes: Any, **changes: Any) -> dict[str, Any]:
    whole = {"version": "5.7.0", "flags": {}, "imagePath": "7.png", "imageData": None, "shapes": list(shapes)}
    return whole | {"imageWidth": 640, "imageHeight": 428} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path / "set/7.png")
    return tmp_path / "set"


def read(folder: Path, value: object, **options: Any) -> list[Any]:
    save_json(folder / "7.json", value)
    return list(read_labelme(str(folder), Reading(**options)))


# ---- what is there ---------------------------------------------------------------------------------------------


def test_rectangles_are_boxes_whichever_corners_were_drawn_and_points_are_points(folder: Path):
    value = annotation(
        shape("rectangle", [615, 137], [146, 415]),
        shape("rectangle", [1, 2], [3, 2], [3, 4.5], [1, 4.5], label="four corners"),
        shape("point", [345, 174.5], label="nose"),
    )
    found = read(folder, value)
    assert things_of(found) == [
        ("7.png", "horse", (146, 137, 615, 415)),
        ("7.png", "four corners", (1, 2, 3, 4.5)),
        ("7.png", "nose", (345, 174.5)),
    ]
    assert faults_of(found) == "" and found[0].size.size_wh == (640, 428) and found[0].id == "7"


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("polygon", [[69, 318], [45, 403], [173, 406], [198, 321]], (45, 318, 198, 406)),
        (None, [[69, 318], [45, 403], [173, 406]], (45, 318, 173, 406)),  # as old versions wrote polygons
        ("circle", [[100, 100], [103, 104]], (95, 95, 105, 105)),  # a radius of 5
        ("line", [[188, 178], [160, 224]], (160, 178, 188, 224)),
        ("linestrip", [[1, 5], [9, 2], [4, 8]], (1, 2, 9, 8)),
        ("mask", [[417, 305], [516, 404]], (417, 305, 517, 405)),  # both pixels inside: a mask of 100x100
        ("rotation", [[10, 0], [20, 10], [10, 20], [0, 10]], (0, 0, 20, 20)),
        ("rectangle", [[10, 0], [20, 10], [10, 20], [0, 10]], (0, 0, 20, 20)),  # turned
    ],
)
def test_other_shapes_are_the_boxes_around_them_if_that_is_wanted(
    folder: Path, kind: str | None, points: list[list[int]], box: tuple[float, ...]
):
    kept = read(folder, annotation(shape(kind, *points)))
    assert things_of(kept) == [] and "no upright rectangle; with --reduce" in faults_of(kept)
    assert things_of(read(folder, annotation(shape(kind, *points)), reduce=True)) == [("7.png", "horse", box)]


def test_what_is_said_about_a_shape_and_a_picture_is_kept(folder: Path):
    kept = {"flags": {"old": True}, "group_id": 3, "description": "by the fence"}
    (found,) = read(
        folder, annotation(shape(**kept), shape(flags={}, group_id=None, description=""), flags={"day": True})
    )
    assert [thing.extra for thing in found.things] == [kept, {}]
    assert found.extra == {"flags": {"day": True}}


def test_a_size_may_be_left_out(folder: Path):
    (found,) = read(folder, annotation(shape(), imageWidth=None, imageHeight=None))
    assert found.size is None and len(found.things) == 1


def test_what_is_to_be_ignored_is_no_class(folder: Path, tmp_path: Path):
    read(folder, annotation(shape(label="__ignore__"), shape()))
    conversion = convert("labelme", folder, tmp_path / "out/r.jsonl", per="picture")
    assert [record.question for record in conversion.records] == [
        "every instance that belongs to the following categories: 'horse'"
    ]
    assert "'__ignore__' is the label of what is to be ignored" in conversion.rejected[0].reason


# ---- the picture -----------------------------------------------------------------------------------------------


def test_a_picture_is_found_relative_to_its_file_and_by_its_name(tmp_path: Path):
    picture = save_picture(tmp_path / "set/pictures/7.png")
    for path in ("../pictures/7.png", "..\\pictures\\7.png", "C:\\photos\\7.png", "/home/else/7.png"):
        save_json(tmp_path / "set/labels/a.json", annotation(shape(), imagePath=path))
        (found,) = read_labelme(str(tmp_path / "set"), Reading())
        assert isinstance(found, Annotated) and isinstance(found.image, Path)
        assert found.image.resolve() == picture.resolve()


def test_an_embedded_picture_stands_in_for_a_missing_one(folder: Path):
    content = (folder / "7.png").read_bytes()
    data = base64.b64encode(content).decode()
    for path in ("absent.png", "7.json", None):
        (found,) = read(folder, annotation(shape(), imagePath=path, imageData=data))
        assert found.image == content
    (found,) = read(folder, annotation(shape(), imageData=data))
    assert found.image == folder / "7.png"


def test_a_file_that_names_itself_means_the_picture_called_like_it(folder: Path):
    (found,) = read(folder, annotation(shape(), imagePath="7.json"))
    assert found.image == folder / "7.png"


# ---- broken neighbours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", "not JSON"),
        ("[]", "holds []; expected an object with a list of shapes"),
        ('{"shapes": 5}', "expected an object with a list of shapes"),
        (DEEP, "expected an object"),
        ('{"shapes": [], "shapes": []}', "the key 'shapes' is given twice"),
        ("\ufeff".encode("utf-16"), "not UTF-8"),
        (annotation(imageWidth="640"), "the declared size is ['640', 428]"),
        (annotation(imagePath="absent.png"), "there is no picture 'absent.png'"),
        (annotation(imagePath=5), "imagePath is 5; expected a picture"),
        (annotation(imagePath="../secret.png"), "lies outside"),
        (annotation(imagePath="http://127.0.0.1/7.png"), "never downloaded"),
        (annotation(imagePath="absent.png", imageData="&%"), "imageData is no base64"),
        (annotation(imagePath="absent.png", imageData="\u00e4"), "imageData is no base64"),
        (annotation(imagePath="absent.png", imageData=["a"]), "imageData is ['a']"),
    ],
)
def test_a_bad_file_leaves_its_neighbour(folder: Path, bad: Any, words: str):
    save_picture(folder.parent / "secret.png")
    save_json(folder / "1.json", bad)
    found = read(folder, annotation(shape()))
    assert things_of(found) == [("7.png", "horse", (146, 137, 615, 415))]
    assert words in faults_of(found) and "1.json" in found[0].file


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("null", "the shape is None; expected an object"),
        ("{}", "a polygon, no upright rectangle"),
        ('{"label": "a", "label": "b"}', "the shape is the key 'label'"),
        (json.dumps(shape(label=None)), "the label is None"),
        (json.dumps(shape(label=" ")), "the label is ' '"),
        (json.dumps(shape("cuboid")), "a shape of the kind 'cuboid' has no box"),
        (json.dumps(shape() | {"shape_type": [1]}), "a shape of the kind [1] has no box"),
        (json.dumps(shape("rectangle", [1, 2])), "a rectangle, no upright"),
        (json.dumps(shape("rectangle", [1, 2], [3])), "the corner is [3]; expected 2 finite numbers"),
        (json.dumps(shape("point", [1, 2], [3, 4])), "the point is [[1, 2], [3, 4]]; expected 2 finite numbers"),
        (json.dumps(shape() | {"points": "x"}), "a rectangle, no upright"),
        *(
            (f'{{"label": "a", "shape_type": "rectangle", "points": [[1, {number}], [3, 4]]}}', "2 finite numbers")
            for number in [*BROKEN_NUMBERS, DEEP]
        ),
    ],
)
def test_a_bad_shape_leaves_its_neighbour(folder: Path, bad: str, words: str):
    text = json.dumps(annotation(shape(label="dog"))).replace('"shapes": [', f'"shapes": [{bad}, ')
    found = read(folder, text)
    assert things_of(found) == [("7.png", "dog", (146, 137, 615, 415))]
    assert words in faults_of(found)


def test_shapes_that_are_not_what_they_say_are_named_when_reduced(folder: Path):
    for kind, points in (
        ("circle", [[1, 2]]),
        ("mask", [[1, 2], [3, 4], [5, 6]]),
        ("polygon", [[1, 2]]),
        ("line", ["x"]),
    ):
        found = read(folder, annotation(shape(kind, *points)), reduce=True)
        assert things_of(found) == [] and "expected two or more of x, y" in faults_of(found)


def test_a_part_is_a_folder(folder: Path):
    save_picture(folder / "val/8.png")
    save_json(folder / "val/8.json", annotation(shape(), imagePath="8.png"))
    assert [item.id for item in read(folder, annotation(), part="val")] == ["8"]
    with pytest.raises(SettingsError, match=r"part 'test'.*there are 7\.json, val/8\.json"):
        read(folder, annotation(), part="test")
    with pytest.raises(RecordError, match="no file or folder"):
        list(read_labelme(str(folder / "absent"), Reading()))


# ---- properties, real files, the whole way ---------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    documents(
        st.fixed_dictionaries(
            {
                "shapes": st.lists(entries("label", "points", "shape_type", "flags"), max_size=4),
                "imagePath": st.just("7.png"),
            }
        )
    ),
    st.booleans(),
)
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, content: bytes, reduce: bool):
    assert_read_or_refused(lambda: read(garbage, content, reduce=reduce))


kinds = st.sampled_from(["rectangle", "point", "polygon", "circle", "line", "linestrip", "mask", "rotation", "x", None])
corners = st.lists(st.lists(st.floats() | st.integers(), min_size=1, max_size=3), max_size=4)


@settings(max_examples=100, deadline=None)
@given(kinds, corners)
def test_any_corners_of_any_shape_are_finite_numbers_or_a_fault(garbage: Path, kind: str | None, points: list[Any]):
    value = annotation(shape(kind) | {"points": points})
    (found,) = read_labelme(str(save_json(garbage / "7.json", value)), Reading(reduce=True))
    (thing,) = found.things
    assert bool(thing.fault) != (len(thing.numbers) in (2, 4))


def test_the_shared_real_files_are_read_as_an_independent_reader_did(shared_data: Path):
    found = list(read_labelme(str(shared_data / "formats/labelme"), Reading(reduce=True)))
    rejected = [line for line in faults_of(found).splitlines() if "__ignore__" not in line]
    assert rejected == []
    for file, expected in expected_boxes(shared_data, "labelme").items():
        (picture,) = [item for item in found if item.file == shared_data / "formats" / file]
        boxes = [(thing.label, list(thing.numbers)) for thing in picture.things]
        assert all((label, box) in boxes for _, label, box, _ in expected)
    (itself,) = [item for item in found if item.file.name == "apc2016_obj3.json"]
    assert isinstance(itself.image, bytes)
    (primitives,) = [item for item in found if item.file.name == "primitives.json"]
    shown = {thing.label: thing.numbers for thing in primitives.things}
    assert shown["point"] == (345, 174)
    assert shown["octagon"] == pytest.approx((417.4, 305, 517.4, 405), abs=0.01)  # its mask is 100x100


def test_convert_brings_boxes_and_points_of_a_turned_picture_upright(folder: Path, tmp_path: Path):
    save_picture(folder / "7.png", orientation=6)
    stored = annotation(
        shape("rectangle", [137, 25], [415, 494]),
        shape("point", [137, 25], label="nose"),
        imageWidth=428,
        imageHeight=640,
    )
    read(folder, stored)
    records = convert("labelme", folder, tmp_path / "out/r.jsonl").records
    assert answers_of(records) == {"horse": [(146, 137, 615, 415)], "nose": [(615, 137)]}
