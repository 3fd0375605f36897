"""Data larger than memory: a folder of Parquet files, each with some of the pictures and all that is asked about them.

    train/train-00000-of-00008.parquet ... train/train-00007-of-00008.parquet

A row holds one picture, or the words of a record without one, and the rows are in an order that was shuffled when they
were written:

    image           {bytes: the picture's file as it was, path: its name}; null without a picture
    width, height   its upright size; null without a picture
    count           how many records there are about it
    records         these, as a JSON list of what the lines of a record file say, without image, width and height

`bytes` and `path` are the struct that the `datasets` library of Hugging Face shows as a picture. Rows stand in groups
of a few megabytes, which are read whole. Each file has a note about the set it belongs to (made by hand):

    groundling: {"version": 1, "set": "5f2b...", "number": 0, "of": 8, "pictures": 1200, "records": 5012}

`open_shards` reads a record when it is asked for: what stays in memory is some 20 bytes a picture, and what was read
last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from groundling.data.record import Record, Rejected, Scan, parse_json, read_record, record_to_json, scan_records
from groundling.errors import RecordError, SettingsError
from groundling.geometry.images import read_frame
from groundling.geometry.packed import read_stored

if TYPE_CHECKING:
    from pyarrow import Schema, Table
    from pyarrow.parquet import ParquetFile

VERSION = 1
GROUP_BYTES = 4 * 2**20  # of the pictures of a row group; one more picture may reach beyond
GROUP_ROWS = 128  # at most, so that small pictures' records do not fill the memory
KEPT_GROUPS = 24  # row groups whose records are kept, of those read last
_NOTE = b"groundling"
_TEXTS = ["width", "height", "records"]  # all but the pictures


def open_records(path: str | Path, *, allow_absolute: bool = False) -> Scan:
    """What a record file holds, or a folder of shards; RecordError where there is neither."""
    if Path(path).is_dir():
        return scan_shards(path)
    return scan_records(path, allow_absolute=allow_absolute)


def refuse_empty(paths: Sequence[str | Path], scans: Sequence[Scan]) -> None:
    """RecordError where all of these files, at least one, hold neither a record nor anything that is to be one."""
    if paths and not any(scan.records or scan.rejected for scan in scans):
        holds = "holds" if len(paths) == 1 else "hold"
        raise RecordError(f"{', '.join(map(str, paths))} {holds} no records; `groundling convert` makes some")


# ---- reading ---------------------------------------------------------------------------------------------------


class LazyRecords(Sequence[Record]):
    """Records that are read when they are asked for."""

    @abstractmethod
    def read(self, place: int) -> Record:
        """The record at a place from 0."""

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...
    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return self.read(range(len(self))[number])


@dataclass(frozen=True, eq=False)
class Shards(LazyRecords):
    """The records of a folder of shards, in order, each read when it is asked for.

    A record's `file` is the folder and its `line` the place in it, from 1; its picture is `shard.parquet/ROW`.
    """

    folder: Path
    files: tuple[Path, ...]
    set: str  # the same for all files that were written together
    firsts: np.ndarray  # (rows + 1,): the number of each row's first record, and how many records there are
    groups: np.ndarray  # (groups + 1,): the number of each group's first row, and how many rows there are
    group_files: np.ndarray  # (groups,): which file each group is in
    has_picture: np.ndarray  # (rows,): bool

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def read(self, place: int) -> Record:
        """The record at a place from 0."""
        row = int(np.searchsorted(self.firsts, place, side="right")) - 1
        group = int(np.searchsorted(self.groups, row, side="right")) - 1
        return read_group(self, group)[place - int(self.firsts[self.groups[group]])]

    def __iter__(self) -> Iterator[Record]:
        for group in range(len(self.group_files)):
            if self.firsts[self.groups[group]] < self.firsts[self.groups[group + 1]]:
                yield from read_group(self, group)

    def read_in_turn(self, numbers: np.ndarray) -> Iterator[Record]:
        """The records of these numbers; where they go up each row group is read once."""
        groups = self.groups_of(self.rows_of(numbers))
        firsts = self.firsts[self.groups[groups]]
        for group, first, number in zip(groups.tolist(), firsts.tolist(), numbers.tolist(), strict=True):
            yield read_group(self, group)[number - first]

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """The rows that records stand in: the same for those about one picture."""
        return np.searchsorted(self.firsts, numbers, side="right") - 1

    def groups_of(self, rows: np.ndarray) -> np.ndarray:
        """The row groups that rows stand in."""
        return np.searchsorted(self.groups, rows, side="right") - 1

    def pictures_in(self, group: int) -> list[Path]:
        """The pictures of a row group's records, in order."""
        file, first = self.file_of(group)
        rows = np.arange(self.groups[group], self.groups[group + 1])
        return [file / str(row - first) for row in rows[self.has_picture[rows]].tolist()]

    def file_of(self, group: int) -> tuple[Path, int]:
        """The shard that a row group is in, and the number of that shard's first row."""
        number = int(self.group_files[group])
        return self.files[number], int(self.groups[np.searchsorted(self.group_files, number)])


