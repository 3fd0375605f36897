from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from groundling.data.export import export
from groundling.data.labelled import LabelledPicture, LabelledThing
from groundling.data.record import Record, Target
from groundling.data.writers.writing import Writing
from groundling.data.writers.yolo import write_yolo
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame


def read_boxes(folder: Path, name: str) -> list[tuple[str, list[float]]]:
    """Labels and boxes (left, top, right, bottom, pixels) of one picture, by a reader of its own."""
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    with Image.open(next((folder / "images").glob(f"{name}.*"))) as image:
        sides = np.array([*image.size, *image.size])
    rows = [line.split() for line in (folder / f"labels/{name}.txt").read_text().splitlines()]
    found = []
    for number, *shares in rows:
        x, y, width, height = map(float, shares)
        box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * sides
        found.append((names[int(number)], box.tolist()))
    return found


def test_lines_are_shares_of_the_picture(records: list[Record], tmp_path: Path):
    exported = export(records, "yolo", tmp_path / "set")
    assert (exported.file, exported.written, exported.rejected) == (tmp_path / "set", 5, [])
    first = (tmp_path / "set/labels/street.txt").read_text().splitlines()[0]
    assert first == "0 0.0390625 0.083333333333 0.046875 0.083333333333"  # 25 / 640, 40 / 480, 30 / 640, 40 / 480
    assert (tmp_path / "set/labels/field.txt").read_text() == ""
    assert yaml.safe_load((tmp_path / "set/data.yaml").read_text()) == {
        "train": "images",
        "names": {0: "cat", 1: "dog"},
    }


def test_reading_undoes_writing(records: list[Record], street: Path, tmp_path: Path):
    export(records, "yolo", tmp_path / "set")
    found = read_boxes(tmp_path / "set", "street")
    assert [label for label, _ in found] == ["cat", "cat", "dog"]
    boxes = [target.box for target in records[2].targets]
    np.testing.assert_allclose([box for _, box in found], boxes, atol=1e-6)
    assert (tmp_path / "set/images/street.png").read_bytes() == street.read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    side=st.integers(1, 100_000),
    start=st.floats(0, 0.999),
    extent=st.floats(0.001, 1),
)
def test_a_millionth_of_a_pixel_comes_back(
    side: int, start: float, extent: float, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("yolo")
    left, right = start * side, min(start + extent, 1) * side
    thing = LabelledThing("cat", (left, left, right, right))
    write_yolo([LabelledPicture(folder / "images/a.png", Frame(side, side), (thing,))], folder, Writing())
    _, x, _, width, _ = map(float, (folder / "labels/a.txt").read_text().split())
    assert (x - width / 2) * side == pytest.approx(left, abs=1e-6)
    assert (x + width / 2) * side == pytest.approx(right, abs=1e-6)


def test_what_leaves_the_picture_a_little_is_cut_off(street: Path, tmp_path: Path):
    export([Record("cat", street, (Target(box=(600, 400, 641, 480)),), id="1")], "yolo", tmp_path / "set")
    ((_, box),) = read_boxes(tmp_path / "set", "street")
    assert box == pytest.approx([600, 400, 640, 480])


def test_labels_that_yaml_could_take_for_something_else_stay_texts(street: Path, tmp_path: Path):
    labels = ["no", "1", "a: b", "- x", "line\nbreak", "Stra\u00dfe"]
    records = [Record(label, street, (Target(box=(1, 2, 3, 4 + i)),), id=label) for i, label in enumerate(labels)]
    export(records, "yolo", tmp_path / "set")
    assert sorted(label for label, _ in read_boxes(tmp_path / "set", "street")) == sorted(labels)


def test_class_numbers_follow_the_labels_that_were_given(records: list[Record], tmp_path: Path):
    export(records, "yolo", tmp_path / "set", labels=["dog", "cat"])
    assert [line[0] for line in (tmp_path / "set/labels/street.txt").read_text().splitlines()] == ["1", "1", "0"]


def test_pictures_that_lie_there_stay_and_get_their_labels(records: list[Record], tmp_path: Path):
    (tmp_path / "photos").rename(tmp_path / "images")
    moved = [Record(each.question, tmp_path / "images" / each.image.name, each.targets) for each in records]  # type: ignore[union-attr]
    export(moved, "yolo", tmp_path)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["field.jpg", "street.png"]
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["field.txt", "street.txt"]


def test_pictures_of_others_do_not_become_background(records: list[Record], tmp_path: Path):
    (tmp_path / "photos").rename(tmp_path / "images")
    moved = [Record(each.question, tmp_path / "images" / each.image.name, each.targets) for each in records]  # type: ignore[union-attr]
    shutil.copy(tmp_path / "images/street.png", tmp_path / "images/other.png")
    with pytest.raises(SettingsError, match=r"other\.png is there already, and would be overwritten or mixed up"):
        export(moved, "yolo", tmp_path)
    assert not (tmp_path / "labels").exists()


def test_a_folder_that_holds_labels_is_not_written_into(records: list[Record], tmp_path: Path):
    export(records, "yolo", tmp_path / "set")
    with pytest.raises(SettingsError, match=r"data\.yaml is there already"):
        export(records, "yolo", tmp_path / "set")
    (tmp_path / "set/data.yaml").unlink()
    with pytest.raises(SettingsError, match=r"(street|field)\.txt is there already"):
        export(records, "yolo", tmp_path / "set")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="is a file, and the format is a folder"):
        export(records, "yolo", tmp_path / "file")


def test_supervision_reads_what_is_written(records: list[Record], tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    folder = export(records, "yolo", tmp_path / "set").file
    found = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml")
    )
    assert found.classes == ["cat", "dog"]
    street = found.annotations[str(folder / "images/street.png")]
    np.testing.assert_allclose(street.xyxy, [target.box for target in records[2].targets], atol=1e-3)  # float32
