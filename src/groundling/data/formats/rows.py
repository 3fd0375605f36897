"""Rows of tables as the `datasets` library of Hugging Face stores them, in Parquet or Arrow files, pictures inside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from groundling.data.fetch import fetch_parquet
from groundling.data.formats.found import find_picture
from groundling.data.record import Rejected, parse_json
from groundling.errors import RecordError

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema
    from pyarrow.parquet import ParquetFile

_BATCH_ROWS = 32  # in memory at a time, pictures included


class Row(NamedTuple):
    """One row, by column."""

    line: int  # from 1, in its file
    values: dict[str, Any]


def find_folder(source: str) -> Path:
    """The file or folder that `source` is, or that of the data set on the hub which is called so, brought here."""
    path = Path(source)
    if path.exists():
        return path
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source):
        return fetch_parquet(source)
    raise RecordError(f"no file or folder {source}; expected Parquet files, or a data set's name such as owner/name")


def read_rows(file: Path, needed: Sequence[str], *, only: Sequence[str] | None = None) -> Iterator[Row | Rejected]:
    """The rows of a file with the columns `needed`, in order; with `only`, just those of these columns that it has.

    A damaged row group, and what follows damage in an Arrow file, is rejected, and so is a file of another kind.
    """

    try:
        schema = _read_schema(file)
    except _damage() as error:
        kind = "an Arrow" if file.suffix == ".arrow" else "a Parquet"
        yield Rejected(str(file), None, f"not {kind} file that can be read: {error}")
        return
    missing = [column for column in needed if column not in schema.names]
    if missing:
        yield Rejected(str(file), None, f"no column {', '.join(missing)}; found {', '.join(schema.names)}")
        return
    columns = None if only is None else [column for column in only if column in schema.names]
    yield from _read_arrow(file, columns) if file.suffix == ".arrow" else _read_parquet(file, columns)


def read_columns(file: Path) -> list[str]:
    """The names of a file's columns; none where it cannot be read."""

    try:
        return list(_read_schema(file).names)
    except _damage():
        return []


def read_features(file: Path) -> Mapping[str, Any]:
    """What `datasets` noted about the columns: kinds, and names of classes; nothing where it did not write the file."""

    try:
        noted = parse_json((_read_schema(file).metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
    except (*_damage(), RecordError, LookupError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def find_image(value: Any, folder: Path) -> tuple[bytes | Path, str]:
    """The picture's own bytes, or where it lies, and its name."""
    if not isinstance(value, Mapping):
        raise RecordError(f"the image is {type(value).__name__}; expected a struct of bytes and path")
    content, name = value.get("bytes"), value.get("path") or ""
    if not isinstance(name, str) or not isinstance(content, bytes | None):
        raise RecordError("the image is a struct of other things; expected bytes and path")
    if content:
        return content, name
    if name:
        return find_picture(name, folder), name
    raise RecordError("the image has neither bytes nor a path")


# ---- files -----------------------------------------------------------------------------------------------------


def _damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises on a damaged file; the last where a column's name is no text."""
    import pyarrow

    return pyarrow.ArrowException, OSError, UnicodeDecodeError


def _read_schema(file: Path) -> Schema:
    from pyarrow import ipc
    from pyarrow.parquet import read_schema

    if file.suffix != ".arrow":
        return read_schema(file)
    with ipc.open_stream(str(file)) as stream:
        return stream.schema


def _read_parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row | Rejected]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        line = 1
        for group in range(table.num_row_groups):
            yield from _read_group(table, group, columns, file, line)
            line += table.metadata.row_group(group).num_rows


def _read_group(
    table: ParquetFile, group: int, columns: Sequence[str] | None, file: Path, line: int
) -> Iterator[Row | Rejected]:
    """The rows of one row group, the first of them row `line` of the file; read apart so that damage stays in it."""

    try:
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
            yield from _read_batch(batch, file, line)
            line += batch.num_rows
    except _damage() as error:
        yield Rejected(str(file), line, f"the rows from here to the end of row group {group} are damaged: {error}")


def _read_arrow(file: Path, columns: Sequence[str] | None) -> Iterator[Row | Rejected]:
    from pyarrow import ipc

    line = 1
    try:
        with ipc.open_stream(str(file)) as stream:
            for batch in stream:
                yield from _read_batch(batch if columns is None else batch.select(columns), file, line)
                line += batch.num_rows
    except _damage() as error:
        yield Rejected(str(file), line, f"the rows from here on are damaged: {error}")


def _read_batch(batch: RecordBatch, file: Path, line: int) -> Iterator[Row | Rejected]:
    for number in range(batch.num_rows):
        try:
            values = batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield Rejected(str(file), line + number, str(error))
        else:
            yield Row(line + number, values)
