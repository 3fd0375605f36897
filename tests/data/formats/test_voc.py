from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import answers_of, assert_read_or_refused, expected_boxes, faults_of, save_picture, save_text, things_of

from groundling.data.convert import convert
from groundling.data.formats.detection import Annotated
from groundling.data.formats.found import Reading
from groundling.data.formats.voc import read_voc
from groundling.errors import RecordError, SettingsError

SIZE = "<size><width>640</width><height>428</height><depth>3</depth></size>"


def thing(name: str = "horse", corners: str = "146 137 615 415", more: str = "") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(names, corners.split(), strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def annotation(*objects: str, filename: str = "7.png", size: str = SIZE, more: str = "") -> str:
    return f"<annotation><filename>{filename}</filename>{more}{size}{''.join(objects)}</annotation>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path / "set/JPEGImages/7.png")
    return tmp_path / "set"


def read(folder: Path, text: str | bytes, **options: Any) -> list[Any]:
    save_text(folder / "Annotations/7.xml", text)
    return list(read_voc(str(folder), Reading(**options)))


# ---- what is there ---------------------------------------------------------------------------------------------


def test_a_picture_and_its_boxes_as_written(folder: Path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    kept = "<truncated>1</truncated><difficult/><occluded>0</occluded><pose>Left</pose>"
    (found,) = read(folder, annotation(thing(more=kept + part), thing("dog", "0 0.5 10 20.25")))
    assert things_of([found]) == [("7.png", "horse", (146, 137, 615, 415)), ("7.png", "dog", (0, 0.5, 10, 20.25))]
    assert found.things[0].extra == {"truncated": 1, "occluded": 0} and found.things[1].extra == {}
    assert (found.image, found.id) == (folder / "JPEGImages/7.png", "7")
    assert found.size is not None and found.size.size_wh == (640, 428)
    assert found.looked_for is None


@pytest.mark.parametrize(
    ("written", "edges"),
    [
        ("1 1 500 375", (0, 0, 500, 375)),  # the whole picture in the classic data set: pixels 1 to 500
        ("1 1 1 1", (0, 0, 1, 1)),  # its first pixel alone
        ("48 240 195 371", (47, 239, 195, 371)),
        ("10.5 20.5 30.5 40.5", (9.5, 19.5, 30.5, 40.5)),
    ],
)
def test_pixels_counted_from_one_become_edges_counted_from_zero(folder: Path, written: str, edges: tuple[float, ...]):
    (found,) = read(folder, annotation(thing(corners=written)), one_based=True)
    assert found.things[0].numbers == edges


def test_a_box_at_zero_does_not_count_from_one(folder: Path):
    found = read(folder, annotation(thing(corners="0 137 615 415"), thing("dog")), one_based=True)
    assert "the box [0, 137, 615, 415] does not count from 1, so --one-based is wrong" in faults_of(found)
    assert [name for _, name, _ in things_of(found)] == ["dog"]


def test_a_picture_is_found_by_its_name_its_path_or_its_file(folder: Path):
    windows = "<path>C:\\Users\\me\\pictures\\7.png</path>"
    for filename, more in (
        ("7.png", ""),
        ("7", ""),
        ("", windows),
        ("other.png", windows),
        ("", ""),
        ("JPEGImages/7.png", ""),
    ):
        (found,) = read(folder, annotation(filename=filename, more=more))
        assert isinstance(found, Annotated) and found.image == folder / "JPEGImages/7.png"
    (missing,) = list(read_voc(str(save_text(folder / "Annotations/8.xml", annotation(filename="x.png"))), Reading()))
    assert "there is no picture 'x.png'" in missing.reason


def test_one_file_alone_and_a_flat_folder(tmp_path: Path):
    save_picture(tmp_path / "set/train/7.png")
    file = save_text(tmp_path / "set/train/7.xml", annotation(thing()))
    for source, part in ((file, None), (file.parent, None), (tmp_path / "set", None), (tmp_path / "set", "train")):
        assert len(things_of(read_voc(str(source), Reading(part=part)))) == 1
    with pytest.raises(SettingsError, match=r"part 'val'.*there are train/7\.xml"):
        list(read_voc(str(tmp_path / "set"), Reading(part="val")))


def test_a_part_is_what_its_list_names(folder: Path):
    for name in ("8", "9"):
        save_picture(folder / f"JPEGImages/{name}.png")
        save_text(folder / f"Annotations/{name}.xml", annotation(thing(), filename=f"{name}.png"))
    save_text(folder / "ImageSets/Main/val.txt", "9  1\r\n\r\nabsent -1\r\n7 -1\r\n")
    save_text(folder / "ImageSets/Main/train.txt", "8\n")
    found = read(folder, annotation(), part="val")
    assert [item.id for item in found if isinstance(item, Annotated)] == ["9", "7"]
    assert faults_of(found) == "there is no annotation absent.xml"
    assert len(read(folder, annotation())) == 3
    with pytest.raises(SettingsError, match=r"no part 'test'.*its lists are train, val"):
        read(folder, annotation(), part="test")


# ---- broken neighbours -----------------------------------------------------------------------------------------

BOMB = '<!DOCTYPE a [<!ENTITY x0 "ha">' + "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 20}">' for n in range(1, 12))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "not XML: no element found"),
        ("<annotation><object>", "not XML: no element found"),
        ("<annotation></object>", "not XML: mismatched tag"),
        ("<svg/>", "is of <svg>; expected <annotation>"),
        (BOMB + f"]>{annotation(thing('&x11;'))}", "the XML has a document type (<!DOCTYPE ...>)"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "has a document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "/etc/passwd">]><annotation>&x;</annotation>', "has a document type"),
        ("<annotation>&x;</annotation>", "not XML: undefined entity"),
        ("<a>" * 100_000, "not XML: no element found"),
        ("<annotation>" * 9999 + "</annotation>" * 9999, "there is no picture"),
        (annotation(thing("k\u00e4fer")).encode("latin-1"), "not XML: not well-formed"),
        (b'<?xml version="1.0" encoding="shift-jis"?><annotation/>', "not XML: "),
        (b'<?xml version="1.0" encoding="nonsense"?><annotation/>', "not XML: unknown encoding"),
        (b"\x00\x01\x02", "not XML"),
        (annotation(size="<size><width>x</width><height>428</height></size>"), "the declared size is ['x', 428]"),
        (annotation(filename="../secret.png"), "lies outside"),
        (annotation(filename="http://127.0.0.1/7.png"), "never downloaded"),
    ],
)
def test_a_bad_file_leaves_its_neighbour(folder: Path, bad: str | bytes, words: str):
    save_picture(folder.parent / "secret.png")
    save_text(folder / "Annotations/1.xml", bad)
    start = time.process_time()
    found = read(folder, annotation(thing()))
    assert time.process_time() - start < 2
    assert things_of(found) == [("7.png", "horse", (146, 137, 615, 415))]
    assert words in faults_of(found)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (thing(""), "the label is ''"),
        (thing(corners="1 2 3"), "the box is [1, 2, 3, '']; expected 4 finite numbers"),
        *(
            (thing(corners=f"1 2 {number} 4"), "expected 4 finite")
            for number in ("NaN", "1e999", "x", "1,5", "1_0", "\u0661")
        ),
        ("<object><name>horse</name></object>", "it has 0 of <bndbox>, and nothing; expected one"),
        ("<object><name>horse</name><robndbox><cx>1</cx></robndbox></object>", "0 of <bndbox>, and robndbox"),
        (thing(more="<bndbox/>"), "it has 2 of <bndbox>"),
        ("<object/>", "expected one"),
    ],
)
def test_a_bad_object_leaves_its_neighbour(folder: Path, bad: str, words: str):
    found = read(folder, annotation(bad, thing("dog")))
    assert things_of(found) == [("7.png", "dog", (146, 137, 615, 415))]
    assert words in faults_of(found)


