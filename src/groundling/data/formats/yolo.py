"""YOLO's text files: one beside each picture, one thing a line. `labels/train/7.txt` of `images/train/7.jpg` (made up):

    0 0.594531 0.644860 0.732813 0.649533

Class, then centre x, y, width, height as shares of the picture. `data.yaml` in the folder names the classes and parts:

    path: .
    train: images/train
    val: images/val
    names: {0: horse, 1: rider}

More numbers are the corners of a polygon (segments) or of a turned box (OBB), or follow the box: keypoints (pose), or
how sure a model was. Darknet's layout is the same with `classes.txt` or `obj.names`, all files in one folder.
Source: the data set pages of docs.ultralytics.com (2025).
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundling.data.formats.detection import (
    FRACTIONS,
    NO_THINGS,
    Annotated,
    Thing,
    as_number,
    from_centre,
    read_shape,
    read_thing,
)
from groundling.data.formats.documents import files_below, read_text, read_yaml
from groundling.data.formats.found import PICTURE_ENDINGS, PictureFolder, Reading
from groundling.data.record import Rejected, read_numbers
from groundling.errors import RecordError, SettingsError

_PARTS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # keys of data.yaml, and what they are called
_NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "data/obj.names")
_SLACK = 0.01  # of the picture, outside of it: what rounding and its own tools let pass


def read_yolo(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """What is on each picture, in order of part and path; a picture without a label file, or an empty one, has nothing.

    `source` is a folder with a description of the set (`data.yaml`, or a list of names), or that description. A part
    without any label file is set aside as a whole, and so are label files without a picture. Polygons, turned boxes
    and boxes with keypoints are only used with `reduce`. RecordError where no names of classes are found.
    """
    described = _describe(Path(source))
    chosen = [part for part in described.parts if reading.part in (None, part.name)]
    if not chosen:
        names = ", ".join(part.name for part in described.parts)
        raise SettingsError(f"no part {reading.part!r} in {described.file}; it has {names or 'no parts'}")
    pictures = PictureFolder(described.folder)
    done: set[Path] = set()
    for part in chosen:
        yield from _read_part(part, described, pictures, done, reduce=reading.reduce)


# ---- the description of the set --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    name: str
    entries: Sequence[Any]  # folders of pictures and lists of them, as written


@dataclass(frozen=True)
class _Described:
    folder: Path  # nothing outside it is read
    file: Path  # which describes it
    names: Mapping[int, str]  # of the classes
    parts: Sequence[_Part] = field(default_factory=list)
    base: str = "."  # where the entries of parts begin, below `folder`
    keypoint_numbers: int = 0  # after the box, in a set for poses


def _describe(source: Path) -> _Described:
    if source.is_file():
        return _read_description(source)
    if not source.is_dir():
        raise RecordError(f"no file or folder {source}")
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in (".yaml", ".yml") and file.is_file())
    files = [file for file in files if file.name == "data.yaml"] or files
    if len(files) > 1:
        raise SettingsError(
            f"{', '.join(file.name for file in files)} in {source}; give the one that describes the set"
        )
    if files:
        return _read_description(files[0])
    for name in _NAME_LISTS:
        if (source / name).is_file():
            lines = [line.strip() for line in read_text(source / name).rstrip().splitlines()]
            return _Described(source, source / name, dict(enumerate(lines)), _find_parts(source))
    raise RecordError(f"no data.yaml, classes.txt or obj.names in {source}; one of them says what the classes are")


def _find_parts(folder: Path) -> list[_Part]:
    """Of a set that does not list them: the folders called so, or else all that is there."""
    places = [(name, place) for name in _PARTS for place in (f"images/{name}", name) if (folder / place).is_dir()]
    return [_Part(_PARTS[name], [place]) for name, place in places] or [_Part("all", ["."])]


def _read_description(file: Path) -> _Described:
    described = read_yaml(file)
    if not isinstance(described, dict):
        raise RecordError(f"{file} holds {reprlib.repr(described)}; expected names, and train, val or test")
    parts = [
        _Part(_PARTS[key], value if isinstance(value, list) else [value])
        for key, value in described.items()
        if isinstance(key, str) and key in _PARTS and value
    ]
    base = described.get("path")
    return _Described(
        folder=file.parent,
        file=file,
        names=_read_names(described.get("names"), file),
        parts=sorted(parts, key=lambda part: list(_PARTS.values()).index(part.name)) or [_Part("all", ["."])],
        base=base if isinstance(base, str) and _is_folder_inside(file.parent, base) else ".",
        keypoint_numbers=_read_keypoint_shape(described.get("kpt_shape"), file),
    )


def _read_names(names: object, file: Path) -> dict[int, str]:
    """Class names by number, from a list or from a mapping of numbers."""
    pairs = list(enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else [])
    named = {as_number(number) if isinstance(number, str) else number: name for number, name in pairs}
    if not named or not all(isinstance(number, int) and isinstance(name, str) for number, name in named.items()):
        raise RecordError(
            f"{file}: names is {reprlib.repr(names)}; expected a list of class names, or a name by number"
        )
    return {int(number): name.strip() for number, name in named.items()}


def _read_keypoint_shape(shape: object, file: Path) -> int:
    if shape is None:
        return 0
    sides = [as_number(side) for side in shape if isinstance(side, str)] if isinstance(shape, list) else []
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side < 10_000 for side in sides):
        raise RecordError(
            f"{file}: kpt_shape is {reprlib.repr(shape)}; expected how many keypoints of how many numbers"
        )
    return math.prod(int(side) for side in sides)


def _is_folder_inside(folder: Path, name: str) -> bool:
    place = folder / name
    try:
        return place.is_dir() and place.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


# ---- the pictures of a part ------------------------------------------------------------------------------------


def _read_part(
    part: _Part, described: _Described, pictures: PictureFolder, done: set[Path], *, reduce: bool
) -> Iterator[Annotated | Rejected]:
    found: list[Path] = []
    for entry in part.entries:
        for item in _find_pictures(entry, part, described, pictures):
            if isinstance(item, Rejected):
                yield item
            elif item not in done:
                done.add(item)
                found.append(item)
    places = {picture: _label_file(picture, described.folder) for picture in found}
    labels = {place for place in places.values() if place.is_file()}
    if found and not labels:
        reason = f"none of the {len(found)} pictures of {part.name} has a label file, such as {places[found[0]]}"
        yield Rejected(str(described.file), None, reason)
        return
    for picture, place in places.items():
        yield _read_picture(picture, place, described, reduce=reduce)
    for orphan in _find_orphans(labels, described.folder):
        yield Rejected(str(orphan), None, "there is no picture for this label file")


def _find_pictures(
    entry: object, part: _Part, described: _Described, pictures: PictureFolder
) -> Iterator[Path | Rejected]:
    """The pictures that an entry of the description means: below a folder, or in a list with one path a line."""
    try:
        place = _find_entry(entry, described)
        if place.is_dir():
            found = files_below(place, PICTURE_ENDINGS, within=described.folder)
            if not found:
                raise RecordError(f"no picture in {entry!r}")
            yield from found
            return
        lines = read_text(place).splitlines()
    except RecordError as error:
        yield Rejected(str(described.file), None, f"{part.name}: {error}")
        return
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield _below(described.folder, pictures.find(line.strip(), beside=place.parent))
        except RecordError as error:
            yield Rejected(str(place), number, str(error))


def _find_entry(entry: object, described: _Described) -> Path:
    """Where the folder or list of an entry lies. Many a file says `../train/images` for `train/images` beside it."""
    if not isinstance(entry, str) or "\0" in entry:
        raise RecordError(f"{reprlib.repr(entry)}; expected a folder of pictures, or a list of them")
    tried = [described.folder / described.base / entry, described.folder / entry]
    tried += [described.folder / entry.lstrip("./")] if entry.startswith("../") else []
    try:
        there = [place for place in tried if place.is_dir() or (place.suffix == ".txt" and place.is_file())]
        inside = [place for place in there if place.resolve().is_relative_to(described.folder.resolve())]
    except (OSError, ValueError):
        there, inside = [], []
    if not inside:
        what = "lies outside" if there else "is neither a folder nor a list (.txt) of pictures in"
        raise RecordError(f"{entry[:200]!r} {what} {described.folder}")
    return _below(described.folder, inside[0])


def _below(folder: Path, place: Path) -> Path:
    """The same place as a path that begins with `folder` and has no `..` in it."""
    steps = os.path.relpath(place, folder)
    if steps.startswith(".."):  # it is below it by another name of the folder
        return folder / place.resolve().relative_to(folder.resolve())
    return folder / steps


def _label_file(picture: Path, folder: Path) -> Path:
    """Below `labels` where the picture is below `images`; beside it where it lies there, or there is no `images`."""
    beside = picture.with_suffix(".txt")
    steps = list(picture.relative_to(folder).parts)
    if "images" not in steps[:-1]:
        return beside
    last = len(steps) - 2 - steps[-2::-1].index("images")
    apart = folder.joinpath(*steps[:last], "labels", *steps[last + 1 : -1], beside.name)
    return beside if beside.is_file() and not apart.is_file() else apart


def _find_orphans(labels: set[Path], folder: Path) -> list[Path]:
    """Files in the same folders called `labels` (or below such) that belong to no picture of this part."""
    folders = {file.parent for file in labels if "labels" in file.relative_to(folder).parts}
    return sorted(
        file for folder in folders for file in folder.glob("*.txt") if file not in labels and file.name != "classes.txt"
    )


# ---- one picture -----------------------------------------------------------------------------------------------


def _read_picture(picture: Path, labels: Path, described: _Described, *, reduce: bool) -> Annotated | Rejected:
    name = picture.relative_to(described.folder).as_posix()
    try:
        is_inside = labels.resolve().is_relative_to(described.folder.resolve())
        text = read_text(labels) if is_inside and labels.is_file() else ""
    except RecordError as error:
        return Rejected(str(labels), None, str(error))
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return Annotated(
        image=picture,
        file=labels,
        line=1,
        things=[_read_line(words, number, described, reduce=reduce) for number, words in lines],
        units=FRACTIONS,
        looked_for=[name for name in dict.fromkeys(described.names.values()) if name not in NO_THINGS],
        image_name=name,
        id=name.rpartition(".")[0],
    )


def _read_line(words: Sequence[str], number: int, described: _Described, *, reduce: bool) -> Thing:
    kind = as_number(words[0])
    label = described.names.get(kind) if isinstance(kind, int) else None
    if label is None:
        names = f"{len(described.names)} names in {described.file.name}"
        return Thing("", fault=f"line {number}: class {words[0][:50]!r} is none of the {names}")
    thing = _read_place(label, [as_number(word) for word in words[1:]], described.keypoint_numbers, reduce=reduce)
    return replace(thing, fault=f"line {number}: {thing.fault}") if thing.fault else thing


def _read_place(label: str, values: Sequence[Any], keypoint_numbers: int, *, reduce: bool) -> Thing:
    try:
        numbers = read_numbers(list(values), len(values), "line")
        if not all(-_SLACK <= number <= 1 + _SLACK for number in numbers[: 4 if keypoint_numbers else None]):
            raise RecordError(
                f"{reprlib.repr(list(numbers))}; expected shares of the picture, 0 to 1 (are these pixels?)"
            )
    except RecordError as error:
        return Thing(label, fault=str(error))
    if len(numbers) in (4, 5):
        extra = {"confidence": numbers[4]} if len(numbers) == 5 else {}
        return read_thing(label, from_centre(numbers[:4]), extra=extra)
    has_keypoints = keypoint_numbers and len(numbers) in (4 + keypoint_numbers, 5 + keypoint_numbers)
    is_shape = len(numbers) >= 6 and len(numbers) % 2 == 0
    if not has_keypoints and not is_shape:
        return Thing(
            label, fault=f"{len(numbers)} numbers after the class; expected 4 of a box, or x, y of 3 corners or more"
        )
    if not reduce:
        return Thing(
            label, fault=f"{_name_shape(len(numbers), bool(has_keypoints))}; with --reduce it is taken as a box"
        )
    if has_keypoints:
        return read_thing(label, from_centre(numbers[:4]))
    return read_shape(label, list(zip(numbers[::2], numbers[1::2], strict=True)))


def _name_shape(count: int, has_keypoints: bool) -> str:
    if has_keypoints:
        return "a box with keypoints (pose)"
    if count == 8:
        return "4 corners, of a turned box (OBB) or of a polygon (segments): nothing tells which"
    return f"a polygon of {count // 2} corners (segments), if not a box with keypoints"
