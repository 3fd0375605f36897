"""TextVQA_GT_bbox: questions on photographs, one box each, as Parquet. Schema of a row (values made up):

    {"image": {"bytes": b"...", "path": "1.jpg"}, "question": "what brand is it?", "answer": ["acme", "acme"],
     "dataset_id": "36269", "bbox": [460.0, 635.0, 53.0, 34.0]}

`bbox` is left, top, width, height in original pixels. Source: the data set's own Parquet files on the hub; the copy on
ModelScope holds the same ones. Only they are read: `dataset_infos.json`, broken in that copy, is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundling.data.fetch import fetch_parquet
from groundling.data.formats.found import Found, Reading, find_picture, keep_extra, read_id
from groundling.data.record import Rejected, Target, read_numbers
from groundling.errors import RecordError

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

COLUMNS = ("image", "question", "bbox")  # needed; `dataset_id` becomes the id, `answer` the extra key `answers`

_BATCH_ROWS = 32  # in memory at a time, pictures included


def read_textvqa(source: str, reading: Reading) -> Iterator[Found | Rejected]:
    """What the Parquet files hold, in order of their names.

    `source` is such a file, a folder of them at any depth, or a data set's name on the hub. RecordError where there are
    none; a file or a row that cannot be read is rejected, and the others are read.
    """
    folder = _find_folder(source)
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
    if not files:
        raise RecordError(f"no *.parquet below {folder}; expected the data set's own folder or one of its files")
    for file in files:
        yield from _read_file(file, folder if folder.is_dir() else folder.parent)


def _find_folder(source: str) -> Path:
    path = Path(source)
    if path.exists():
        return path
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source):
        return fetch_parquet(source)
    raise RecordError(f"no file or folder {source}; expected Parquet files, or a data set's name such as owner/name")


def _read_file(file: Path, folder: Path) -> Iterator[Found | Rejected]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        yield Rejected(str(file), None, f"not a Parquet file that can be read: {error}")
        return
    with table:
        columns = table.schema_arrow.names
        missing = [column for column in COLUMNS if column not in columns]
        if missing:
            yield Rejected(str(file), None, f"no column {', '.join(missing)}; found {', '.join(columns)}")
            return
        line = 1
        for group in range(table.num_row_groups):
            yield from _read_group(table, group, file, line, folder)
            line += table.metadata.row_group(group).num_rows


def _read_group(table: ParquetFile, group: int, file: Path, line: int, folder: Path) -> Iterator[Found | Rejected]:
    """The rows of one row group, the first of them row `line` of the file; read apart so that damage stays in it."""
    import pyarrow

    try:
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group]):
            for number in range(batch.num_rows):
                yield _read_row(batch.slice(number, 1), file, line, folder)
                line += 1
    except (pyarrow.ArrowException, OSError) as error:
        yield Rejected(str(file), line, f"the rows from here to the end of row group {group} are damaged: {error}")


def _read_row(row: RecordBatch, file: Path, line: int, folder: Path) -> Found | Rejected:
    try:
        values = row.to_pylist()[0]
        left, top, width, height = read_numbers(values.pop("bbox"), 4, "bbox")
        image, name = _find_image(values.pop("image"), folder)
        question = values.pop("question")
        if not isinstance(question, str):
            raise RecordError(f"the question is {question!r}; expected a text")
        target = Target(box=(left, top, left + width, top + height))
    except (RecordError, UnicodeDecodeError) as error:
        return Rejected(str(file), line, str(error))
    return Found(
        question=question,
        image=image,
        image_name=name,
        file=file,
        line=line,
        targets=(target,),
        id=read_id(values.get("dataset_id")),
        extra=keep_extra({"answers" if key == "answer" else key: value for key, value in values.items()}),
    )


def _find_image(value: Any, folder: Path) -> tuple[bytes | Path, str]:
    """The picture's own bytes, or where it lies, and its name."""
    if not isinstance(value, Mapping):
        raise RecordError(f"the image is {type(value).__name__}; expected a struct of bytes and path")
    content, name = value.get("bytes"), value.get("path") or ""
    if content:
        return content, name
    if name:
        return find_picture(name, folder), name
    raise RecordError("the image has neither bytes nor a path")