def open_shards(folder: str | Path) -> Shards:
    """The records of a folder of shards. RecordError where one of them is missing, damaged or of another set."""
    shards, rejected = scan_shards(folder)
    if rejected:
        raise RecordError(f"{len(rejected)} records of {folder} cannot be read; the first: {rejected[0].reason}")
    assert isinstance(shards, Shards)
    return shards


def scan_shards(folder: str | Path) -> Scan:
    """The records of a folder of shards, as `Shards`, and those whose row group is damaged, which it passes over.

    A rejected one is named `SHARD.parquet/ROW`, its line the place in that row, from 1. RecordError where a file is
    missing, of another set, or no whole Parquet file. Pictures are not looked at here.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise RecordError(
            f"{folder} is a folder without shards; name a record file in it, or write some: "
            "`groundling convert ... --shards N`"
        )
    notes = {file: _read_note(file) for file in files}
    _refuse_mixture(folder, notes)
    files = sorted(files, key=lambda file: notes[file].number)
    parts = [_read_index(file, notes[file]) for file in files]
    shards = Shards(
        folder=folder,
        files=tuple(files),
        set=notes[files[0]].set,
        firsts=_starts(np.concatenate([part.counts for part in parts])),
        groups=_starts(np.concatenate([part.group_rows for part in parts])),
        group_files=np.repeat(np.arange(len(files)), [len(part.group_rows) for part in parts]),
        has_picture=np.concatenate([part.has_picture for part in parts]),
    )
    return Scan(shards, [bad for part in parts for bad in part.rejected])


class Note(NamedTuple):
    """What a shard says about itself and its set."""

    version: int
    set: str  # the hash of all records that were written together
    number: int  # from 0,
    of: int  # so many
    pictures: int
    records: int


def _read_note(file: Path) -> Note:
    from pyarrow.parquet import read_metadata

    try:
        found = (read_metadata(file).metadata or {}).get(_NOTE)
    except _damage() as error:
        raise RecordError(f"{file} is no whole Parquet file: {error}; bring it again, or write the set anew") from None
    if found is None:
        raise RecordError(
            f"{file} is a Parquet file, but no shard of groundling's; `groundling convert ... --shards N` makes some "
            "of other data sets (docs/formats.md)"
        )
    note = parse_json(found)
    version = note.get("version") if isinstance(note, dict) else note
    if version != VERSION or note.keys() != set(Note._fields):
        raise RecordError(f"{file} is of version {version}, and {VERSION} is known; update groundling")
    return Note(**note)


def _refuse_mixture(folder: Path, notes: dict[Path, Note]) -> None:
    """RecordError where the files are not all those of one set, each once."""
    first = next(iter(notes))
    by_number: dict[int, Path] = {}
    for file, note in notes.items():
        if (note.set, note.of) != (notes[first].set, notes[first].of):
            raise RecordError(f"{file} was not written together with {first}; keep each set in a folder of its own")
        if note.number in by_number:
            raise RecordError(f"{file} is the same shard as {by_number[note.number]}; remove one")
        by_number[note.number] = file
    missing = [number for number in range(notes[first].of) if number not in by_number]
    if missing:
        names = ", ".join(f"{number:05}-of-{notes[first].of:05}" for number in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise RecordError(f"{folder} lacks {names}{more}; bring the missing shards, or write the set anew")


class _Index(NamedTuple):
    counts: np.ndarray  # (rows,): records that can be read
    group_rows: np.ndarray  # (groups,)
    has_picture: np.ndarray  # (rows,)
    rejected: list[Rejected]


def _read_index(file: Path, note: Note) -> _Index:
    """Where the records of a shard stand; each row group's are read once to see that they are whole, no picture is."""
    from pyarrow.parquet import ParquetFile

    counts, group_rows, has_picture, rejected = list[np.ndarray](), list[int](), list[np.ndarray](), list[Rejected]()
    try:
        with ParquetFile(file, page_checksum_verification=True) as table:
            for group in range(table.num_row_groups):
                group_rows.append(table.metadata.row_group(group).num_rows)
                found = _read_columns(table, group, ["count", *_TEXTS])
                if isinstance(found, Exception):
                    rejected += _reject_group(table, group, file, sum(group_rows[:-1]), found)
                    counts.append(np.zeros(group_rows[-1], dtype=np.int32))
                    has_picture.append(np.zeros(group_rows[-1], dtype=bool))
                else:
                    counts.append(found["count"].to_numpy())
                    has_picture.append(found["width"].is_valid().to_numpy())
    except _damage() as error:
        raise _damaged(file, error) from None
    index = _Index(np.concatenate(counts), np.array(group_rows), np.concatenate(has_picture), rejected)
    if not rejected and (index.counts.sum(), index.has_picture.sum()) != (note.records, note.pictures):
        raise RecordError(f"{file} holds {index.counts.sum()} records, and says {note.records}; write the set anew")
    return index


