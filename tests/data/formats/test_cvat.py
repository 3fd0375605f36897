from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import boxes, make, read_all, reasons, save_picture

from groundling.data.formats.detection import Annotated
from groundling.data.record import Target
from groundling.errors import RecordError, SettingsError

META = """<meta><task><labels><label><name>plate</name><type>rectangle</type></label>
<label><name>car</name></label><label><name>blurred</name><type>tag</type></label>
<label><name>left door</name><parent>car</parent></label></labels></task></meta>"""
BOX = '<box label="plate" xtl="97.5" ytl="70" xbr="165.5" ybr="128" occluded="0" z_order="4"></box>'


def image(shapes: str = BOX, name: str = "photo.jpg", size: str = 'width="640" height="480"', more: str = "") -> str:
    return f'<image id="0" name="{name}" {size} {more}>{shapes}</image>'


def dump(folder: Path, *images: str, meta: str = META) -> Path:
    file = folder / "annotations.xml"
    file.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(images)}</annotations>')
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dump's folder, with its pictures where the tool puts them."""
    save_picture(tmp_path / "in/images/photo.jpg")
    return tmp_path / "in"


def test_boxes_count_pixels(folder: Path, tmp_path: Path):
    colour = '<attribute name="colour">red</attribute>'
    shape = f'<box label="car" xtl="0" ytl="0" xbr="640" ybr="480" occluded="1">{colour}</box>'
    for source in (dump(folder, image(BOX + shape)), folder):
        done = make("cvat", source, tmp_path)
        assert boxes(done) == {"plate": [(97.5, 70, 165.5, 128)], "car": [(0, 0, 640, 480)]}
    assert done.records[1].targets[0].extra == {"colour": "red", "occluded": True}
    assert done.records[0].id == "0:plate"


def test_labels_that_could_be_drawn_are_those_that_were_looked_for(folder: Path, tmp_path: Path):
    done = make("cvat", dump(folder, image(), image("")), tmp_path, negatives=5)
    assert {(record.question, record.is_negative) for record in done.records} == {
        ("plate", False),
        ("car", True),
        ("plate", True),
    }


def test_a_box_is_turned_about_its_middle(folder: Path, tmp_path: Path):
    shape = '<box label="car" xtl="300" ytl="200" xbr="340" ybr="220" rotation="90"/>'
    file = dump(folder, image(BOX + shape))
    assert boxes(make("cvat", file, tmp_path, reduce=True))["car"] == [(310, 190, 330, 230)]
    done = make("cvat", file, tmp_path / "as it is")
    assert list(boxes(done)) == ["plate"] and "a box turned by 90 degrees is no upright box" in reasons(done)


SHAPES = """<polygon label="polygon" points="10,20;30.5,40;5,60"/>
<polyline label="line" points="10,20;30,40"/>
<mask label="mask" rle="1,2,3" left="10" top="20" width="30" height="40"/>
<ellipse label="ellipse" cx="100" cy="100" rx="10" ry="20"/>
<points label="point" points="7,8"/>
<points label="points" points="7,8;9,10"/>
<cuboid label="cuboid" xtl1="1" ytl1="2"/>
<skeleton label="skeleton"><points label="knee" points="1,2"/></skeleton>
<tag label="tag"/>"""


def test_other_shapes_are_reduced_when_asked_or_named(folder: Path, tmp_path: Path):
    file = dump(folder, image(SHAPES), meta="")
    done = make("cvat", file, tmp_path, reduce=True)
    assert boxes(done) == {
        "polygon": [(5, 20, 30.5, 60)],
        "line": [(10, 20, 30, 40)],
        "mask": [(10, 20, 40, 60)],
        "ellipse": [(90, 80, 110, 120)],
        "point": [(7, 8)],
    }
    assert done.records[-1].targets == (Target(point=(7, 8), label="point"),)
    for words in ("2 points under one label", "a cuboid has no box", "a skeleton has no box"):
        assert words in reasons(done)
    done = make("cvat", file, tmp_path / "as it is")
    assert list(boxes(done)) == ["point"] and len(done.rejected) == 7


