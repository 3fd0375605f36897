"""Pascal VOC: one XML file a picture, in `Annotations` beside `JPEGImages`. The whole of a small one (made up):

    <annotation>
      <filename>7.jpg</filename>
      <size><width>640</width><height>428</height><depth>3</depth></size>
      <object>
        <name>horse</name><truncated>0</truncated><difficult>0</difficult>
        <bndbox><xmin>146</xmin><ymin>137</ymin><xmax>615</xmax><ymax>415</ymax></bndbox>
      </object>
    </annotation>

Numbers are taken as written. The classic data set (2005 to 2012) counts pixels from 1 and its last pixel is inside: its
box of a whole 500x375 picture is 1, 1, 500, 375. With `one_based` that becomes 0, 0, 500, 375. Today's tools count from
0. `ImageSets/Main/val.txt` lists the pictures of a part. Source: the development kit's documentation (VOC2012).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

from groundling.data.formats.detection import Annotated, Thing, as_number, read_size, read_thing
from groundling.data.formats.documents import choose_part, files_below, find_documents, read_text, read_xml
from groundling.data.formats.found import PICTURE_ENDINGS, PictureFolder, Reading
from groundling.data.record import Rejected
from groundling.errors import RecordError, SettingsError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_KEPT = ("truncated", "difficult", "occluded")  # of an object, where they are not empty


def read_voc(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """What is on each picture, in order of the files' names, or of the list of the part.

    `source` is such a file, or a folder of them at any depth. A picture is found by its `filename`, else by the last of
    its `path`, else by the name of the XML file, below the folder that holds `Annotations` or the file.
    """
    path = Path(source)
    folder = _find_folder(path)
    pictures = PictureFolder(reading.images or folder)
    for item in _find_files(path, folder, reading.part):
        yield item if isinstance(item, Rejected) else _read_file(item, pictures, one_based=reading.one_based)


def _find_folder(path: Path) -> Path:
    """The folder of the whole set: where `Annotations` and `JPEGImages` lie."""
    place = path.absolute() if path.is_dir() else path.absolute().parent
    return place.parent if place.name == "Annotations" else place


def _find_files(path: Path, folder: Path, part: str | None) -> Iterator[Path | Rejected]:
    """The annotation files, of a part those that its list names; a folder called so will do for a list."""
    files = find_documents(str(path), [".xml"])
    if part is None or path.is_file():
        yield from choose_part(files, path if path.is_dir() else path.parent, part)
        return
    lists = [file for file in files_below(folder, [".txt"]) if file.parts[-3:-1] == ("ImageSets", "Main")]
    if lists and part not in {file.stem for file in lists}:
        names = ", ".join(sorted({file.stem for file in lists}))
        raise SettingsError(f"no part {part!r} in {folder}; its lists are {names[:500]}")
    for file in lists:
        yield from _find_listed(file, files) if file.stem == part else ()
    if not lists:
        yield from choose_part(files, path, part)


def _find_listed(listed: Path, files: list[Path]) -> Iterator[Path | Rejected]:
    by_name = {file.stem: file for file in files}
    for number, line in enumerate(read_text(listed).splitlines(), start=1):
        words = line.split()  # the name; in the list of one class also whether it is on the picture
        if words and words[0] in by_name:
            yield by_name[words[0]]
        elif words:
            yield Rejected(str(listed), number, f"there is no annotation {words[0][:100]}.xml")


# ---- one picture -----------------------------------------------------------------------------------------------


def _read_file(file: Path, pictures: PictureFolder, *, one_based: bool) -> Annotated | Rejected:
    try:
        root = read_xml(file)
        if root.tag != "annotation":
            raise RecordError(f"{file} is of <{root.tag[:50]}>; expected <annotation> with an <object> for each thing")
        image = pictures.find_first(_names_of(root, file), beside=file.parent)
        size = read_size(*(as_number(_text(root, f"size/{side}")) for side in ("width", "height")))
    except RecordError as error:
        return Rejected(str(file), None, str(error))
    return Annotated(
        image=image,
        file=file,
        line=1,
        things=[_read_object(element, one_based=one_based) for element in root.findall("object")],
        size=size,
        image_name=image.name,
        id=file.stem,
    )


def _names_of(root: Element, file: Path) -> list[str]:
    """What the picture may be called, the likeliest first."""
    named = [_text(root, "filename"), re.split(r"[/\\]", _text(root, "path"))[-1]]
    stems = [*(name for name in named if name and Path(name).suffix.lower() not in PICTURE_ENDINGS), file.stem]
    return [name for name in named if name] + [f"{stem}{ending}" for stem in stems for ending in PICTURE_ENDINGS]


def _read_object(element: Element, *, one_based: bool) -> Thing:
    boxes = element.findall("bndbox")
    label = _text(element, "name")
    if len(boxes) != 1:
        shapes = ", ".join(child.tag[:50] for child in element if len(child)) or "nothing"
        return Thing(label, fault=f"it has {len(boxes)} of <bndbox>, and {shapes}; expected one")
    values = [as_number(_text(boxes[0], corner)) for corner in _CORNERS]
    kept = {key: as_number(_text(element, key)) for key in _KEPT if _text(element, key)}
    thing = read_thing(label, values, extra=kept)
    if not one_based or not thing.numbers:
        return thing
    if min(thing.numbers[:2]) < 1:
        fault = f"the box {list(thing.numbers)} does not count from 1, so --one-based is wrong"
        return replace(thing, numbers=(), fault=fault)
    return _from_zero(thing)


def _from_zero(thing: Thing) -> Thing:
    """From pixels that count from 1, the last one inside, to edges that count from 0: only the first two change."""
    left, top, right, bottom = thing.numbers
    return replace(thing, numbers=(left - 1, top - 1, right, bottom))


def _text(element: Element, place: str) -> str:
    """The text at a place below an element, empty where there is none."""
    return (element.findtext(place) or "").strip()
