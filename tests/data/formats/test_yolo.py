from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import answers_of, assert_read_or_refused, faults_of, save_picture, save_text, things_of

from groundling.data.convert import convert
from groundling.data.formats.detection import FRACTIONS, Annotated
from groundling.data.formats.found import Reading
from groundling.data.formats.yolo import read_yolo
from groundling.errors import RecordError, SettingsError

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [horse, dog]\n"
HORSE = "0 0.25 0.5 0.5 0.25"  # a quarter of the sides and a half: left 0, top 0.375, right 0.5, bottom 0.625


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of one picture and its labels in either part."""
    for part, name in (("train", "7"), ("val", "8")):
        save_picture(tmp_path / f"set/images/{part}/{name}.png")
        save_text(tmp_path / f"set/labels/{part}/{name}.txt", HORSE)
    save_text(tmp_path / "set/data.yaml", YAML)
    return tmp_path / "set"


def read(folder: Path, labels: str | bytes | None = None, yaml: str | bytes = YAML, **options: Any) -> list[Any]:
    """What the part `train` holds, its one picture with those labels."""
    save_text(folder / "data.yaml", yaml)
    if labels is not None:
        save_text(folder / "labels/train/7.txt", labels)
    return list(read_yolo(str(folder), Reading(**{"part": "train"} | options)))


def names_in(items: list[Any]) -> list[str]:
    return [item.image_name for item in items if isinstance(item, Annotated)]


# ---- one label file --------------------------------------------------------------------------------------------


def test_boxes_are_shares_around_their_middles(folder: Path):
    (found,) = read(folder, f"{HORSE}\n1.0 .5 5e-1 1 1 0.875\r\n\n")
    assert things_of([found]) == [
        ("images/train/7.png", "horse", (0, 0.375, 0.5, 0.625)),
        ("images/train/7.png", "dog", (0, 0, 1, 1)),
    ]
    assert found.units == FRACTIONS and found.looked_for == ["horse", "dog"]
    assert (found.image, found.file) == (folder / "images/train/7.png", folder / "labels/train/7.txt")
    assert [thing.extra for thing in found.things] == [{}, {"confidence": 0.875}]


def test_an_empty_label_file_and_none_are_pictures_with_nothing_on_them(folder: Path):
    save_picture(folder / "images/train/9.png")
    assert [item.things for item in read(folder, " \n")] == [[], []]


@pytest.mark.parametrize(
    ("line", "words", "box"),
    [
        ("0 0.1 0.2 0.3 0.1 0.2 0.5", "a polygon of 3 corners (segments)", (0.1, 0.1, 0.3, 0.5)),
        ("0 0 0 1 0 1 1 0 1 .5 .5", "a polygon of 5 corners (segments)", (0, 0, 1, 1)),
        ("0 .5 .2 .8 .5 .5 .8 .2 .5", "4 corners, of a turned box (OBB) or of a polygon", (0.2, 0.2, 0.8, 0.8)),
    ],
)
def test_polygons_and_turned_boxes_are_named_and_only_used_when_reduced(
    folder: Path, line: str, words: str, box: tuple[float, ...]
):
    kept = read(folder, line)
    assert things_of(kept) == [] and f"line 1: {words}" in faults_of(kept) and "--reduce" in faults_of(kept)
    assert things_of(read(folder, line, reduce=True)) == [("images/train/7.png", "horse", box)]


def test_keypoints_are_told_by_the_description_of_the_set(folder: Path):
    line = f"{HORSE} 0.1 0.2 2 0.3 0.4 1"  # two keypoints with how visible they are
    poses = YAML + "kpt_shape: [2, 3]\n"
    assert "a box with keypoints (pose); with --reduce" in faults_of(read(folder, line, poses))
    assert things_of(read(folder, line, poses, reduce=True))[0][2] == (0, 0.375, 0.5, 0.625)
    flat = f"{HORSE} 0.1 0.2 0.3 0.4"  # without: of the same count as a polygon's
    assert things_of(read(folder, flat, YAML + "kpt_shape: [2, 2]\n", reduce=True))[0][2] == (0, 0.375, 0.5, 0.625)
    assert "a polygon of 4" not in faults_of(read(folder, flat)) and "4 corners" in faults_of(read(folder, flat))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("2 0.5 0.5 1 1", "line 1: class '2' is none of the 2 names in data.yaml"),
        ("-1 0.5 0.5 1 1", "class '-1' is none"),
        ("horse 0.5 0.5 1 1", "class 'horse' is none"),
        ("0.5 0.5 0.5 1 1", "class '0.5' is none"),
        ("0", "line 1: 0 numbers after the class; expected 4 of a box"),
        ("0 0.5 0.5 1", "line 1: 3 numbers after the class; expected 4 of a box"),
        ("0 0 0 0 0 0 0 0", "7 numbers after the class"),
        ("0 320 214 100 50", "expected shares of the picture, 0 to 1 (are these pixels?)"),
        ("0 0.5 0.5 -0.5 1", "expected shares of the picture"),
        ("0,0.5,0.5,1,1", "class '0,0.5,0.5,1,1' is none"),
        *((f"0 0.5 {bad} 1 1", "expected 4 finite numbers") for bad in ("NaN", "inf", "1e999", "x", "0,5", "\u0661")),
        ("0 " + "9" * 5000 + " 1 1 1", "expected 4 finite numbers"),
    ],
)
def test_a_bad_line_leaves_its_neighbour(folder: Path, bad: str, words: str):
    found = read(folder, f"{bad}\n1 0.5 0.5 1 1")
    assert things_of(found) == [("images/train/7.png", "dog", (0, 0, 1, 1))]
    assert words in faults_of(found)


def test_a_bad_label_file_leaves_its_neighbour(folder: Path):
    save_picture(folder / "images/train/9.png")
    save_text(folder / "labels/train/9.txt", HORSE)
    found = read(folder, HORSE.encode("utf-16"))
    assert names_in(found) == ["images/train/9.png"]
    assert "7.txt: not UTF-8" in faults_of(found)
    assert len(things_of(read(folder, b"\xef\xbb\xbf" + HORSE.encode()))) == 2


# ---- which pictures --------------------------------------------------------------------------------------------


def test_without_a_part_all_are_read_in_order_and_each_picture_once(folder: Path):
    assert names_in(read(folder, part=None)) == ["images/train/7.png", "images/val/8.png"]
    yaml = YAML.replace("images/val", "images/train")
    assert names_in(read(folder, yaml=yaml, part=None)) == ["images/train/7.png"]
    assert names_in(read(folder, yaml=yaml, part="val")) == ["images/train/7.png"]
    with pytest.raises(SettingsError, match=r"no part 'test' in .*; it has train, val"):
        read(folder, part="test")


@pytest.mark.parametrize(
    "entry",
    [
        "images/train",
        "./images/train/",
        "../images/train",  # as one tool's exports are
        "[images/train]",
        "train.txt",
        "images/train/../train",
    ],
)
def test_ways_to_say_where_the_pictures_of_a_part_lie(folder: Path, entry: str):
    save_text(folder / "train.txt", "./images/train/7.png\r\n\n/home/else/images/train/7.png\n")
    for path in ("", "path: .\n", "path: /content/datasets/horses\n", "path: ../horses\n", "path: [1]\n"):
        assert names_in(read(folder, yaml=f"{path}train: {entry}\nnames: {{0: horse, 1: dog}}\n")) == [
            "images/train/7.png"
        ]


def test_absolute_entries_inside_the_folder_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch):
    save_text(folder / "train.txt", f"{folder / 'images/train/7.png'}\n")
    monkeypatch.chdir(folder.parent)
    for entry in (folder / "images/train", "train.txt"):
        save_text(folder / "data.yaml", f"train: {entry}\nnames: [horse]")
        (found,) = read_yolo("set", Reading())
        assert found.image_name == "images/train/7.png" and len(found.things) == 1


def test_a_path_inside_the_folder_is_where_entries_begin(folder: Path):
    assert names_in(read(folder, yaml="path: images\ntrain: train\nnames: [horse]")) == ["images/train/7.png"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("../secret", "train: '../secret' lies outside"),
        ("/etc", "'/etc' lies outside"),
        ("link", "'link' lies outside"),
        ("absent", "'absent' is neither a folder nor a list (.txt) of pictures"),
        ("absent.txt", "is neither a folder nor a list"),
        ("empty", "train: no picture in 'empty'"),
        ("{a: b}", "expected a folder of pictures, or a list of them"),
        ('"a\\0b"', "expected a folder of pictures"),
        ("x" * 5000, "is neither a folder"),
        ("[[images/train]]", "expected a folder of pictures"),
    ],
)
def test_entries_that_lead_nowhere_or_out_leave_their_neighbour(folder: Path, entry: str, words: str):
    save_picture(folder.parent / "secret/9.png")
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "empty").mkdir()
    yaml = f"train: {entry}\nval: images/val\nnames: [horse]"
    found = read(folder, yaml=yaml, part=None)
    assert names_in(found) == ["images/val/8.png"]
    assert words in faults_of(found)


def test_lines_of_a_list_that_lead_nowhere_leave_their_neighbours(folder: Path):
    save_picture(folder.parent / "9.png")
    save_text(folder / "train.txt", "absent.png\n../9.png\nhttp://127.0.0.1/7.png\nimages/train/7.png\n")
    found = read(folder, yaml="train: train.txt\nnames: [horse]")
    assert names_in(found) == ["images/train/7.png"]
    assert [item.line for item in found[:3]] == [1, 2, 3]
    assert "never downloaded" in faults_of(found) and "lies outside" in faults_of(found)


def test_links_that_lead_out_are_left_out_and_that_is_said(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "images/train/9.png").symlink_to(save_picture(folder.parent / "9.png"))
    (folder / "images/train/6.png").symlink_to(folder / "images/val/8.png")
    save_text(folder.parent / "out.txt", HORSE)
    (folder / "labels/train/6.txt").symlink_to(folder.parent / "out.txt")
    found = read(folder)
    assert names_in(found) == ["images/train/6.png", "images/train/7.png"]
    assert found[0].things == []
    assert "1 files below" in caplog.text and "links that lead out of it" in caplog.text


def test_only_the_last_folder_called_images_is_changed_for_labels(tmp_path: Path):
    save_picture(tmp_path / "images/set/images/a/images/7.png")
    save_text(tmp_path / "images/set/images/a/labels/7.txt", HORSE)
    save_text(tmp_path / "images/set/data.yaml", "train: images\nnames: [horse]")
    assert len(things_of(read_yolo(str(tmp_path / "images/set"), Reading()))) == 1


def test_a_part_without_any_label_file_is_set_aside_and_so_are_labels_without_a_picture(folder: Path):
    (folder / "labels/train/7.txt").unlink()
    found = read(folder, part=None)
    assert names_in(found) == ["images/val/8.png"]
    assert "none of the 1 pictures of train has a label file, such as" in faults_of(found)
    save_text(folder / "labels/val/absent.txt", HORSE)
    found = read(folder, part="val")
    assert names_in(found) == ["images/val/8.png"] and "there is no picture for this label file" in faults_of(found)
    assert found[-1].file == str(folder / "labels/val/absent.txt")


# ---- the description -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_a_list_of_names_will_do(folder: Path, name: str):
    (folder / "data.yaml").unlink()
    save_text(folder / name, "horse\r\ndog\r\n\r\n")
    assert names_in(list(read_yolo(str(folder), Reading()))) == ["images/train/7.png", "images/val/8.png"]
    (found,) = read_yolo(str(folder), Reading(part="val"))
    assert found.things[0].label == "horse" and found.looked_for == ["horse", "dog"]


def test_all_files_in_one_folder(tmp_path: Path):
    save_picture(tmp_path / "data/7.png")
    save_text(tmp_path / "data/7.txt", HORSE)
    save_text(tmp_path / "obj.names", "horse\n")
    assert things_of(read_yolo(str(tmp_path), Reading())) == [("data/7.png", "horse", (0, 0.375, 0.5, 0.625))]


def test_names_stay_the_text_that_they_are(folder: Path):
    (found,) = read(folder, yaml="train: images/train\nnames: [no, 1.0, null, 2001-01-01, 0x10]")
    assert found.looked_for == ["no", "1.0", "null", "2001-01-01", "0x10"]
    (found,) = read(folder, yaml="train: images/train\nnames: {1: dog, 0: horse, 2: _background_}")
    assert found.things[0].label == "horse" and found.looked_for == ["dog", "horse"]


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [a", "not YAML: while parsing a flow sequence"),
        ("", "holds None; expected names"),
        ("- a", "expected names, and train, val or test"),
        ("train: images/train", "names is None; expected a list"),
        ("names: 5", "names is '5'"),
        ("names: []", "names is []"),
        ("names: {a: horse}", "names is {'a': 'horse'}"),
        ("names: [[a]]", "names is [['a']]"),
        ("names: {0: a, 0: b}", "the key '0' is given twice"),
        ("names: [a]\nnames: [b]", "the key 'names' is given twice"),
        ("names: [a]\nkpt_shape: 17", "kpt_shape is '17'"),
        ("names: [a]\nkpt_shape: [17, -3]", "kpt_shape is ['17', '-3']"),
        ("[" * 100_000, "nested too deeply"),
        ("a: &a [*a]", "not YAML"),
        ("? [a]\n: b", "not YAML"),
        ("names: [a]\n\0", "not YAML"),
        (b"\xff\xfen\0a\0", "not UTF-8"),
        ("a" * 10_000_001, "10000001 bytes of YAML"),
    ],
)
def test_a_description_that_cannot_be_used_is_an_error_that_names_it(folder: Path, yaml: str | bytes, words: str):
    with pytest.raises(RecordError) as error:
        read(folder, yaml=yaml)
    assert words in str(error.value) and "data.yaml" in str(error.value)


def test_tags_of_python_are_passed_over_and_run_nothing(folder: Path):
    canary = folder / "canary"
    (found,) = read(folder, yaml=f"train: images/train\nnames: !!python/object/apply:os.mkdir ['{canary}']")
    assert found.looked_for == [str(canary)] and not canary.exists()


def test_a_bomb_of_aliases_stays_small(folder: Path):
    bomb = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(RecordError, match="names is"):
        read(folder, yaml=bomb + "names: *a29\n")


def test_several_descriptions_need_a_choice_and_none_is_an_error(folder: Path):
    (folder / "data.yaml").rename(folder / "a.yaml")
    save_text(folder / "b.yml", YAML)
    with pytest.raises(SettingsError, match=r"a\.yaml, b\.yml in .*; give the one that describes"):
        list(read_yolo(str(folder), Reading()))
    assert len(names_in(list(read_yolo(str(folder / "a.yaml"), Reading())))) == 2
    for source, words in (
        (folder / "images", r"no data\.yaml, classes\.txt or obj\.names"),
        (folder / "x", "no file or"),
    ):
        with pytest.raises(RecordError, match=words):
            list(read_yolo(str(source), Reading()))


# ---- properties, and the whole way -----------------------------------------------------------------------------

words = st.text("0123456789.eE+-na ,\n\t#:[]{}*&!?|>'\"\\", max_size=60) | st.text(max_size=20)
structures = st.recursive(
    st.sampled_from(["images/train", "horse", "..", 0, -1, None, "train.txt", 0.5]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["names", "train", "path", "0"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
    words.map(str.encode) | st.binary(max_size=30), words | structures.map(json.dumps) | st.just(YAML), st.booleans()
)
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, labels: bytes, yaml: str, reduce: bool):
    if not (garbage / "images/train/7.png").is_file():
        save_picture(garbage / "images/train/7.png")
    assert_read_or_refused(lambda: read(garbage, labels, yaml.encode("utf-8", "replace"), reduce=reduce))


def test_convert_brings_shares_to_pixels_and_tells_where_a_turned_picture_leaves_a_doubt(folder: Path, tmp_path: Path):
    # 640x428: left 0, top 160.5, right 320, bottom 267.5
    save_picture(folder / "images/val/8.png", orientation=6)
    train, val = convert("yolo", folder, tmp_path / "out/r.jsonl").records
    for record in (train, val):
        assert answers_of([record]) == {"horse": [(0, 160.5, 320, 267.5)]}
    assert train.id == "images/train/7:horse"
    assert "doubt" not in train.extra
    assert "nothing tells whether its boxes were drawn before or after" in val.extra["doubt"]


def test_convert_asks_what_is_not_there_too(folder: Path, tmp_path: Path):
    (folder / "labels/val/8.txt").write_text("")
    conversion = convert("yolo", folder, tmp_path / "out/r.jsonl", negatives=1, part="val")
    (record,) = conversion.records
    assert record.is_negative and record.question in ("horse", "dog") and conversion.rejected == []
    conversion = convert("yolo", folder, tmp_path / "out/r.jsonl", part="val")
    assert conversion.records == [] and "nothing on this picture is labelled" in conversion.rejected[0].reason
    assert [record.question for record in convert("yolo", folder, tmp_path / "out/r.jsonl", per="picture").records] == [
        "every instance that belongs to the following categories: 'horse, dog'"
    ] * 2