def _read_columns(table: ParquetFile, group: int, columns: list[str]) -> Table | Exception:
    """Columns of a row group, or what is wrong with them."""
    try:
        found = table.read_row_group(group, columns=columns, use_threads=False)
    except _damage() as error:
        return error
    is_whole = all(found[name].null_count == 0 for name in ("count", "records") if name in columns)
    return found if is_whole else ValueError("a row says nothing")


def _reject_group(table: ParquetFile, group: int, file: Path, first_row: int, error: Exception) -> Iterator[Rejected]:
    """The records of a damaged row group, by number as far as these are still known; else one a row."""
    counted = _read_columns(table, group, ["count"])
    counts = None if isinstance(counted, Exception) else counted["count"].to_pylist()
    rows = range(first_row, first_row + table.metadata.row_group(group).num_rows)
    reason = str(_damaged(file, f"rows {rows[0]} to {rows[-1]} cannot be read ({error})"))
    for place, row in enumerate(rows):
        lines = [None] if counts is None else range(1, counts[place] + 1)
        yield from (Rejected(f"{file}/{row}", line, reason) for line in lines)


@lru_cache(maxsize=KEPT_GROUPS)
def read_group(shards: Shards, group: int) -> Sequence[Record]:
    """The records of a row group. RecordError where it is damaged, or its file was changed since the set was opened."""
    from pyarrow.parquet import ParquetFile

    file, file_row = shards.file_of(group)
    first_group = int(np.searchsorted(shards.group_files, shards.group_files[group]))
    try:
        with ParquetFile(file, page_checksum_verification=True) as table:
            note = (table.metadata.metadata or {}).get(_NOTE, b"{}")
            texts = table.read_row_group(group - first_group, columns=_TEXTS, use_threads=False).to_pydict()
    except _damage() as error:
        raise _damaged(file, error) from None
    if parse_json(note).get("set") != shards.set:
        raise RecordError(f"{file} was written anew while it was being read; start again")
    first_row = int(shards.groups[group])
    records: list[Record] = []
    for row, (width, height, lines) in enumerate(zip(*texts.values(), strict=True), start=first_row):
        path = file / str(row - file_row)
        size = {} if width is None else {"width": width, "height": height}
        numbers = range(int(shards.firsts[row]), int(shards.firsts[row + 1]))
        try:
            for number, value in zip(numbers, parse_json(lines), strict=True):
                records.append(read_record(value | size, None if width is None else path, shards.folder, number + 1))
        except (RecordError, TypeError, ValueError) as error:  # its page is whole, so this is what was written
            raise RecordError(f"{path}: {error}; write the set anew") from None
    return records


def _damaged(file: Path, error: object) -> RecordError:
    return RecordError(f"{file} is damaged: {error}; bring it again, or write the set anew")


