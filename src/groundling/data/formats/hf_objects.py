"""Detection sets in the `datasets` library of Hugging Face: a column `objects`, a struct of lists. One row (made up):

    {"image_id": 7, "image": {"bytes": b"...", "path": "7.jpg"}, "width": 640, "height": 428,
     "objects": {"id": [1], "bbox": [[146.0, 137.0, 469.0, 278.0]], "category": [0]}}

A list of structs is read too, and the same in a `metadata.jsonl` beside pictures, which it names under `file_name`.
Numbers of categories get the names that the file's own metadata hold. What the four numbers of a box are differs from
set to set and stands nowhere: the user says it, or all boxes of the source prove it by fitting their pictures in one
form only. Source: the pages about object detection and ImageFolder of the library (2025).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from groundling.data.formats.detection import FRACTIONS, Annotated, Thing, from_centre, read_size, read_thing
from groundling.data.formats.documents import choose_part, find_documents
from groundling.data.formats.found import BoxForm, Reading, keep_extra, read_id
from groundling.data.formats.rows import Row, find_folder, find_image, read_columns, read_features, read_rows
from groundling.data.record import Rejected, is_number, parse_json, read_numbers
from groundling.errors import GroundlingError, RecordError, SettingsError
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_header

_ENDINGS = (".parquet", ".arrow", ".jsonl")
_BOXES = ("bbox", "bboxes", "boxes", "box")
_LABELS = ("category", "categories", "category_id", "label", "labels", "class", "name")
_IDS = ("id", "ids")
_FRACTION_SLACK = 0.01  # of the picture, outside of it
_OWN = ("image", "objects", "width", "height")  # columns that are not kept as extra keys


def read_hf_objects(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """What is on each picture, in order of the files' paths.

    `source` is a Parquet, Arrow or JSONL file, a folder of such at any depth, or a data set's name on the hub.
    SettingsError where the form of the boxes was not declared and is not proven.
    """
    form = reading.box_form or prove_box_form(source, reading).form
    for table in _find_tables(source, reading):
        for row in _read_table(table):
            yield row if isinstance(row, Rejected) else _read_row(row, table, form)


class _Table(NamedTuple):
    file: Path
    folder: Path  # below which its pictures lie, where they are not in it
    classes: Sequence[str]  # by number; none where the file does not say


def _find_tables(source: str, reading: Reading) -> list[_Table]:
    path = find_folder(source)
    folder = path if path.is_dir() else path.parent
    files = choose_part(find_documents(str(path), _ENDINGS), folder, reading.part)
    binary = [file for file in files if file.suffix.lower() != ".jsonl"]
    return [_describe(file, reading.images or folder) for file in binary or files]


def _describe(file: Path, folder: Path) -> _Table:
    if file.suffix.lower() == ".jsonl":
        return _Table(file, file.parent, ())
    return _Table(file, folder, _find_classes(read_features(file).get("objects")))


def _find_classes(feature: object) -> list[str]:
    """The names of the first feature of classes in there, whichever way of nesting the library's version had."""
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return [str(name) for name in names] if isinstance(names, list) else []
    inner = feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else []
    return next((classes for value in inner if (classes := _find_classes(value))), [])


# ---- rows ------------------------------------------------------------------------------------------------------


def _read_table(table: _Table, only: Sequence[str] | None = None) -> Iterator[Row | Rejected]:
    if table.file.suffix.lower() != ".jsonl":
        yield from read_rows(table.file, ("image", "objects"), only=only)
        return
    with table.file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_line(line, number, table.file)


def _read_line(line: bytes, number: int, file: Path) -> Row | Rejected:
    try:
        entry = parse_json(line)
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise RecordError(f"the line is {reprlib.repr(entry)}; expected an object with file_name and objects")
    except RecordError as error:
        return Rejected(str(file), number, str(error))
    values = {key: value for key, value in entry.items() if key != "file_name"}
    return Row(number, values | {"image": {"path": entry["file_name"]}})


def _read_row(row: Row, table: _Table, form: BoxForm) -> Annotated | Rejected:
    values = row.values
    try:
        image, name = find_image(values.get("image"), table.folder)
        objects = _read_objects(values.get("objects"))
        size = read_size(values.get("width"), values.get("height"))
    except RecordError as error:
        return Rejected(str(table.file), row.line, str(error))
    return Annotated(
        image=image,
        file=table.file,
        line=row.line,
        things=[_read_thing(entry, table.classes, form) for entry in objects],
        size=size,
        units=FRACTIONS if form.endswith("-fractions") else None,
        looked_for=table.classes or None,
        image_name=name,
        id=read_id(values.get("image_id")),
        extra=keep_extra({key: value for key, value in values.items() if key not in _OWN}),
    )