def test_a_subset_is_a_part(folder: Path, tmp_path: Path):
    file = dump(folder, image(more='subset="train"'), image(BOX.replace("plate", "car"), more='subset="val"'))
    assert list(boxes(make("cvat", file, tmp_path, part="val"))) == ["car"]
    assert len(make("cvat", file, tmp_path / "all").records) == 2
    with pytest.raises(SettingsError, match="no subset 'test'; the file has train, val"):
        make("cvat", file, tmp_path, part="test")


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ('width="480" height="640"', (97.5, 70, 165.5, 128)),
        # as stored, 640 wide; a quarter clockwise puts its (x, y) at (480 - y, x)
        ('width="640" height="480"', (480 - 128, 97.5, 480 - 70, 165.5)),
    ],
)
def test_the_declared_size_tells_whether_boxes_are_on_the_stored_picture(
    folder: Path, tmp_path: Path, size: str, box: tuple[float, ...]
):
    save_picture(folder / "images/photo.jpg", 480, 640, orientation=6)
    done = make("cvat", dump(folder, image(size=size)), tmp_path)
    assert boxes(done) == {"plate": [box]}
    assert "doubt" not in done.records[0].extra


def test_a_picture_of_another_size_is_set_aside(folder: Path, tmp_path: Path):
    done = make("cvat", dump(folder, image(size='width="320" height="240"'), image()), tmp_path)
    assert len(done.records) == 1
    assert "1: the file says that the picture is 320x240, and it is 640x480" in reasons(done)


def test_a_video_a_document_type_and_other_xml_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(RecordError, match=r"tracks of a video; export it from CVAT as 'CVAT for images 1\.1'"):
        make("cvat", dump(folder, '<track id="0" label="car"/>'), tmp_path)
    file = folder / "a.xml"
    for text, words in (
        ("<annotation/>", "XML of <annotation>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "document type"),
        ("<annotations>", "not XML"),
    ):
        file.write_text(text)
        with pytest.raises(RecordError, match=words):
            make("cvat", file, tmp_path)
    with pytest.raises(RecordError, match="no file"):
        make("cvat", tmp_path / "absent.xml", tmp_path)


def test_what_cannot_be_used_takes_nothing_else_with_it(folder: Path, tmp_path: Path):
    bad = '<box label="car" xtl="nan" ytl="1" xbr="2" ybr="3"/><box xtl="1" ytl="1" xbr="2" ybr="3"/>'
    bad += '<box label="cat" xtl="1" ytl="1" xbr="2"/><polygon label="dog" points="1,2;;3"/>'
    images = [image(name="absent.jpg"), image(name="../photo.jpg"), image(bad + BOX), "<image/>"]
    save_picture(tmp_path / "photo.jpg", 16, 16)
    done = make("cvat", dump(folder, *images), tmp_path, reduce=True)
    assert list(boxes(done)) == ["plate"]
    assert {bad.line for bad in done.rejected} == {1, 3, 4}  # the second is found by its name, below the folder
    for words in ("'car'", "the label is None", "'' is no number", "no picture 'absent.jpg'"):
        assert words in reasons(done)


NAMES = ("box", "polygon", "points", "mask", "ellipse", "tag", "image", "attribute")
ATTRIBUTES = ("label", "xtl", "ytl", "xbr", "ybr", "points", "cx", "cy", "rx", "ry", "left", "top", "width", "rotation")
values = st.sampled_from(["1", "-2.5", "", "nan", "1e400", "1,2", "1,2;3,4", "x", "car", "360", ";"])
shapes = st.builds(
    lambda tag, given: f"<{tag} " + " ".join(f'{key}="{value}"' for key, value in given.items()) + "/>",
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(ATTRIBUTES), values, max_size=6),
)


@settings(max_examples=60)
@given(st.lists(shapes, max_size=6).map("".join), st.booleans())
def test_garbage_is_a_fault_and_its_neighbours_are_read(
    tmp_path_factory: pytest.TempPathFactory, garbage: str, reduce: bool
):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg")
    items = read_all("cvat", dump(folder, image(garbage + BOX), garbage, image()), reduce=reduce)
    sound = [item for item in items if isinstance(item, Annotated)]
    assert sound[0].things[-1].numbers == sound[-1].things[-1].numbers == (97.5, 70, 165.5, 128)
