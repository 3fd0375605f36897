"""Pascal VOC's folder: `JPEGImages/` holds the pictures, `Annotations/` an XML file for each. One box (made by hand):

    <object><name>cat</name> ... <bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object>

Numbers are written as groundling has them: pixels from 0, half-open. The classic data set counts pixels from 1 and
names the last pixel of a box: there the same box begins at 11, 21 and ends at 40, 60, which is what `one_based` writes,
and what supervision, for one, expects. Source: the VOC2012 development kit, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from groundling.data.labelled import LabelledPicture, LabelledThing, name_things
from groundling.data.record import Record
from groundling.data.writers.writing import Writing, name_below, refuse_points

IMAGES, ANNOTATIONS = "JPEGImages", "Annotations"

_NOT_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")  # XML 1.0, section 2.2; a return would be read as a new line


def refuse_unwritable(record: Record, writing: Writing) -> str | None:
    """Why XML cannot hold a record; None where it can."""
    strange = [thing.label for thing in name_things(record) if _NOT_XML.search(thing.label)]
    return f"XML cannot hold the label {strange[0]!r}" if strange else refuse_points(record, writing)


def write_voc(pictures: Sequence[LabelledPicture], out: Path, writing: Writing) -> None:
    """Write the folder around its pictures, which lie in `JPEGImages` already. Scores have no place in it."""
    for picture in pictures:
        name = name_below(picture, out / IMAGES)
        file = (out / ANNOTATIONS / name).with_suffix(".xml")
        tree = ElementTree.ElementTree(_describe(picture, name, first=1 if writing.one_based else 0))
        ElementTree.indent(tree)
        file.parent.mkdir(parents=True, exist_ok=True)
        tree.write(file, encoding="utf-8")


def _describe(picture: LabelledPicture, name: str, *, first: int) -> ElementTree.Element:
    """The annotation of one picture whose first pixel has the number `first`."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", IMAGES)
    _add(root, "filename", name)
    size = _add(root, "size")
    for key, value in zip(("width", "height", "depth"), (*picture.frame.size_wh, 3), strict=True):
        _add(size, key, value)
    _add(root, "segmented", 0)
    for thing in picture.things:
        _add_thing(root, thing, first)
    return root


def _add_thing(root: ElementTree.Element, thing: LabelledThing, first: int) -> None:
    element = _add(root, "object")
    _add(element, "name", thing.label)
    for key in ("truncated", "difficult"):
        _add(element, key, thing.extra.get(key, 0))
    box = _add(element, "bndbox")
    left, top, right, bottom = thing.numbers
    for key, value in (("xmin", left + first), ("ymin", top + first), ("xmax", right), ("ymax", bottom)):
        _add(box, key, value)


def _add(parent: ElementTree.Element, key: str, value: object = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, key)
    element.text = None if value is None else str(value)
    return element