def test_encodings_that_are_declared_marks_of_order_and_line_ends(folder: Path):
    text = annotation(thing("k\u00e4fer")).replace("><", ">\r\n<")
    for encoding in ("utf-8-sig", "utf-16", "latin-1"):
        declared = '<?xml version="1.0" encoding="iso-8859-1"?>' if encoding == "latin-1" else ""
        assert things_of(read(folder, (declared + text).encode(encoding)))[0][1] == "k\u00e4fer"


def test_a_folder_without_xml_is_an_error_that_names_it(tmp_path: Path):
    for place, words in ((tmp_path, r"no file that ends in \.xml below"), (tmp_path / "absent", "no file or folder")):
        with pytest.raises(RecordError, match=words):
            list(read_voc(str(place), Reading()))


# ---- properties, real files, the whole way ---------------------------------------------------------------------

tags = ["annotation", "object", "bndbox", "xmin", "name"]
others = ["1", "-5", "&amp;", "&x;", "<!--", "-->", "<![CDATA[", "]]>", "<!DOCTYPE x>", "<?xml?>", "horse", SIZE]
pieces = st.sampled_from([*(f"<{tag}>" for tag in tags), *(f"</{tag}>" for tag in tags), *others])
objects = st.builds(thing, st.text("ab<&", max_size=3), st.text("0123456789.-eE +na", max_size=20))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(pieces, max_size=20).map("".join).map(str.encode)
    | st.lists(objects, max_size=3).map(lambda found: annotation(*found).encode())
    | st.binary(max_size=40),
    st.booleans(),
)
def test_garbage_is_rejected_or_an_error_of_ours(garbage: Path, content: bytes, one_based: bool):
    assert_read_or_refused(lambda: read(garbage, content, one_based=one_based))


def test_the_shared_real_files_are_read_as_an_independent_reader_did(shared_data: Path):
    found = list(read_voc(str(shared_data / "formats/voc"), Reading()))
    assert faults_of(found) == "" and len(found) == 3
    for file, expected in expected_boxes(shared_data, "voc").items():
        (picture,) = [item for item in found if item.file.name == Path(file).name]
        assert [(thing.label, list(thing.numbers)) for thing in picture.things] == [
            (label, box) for _, label, box, _ in expected
        ]


def test_turned_pictures_by_the_declared_size(folder: Path, tmp_path: Path):
    swapped = SIZE.replace("640", "x").replace("428", "640").replace("x", "428")
    # orientation 6 is stored as 428x640: its y is 640 - x of the upright picture, its x the upright y
    cases = [(SIZE, "146 137 615 415", True), (swapped, "137 25 415 494", True), ("", "146 137 615 415", False)]
    for size, corners, is_told in cases:
        save_picture(folder / "JPEGImages/7.png", orientation=6)
        read(folder, annotation(thing(corners=corners), size=size))
        (record,) = convert("voc", folder, tmp_path / "out/r.jsonl").records
        assert answers_of([record]) == {"horse": [(146, 137, 615, 415)]}
        assert ("doubt" in record.extra) != is_told


def test_convert_counts_from_one_only_when_told(folder: Path, tmp_path: Path):
    read(folder, annotation(thing(corners="1 1 640 428")))
    for one_based, box in ((False, (1, 1, 640, 428)), (True, (0, 0, 640, 428))):
        (record,) = convert("voc", folder, tmp_path / "out/r.jsonl", one_based=one_based).records
        assert record.targets[0].box == box
    with pytest.raises(SettingsError, match="voc takes no --reduce"):
        convert("voc", folder, tmp_path / "out/r.jsonl", reduce=True)
