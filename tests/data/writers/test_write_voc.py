from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from groundling.data.export import export
from groundling.data.record import Record, Target


def read_boxes(file: Path) -> list[tuple[str, list[float]]]:
    """Labels and numbers as written, by a reader of its own."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        (element.findtext("name", ""), [float(element.findtext(f"bndbox/{corner}", "nan")) for corner in corners])
        for element in ElementTree.parse(file).iter("object")
    ]


def test_a_picture_has_a_file_of_its_name(records: list[Record], street: Path, tmp_path: Path):
    exported = export(records, "voc", tmp_path / "set")
    assert (exported.written, exported.rejected) == (5, [])
    assert (tmp_path / "set/JPEGImages/street.png").read_bytes() == street.read_bytes()
    root = ElementTree.parse(tmp_path / "set/Annotations/street.xml").getroot()
    assert root.findtext("filename") == "street.png"
    assert [root.findtext(f"size/{key}") for key in ("width", "height", "depth")] == ["640", "480", "3"]
    assert read_boxes(tmp_path / "set/Annotations/field.xml") == []


def test_numbers_are_as_in_records_or_as_in_the_classic_data_set(records: list[Record], tmp_path: Path):
    export(records, "voc", tmp_path / "set")
    export(records, "voc", tmp_path / "classic", one_based=True)
    first, classic = (read_boxes(tmp_path / name / "Annotations/street.xml")[0] for name in ("set", "classic"))
    assert first == ("cat", [10, 20, 40, 60])
    assert classic == ("cat", [11, 21, 40, 60])  # its first pixel is 11 of 1..640, its last one 40


def test_what_voc_said_of_a_thing_is_kept(records: list[Record], tmp_path: Path):
    hidden = Target(box=(1, 2, 3, 4), extra={"difficult": 1, "other": "x"})
    export([Record("cat", records[0].image, (hidden,))], "voc", tmp_path / "set")
    root = ElementTree.parse(tmp_path / "set/Annotations/street.xml").getroot()
    assert (root.findtext("object/difficult"), root.findtext("object/truncated")) == ("1", "0")


def test_reading_undoes_writing(records: list[Record], tmp_path: Path):
    export(records, "voc", tmp_path / "set")
    found = read_boxes(tmp_path / "set/Annotations/street.xml")
    assert found == [(target.label, list(target.numbers)) for target in records[2].targets]


@pytest.mark.parametrize("label", ["<b>&amp;</b>", "two\nlines", "\u732b", 'a "cat"'])
def test_any_text_that_xml_can_hold_comes_back(street: Path, tmp_path: Path, label: str):
    export([Record(label, street, (Target(box=(1, 2, 3, 4)),))], "voc", tmp_path / "set")
    assert read_boxes(tmp_path / "set/Annotations/street.xml")[0][0] == label


def test_a_label_that_xml_cannot_hold_takes_its_picture_along(records: list[Record], street: Path, tmp_path: Path):
    strange = Record("c\x00t", street, (Target(box=(1, 2, 3, 4)),), id="9")
    exported = export([*records, strange], "voc", tmp_path / "set")
    *others, own = [bad.reason for bad in exported.rejected]
    assert "XML cannot hold the label 'c\\x00t'" in own
    assert len(others) == 4 and all("left out with its picture" in reason for reason in others)
    assert exported.written == 1 and not (tmp_path / "set/JPEGImages/street.png").exists()


def test_supervision_reads_what_is_written(records: list[Record], tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    folder = export(records, "voc", tmp_path / "set", one_based=True).file  # which is how it reads this format
    found = supervision.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    street = found.annotations[str(folder / "JPEGImages/street.png")]
    np.testing.assert_allclose(street.xyxy, [target.box for target in records[2].targets], atol=1e-3)  # float32