def _read_objects(value: object) -> list[Mapping[str, Any]]:
    """One mapping for each object, from a struct of lists or a list of structs."""
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return value
    lists = (
        {key: column for key, column in value.items() if isinstance(column, list)} if isinstance(value, dict) else {}
    )
    if not lists:
        raise RecordError(f"the objects are {reprlib.repr(value)}; expected a struct of lists: bbox, category")
    if len({len(column) for column in lists.values()}) > 1:
        counts = ", ".join(f"{len(column)} of {key}" for key, column in lists.items())
        raise RecordError(f"the objects have {counts}; expected as many of each")
    return [dict(zip(lists, entry, strict=True)) for entry in zip(*lists.values(), strict=True)]


def _read_thing(entry: Mapping[str, Any], classes: Sequence[str], form: BoxForm) -> Thing:
    label = _first(entry, _LABELS)
    if isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(classes):
            names = f"none of the {len(classes)} names" if classes else "a number, and no names are"
            return Thing("", fault=f"the category {label} is {names} in the file's metadata")
        label = classes[label]
    number = _first(entry, _IDS)
    return read_thing(
        label, _corners(_first(entry, _BOXES), form), extra={} if number is None else {"annotation_id": number}
    )


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if key in entry), None)


# ---- the form of the boxes -------------------------------------------------------------------------------------


def _corners(values: Any, form: str) -> Any:
    """Left, top, right, bottom of a box in that form; what is no box stays as it is."""
    kind = form.removesuffix("-fractions")
    if kind == "cxcywh":
        return from_centre(values)
    if kind == "xyxy":
        return values
    try:
        left, top, width, height = read_numbers(values, 4, "box")
    except RecordError:
        return values
    return (left, top, left + width, top + height)


_FORMS: tuple[BoxForm, ...] = get_args(BoxForm)


class BoxProof(NamedTuple):
    """A form that boxes were proven to have."""

    form: BoxForm
    note: str  # for the user


def prove_box_form(source: str, reading: Reading) -> BoxProof:
    """The only form in which all boxes of the source fit their pictures; SettingsError where none or several do."""
    fitting: dict[BoxForm, int] = dict.fromkeys(_FORMS, 0)
    count, largest = 0, 0.0
    for box, picture in _all_boxes(_find_tables(source, reading)):
        count += 1
        largest = max(largest, *box)
        for form in fitting:
            fitting[form] += _fits(box, picture, form)
    if not count:
        raise RecordError("no row has a picture whose size is known and boxes of four numbers; a file of another kind?")
    is_fraction = largest <= 1 + _FRACTION_SLACK  # pixels that small would be pictures of one pixel
    proven: list[BoxForm] = [
        form for form in _FORMS if fitting[form] == count and form.endswith("-fractions") == is_fraction
    ]
    if len(proven) == 1:
        return BoxProof(proven[0], f"boxes are {proven[0]}: all {count} fit their pictures so, and in no other form")
    shares = ", ".join(f"{fits} as {form}" for form, fits in fitting.items())
    raise SettingsError(
        f"the data do not prove what the four numbers of a box are: of {count} boxes, {shares} fit their pictures. "
        "Say it: --boxes xywh (left, top, width, height), xyxy or another of these"
    )


def _all_boxes(tables: Sequence[_Table]) -> Iterator[tuple[tuple[float, ...], Frame]]:
    """Every box of four numbers, as written, with the size of its picture; turned pictures prove nothing."""
    for table in tables:
        has_size = {"width", "height"} <= set(read_columns(table.file))
        for row in _read_table(table, ["objects", "width", "height"] if has_size else None):
            try:
                values = {} if isinstance(row, Rejected) else row.values
                picture = read_size(values.get("width"), values.get("height")) or _upright_size(values, table)
                boxes = [_first(entry, _BOXES) for entry in _read_objects(values.get("objects"))]
            except GroundlingError:
                continue
            for box in boxes:
                if picture is not None and _is_box(box):
                    yield tuple(box), picture


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(is_number(number) for number in value)


def _upright_size(values: Mapping[str, Any], table: _Table) -> Frame | None:
    image, _ = find_image(values.get("image"), table.folder)
    header = read_header(image)
    return header.upright if header.orientation == 1 else None


def _fits(box: Sequence[float], picture: Frame, form: BoxForm) -> bool:
    """Whether a box lies in its picture, to one pixel or a hundredth of a side, its corners in order."""
    left, top, right, bottom = _corners(box, form)
    width, height, slack = (1, 1, _FRACTION_SLACK) if form.endswith("-fractions") else (*picture.size_wh, 1)
    return -slack <= left <= right <= width + slack and -slack <= top <= bottom <= height + slack