def _damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises on a damaged file, or on one without such columns."""
    import pyarrow

    return pyarrow.ArrowException, OSError, KeyError


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


# ---- writing ---------------------------------------------------------------------------------------------------


def write_shards(records: Sequence[Record], folder: str | Path, *, shards: int, seed: int = 0) -> list[Path]:
    """Write records and their pictures to a new folder, as `shards` files, or one a picture where there are fewer.

    Pictures are dealt in an order that the seed decides, each with all its records and with its bytes as they are; one
    row group is in memory at a time. The folder appears when all of it is written. SettingsError where it is there
    already; RecordError for a record that JSON cannot hold, or whose size is not its picture's; ImageError where a
    picture cannot be read.
    """
    folder = Path(folder)
    refuse_folder(folder)
    if shards < 1:
        raise SettingsError(f"{shards} shards; expected at least 1")
    if not records:
        raise SettingsError(f"no records to write to {folder}")
    rows = _deal(records, seed)
    parts = [part.tolist() for part in np.array_split(np.arange(len(rows)), min(shards, len(rows)))]
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_lines_of([records[number] for number in row]).encode())

    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was ended
    partial.mkdir(parents=True)
    try:
        for number, part in enumerate(parts):
            own = [[records[number] for number in rows[row]] for row in part]
            pictures = sum(row[0].image is not None for row in own)
            note = Note(VERSION, digest.hexdigest(), number, len(parts), pictures, sum(map(len, own)))
            _write_shard(own, partial / _name(folder, note), note)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return [folder / file.name for file in sorted(folder.iterdir())]


def refuse_folder(folder: Path) -> None:
    """SettingsError where something is in the place of a folder that is to be written."""
    if folder.exists():
        raise SettingsError(f"{folder} is there already; delete it, or name another")


def _deal(records: Sequence[Record], seed: int) -> list[list[int]]:
    """The numbers of the records about each picture, the pictures shuffled; one row for each record without one."""
    by_picture: dict[Path | int, list[int]] = {}
    for number, record in enumerate(records):
        by_picture.setdefault(number if record.image is None else record.image, []).append(number)
    rows = list(by_picture.values())
    return [rows[place] for place in np.random.default_rng(seed).permutation(len(rows)).tolist()]


def _name(folder: Path, note: Note) -> str:
    return f"{folder.name}-{note.number:05}-of-{note.of:05}.parquet"


def _write_shard(rows: Sequence[Sequence[Record]], file: Path, note: Note) -> None:
    from pyarrow import Table
    from pyarrow.parquet import ParquetWriter

    schema = _schema(note)
    options: Any = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    options["compression"] = dict.fromkeys(("image.path", "width", "height", "count", "records"), "zstd")
    with ParquetWriter(file, schema, **options) as writer:  # pictures stay as they are: they are compressed already
        group: list[dict[str, Any]] = []
        room = GROUP_BYTES
        for row in rows:
            group.append(_write_row(row))
            room -= len(group[-1]["image"]["bytes"]) if group[-1]["image"] else 0
            if room <= 0 or len(group) == GROUP_ROWS or row is rows[-1]:
                writer.write_table(Table.from_pylist(group, schema), row_group_size=len(group))
                group, room = [], GROUP_BYTES


def _write_row(records: Sequence[Record]) -> dict[str, Any]:
    image = records[0].image
    row: dict[str, Any] = {"image": None, "width": None, "height": None}
    if image is not None:
        content = read_stored(image)
        frame = read_frame(image)
        for record in records:
            if (record.width or frame.width, record.height or frame.height) != frame.size_wh:
                raise RecordError(f"{record.place}: declared {record.declared}, but {image} is {frame}; mend it first")
        row = {"image": {"bytes": content, "path": image.name}, "width": frame.width, "height": frame.height}
    return row | {"count": len(records), "records": _lines_of(records)}


def _lines_of(records: Sequence[Record]) -> str:
    """What the records say, as a JSON list."""
    values = [record_to_json(record, Path()) for record in records]
    lines = [{key: value[key] for key in value if key not in ("image", "width", "height")} for value in values]
    try:
        text = json.dumps(lines, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:  # a Path or an array, NaN, half of a surrogate pair
        raise RecordError(f"{records[0].place} cannot be written as JSON: {error}") from None
    return text


def _schema(note: Note) -> Schema:
    import pyarrow as pa

    whole = ("width", "height", "count")
    features: dict[str, Any] = {"image": {"_type": "Image"}, "records": {"dtype": "string", "_type": "Value"}}
    features |= {name: {"dtype": "int32", "_type": "Value"} for name in whole}
    columns = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *((name, pa.int32()) for name in whole),
        ("records", pa.string()),
    ]
    noted = {"huggingface": json.dumps({"info": {"features": features}}), _NOTE: json.dumps(note._asdict())}
    return pa.schema(columns, metadata=noted)
