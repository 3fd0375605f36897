"""Other people's data into records: what was found is checked, its pictures are copied, and it is split by picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from groundling.data.formats.chat import declared_frame
from groundling.data.formats.found import BoxForm, Found, Reading
from groundling.data.pictures import Pictures
from groundling.data.questions import Asking, Per
from groundling.data.record import Record, Rejected, record_to_json, write_records
from groundling.data.shards import open_shards, refuse_folder, write_shards
from groundling.data.sources import read_questions, settle
from groundling.data.split import read_sizes, split_by_picture
from groundling.errors import ImageError, RecordError, SettingsError


class Conversion(NamedTuple):
    """What became of the data: the records in the order written, what was set aside, and the record files.

    `notes` say what was found out about the source: its format where it was to be recognised, a frame that was proven.
    """

    records: list[Record]
    rejected: list[Rejected]
    files: list[Path]
    notes: list[str]


def convert(
    format: str,
    source: str | Path,
    out: str | Path,
    *,
    split: str | Mapping[str, int] | None = None,
    seed: int = 0,
    frame: str | None = None,
    images: str | Path | None = None,
    part: str | None = None,
    one_based: bool = False,
    reduce: bool = False,
    box_form: BoxForm | None = None,
    per: Per = "class",
    question: str | None = None,
    negatives: float = 0.0,
    labels: Sequence[str] | None = None,
    link: bool = False,
    limit: int | None = None,
    shards: int | None = None,
) -> Conversion:
    """Read `source`, a file, folder or data set's name, and write records in original pixels to `out`.

    With `split` (`train=3000,test=100`, or a mapping) each part goes to OUT-NAME.jsonl instead; see `split_by_picture`.
    Pictures are copied to `images` beside `out`; with `link`, those that are files stay, and records hold absolute
    paths. With `shards` there are folders OUT, or OUT-NAME, of so many Parquet files instead, which hold the pictures.
    `limit` stops after so many records. What cannot be read is listed in OUT.rejected.jsonl (`file, line, reason`) and
    stops nothing. SettingsError for options that do not fit, RecordError for a source of another kind.

    `auto` is the format that the source is recognised as. What a source does not say itself: `frame`, what the numbers
    of a text format count: original, thousandths, fractions or resized:PIXELS, without it what they prove; `images`,
    the folder of its pictures; `part`, which of its named parts; `one_based`, `reduce` and `box_form` as in `Reading`.

    Labelled boxes become one question `per` class, box or picture, worded by `question` with `{label}` or `{labels}` in
    it; `negatives` and `labels` as in `Asking`.
    """
    file = Path(out)
    reading = Reading(
        frame=None if frame is None else declared_frame(frame),
        images=None if images is None else Path(images),
        part=part,
        one_based=one_based,
        reduce=reduce,
        box_form=box_form,
    )
    if shards is not None and link:
        raise SettingsError("both --shards and --link; shards hold the pictures themselves")
    asking = Asking(per, question, negatives, None if labels is None else tuple(labels), seed)
    sizes = read_sizes(split)
    if limit is not None and limit < 1:
        raise SettingsError(f"a limit of {limit} records; expected at least 1")
    files = _name_files(file, sizes, ".jsonl" if shards is None else "")
    refuse_overwriting(source, [*([] if shards else files.values()), rejected_file(file)])
    for folder in files.values() if shards else ():
        refuse_folder(folder)

    settled = settle(format, str(source), reading, asking)
    found = read_questions(settled.format, settled.source, settled.reading, asking)
    with _keeping_pictures(file, link=link, until_packed=shards is not None) as pictures:
        placed, rejected = _place_all(found, pictures, limit)
        write_rejected(rejected, file)
        rows_of = (
            split_by_picture([each.picture for each in placed], sizes, seed) if sizes else {"": range(len(placed))}
        )
        parts = {name: [placed[row].record for row in rows] for name, rows in rows_of.items()}
        if not placed:  # what an earlier conversion has left stays
            return Conversion([], rejected, [], settled.notes)
        written = _write_parts(parts, files, shards, seed)
    notes = [*settled.notes, *_describe_split(parts, sizes, len(placed))]
    return Conversion(written, rejected, [file for file in files.values() if file.exists()], notes)


def _name_files(file: Path, sizes: Mapping[str, int], ending: str) -> dict[str, Path]:
    """What is written for each part of the split, or (named "") for all."""
    whole = file if ending else file.with_suffix("")
    return {name: file.with_name(f"{file.stem}-{name}{ending}") for name in sizes} or {"": whole}


def _write_parts(
    parts: Mapping[str, Sequence[Record]], files: Mapping[str, Path], shards: int | None, seed: int
) -> list[Record]:
    """Write each part to its file, or to its folder of shards, where it has records; returns them as they are there."""
    if shards is None:
        for name, records in parts.items():
            write_records(records, files[name])
        return [record for records in parts.values() for record in records]
    full = [name for name, records in parts.items() if records]
    for name in full:
        write_shards(parts[name], files[name], shards=shards, seed=seed)
    return [record for name in full for record in open_shards(files[name])]


@contextmanager
def _keeping_pictures(file: Path, *, link: bool, until_packed: bool) -> Iterator[Pictures]:
    """The pictures beside a record file; or those that are no files yet, until they are packed, in a folder of a while.

    Pictures that are to be packed and are files already stay where they are.
    """
    if not until_packed:
        yield Pictures(file.parent, link=link)
        return
    folder = file.with_name(f"{file.stem}.unpacked")
    try:
        yield Pictures(folder, link=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _describe_split(parts: Mapping[str, Sequence[Record]], sizes: Mapping[str, int], all_rows: int) -> list[str]:
    """Where a split is not what was asked for, to the row, or does not use all of them."""
    rounded = {name: size for name, size in sizes.items() if len(parts[name]) != size}
    told = ", ".join(f"{name} has {len(parts[name])} rows, not {size}" for name, size in rounded.items())
    notes = [f"{told}: pictures stay whole"] if rounded else []
    left = all_rows - sum(map(len, parts.values()))
    return [*notes, f"{left} of {all_rows} rows are in no part of the split"] if left else notes


# ---- what was set aside ----------------------------------------------------------------------------------------


def rejected_file(out: Path) -> Path:
    """Where the list of what was set aside lies: OUT.rejected.jsonl beside OUT.jsonl."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


def write_rejected(rejected: Sequence[Rejected], out: Path) -> None:
    """Write that list, one JSON object of `file, line, reason` a line; no file where nothing was set aside."""
    file = rejected_file(out)
    if not rejected:
        file.unlink(missing_ok=True)  # an earlier run's
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item._asdict()) + "\n" for item in rejected]
    file.write_text("".join(lines), encoding="utf-8", newline="\n")


def refuse_overwriting(source: str | Path, files: Sequence[Path]) -> None:
    """SettingsError where a file to be written is the one that is read, or a folder."""
    for file in files:
        if file.is_dir():
            raise SettingsError(f"{file} is a folder; name a file to write, such as {file / 'records.jsonl'}")
        if file.resolve() == Path(source).resolve():
            raise SettingsError(f"{file} would be overwritten while it is read; name another file to write")


# ---- from found to record --------------------------------------------------------------------------------------


class _Placed(NamedTuple):
    record: Record
    picture: str  # its identity; records without a picture have one each


def _place_all(
    found: Iterator[Found | Rejected], pictures: Pictures, limit: int | None
) -> tuple[list[_Placed], list[Rejected]]:
    """The records that could be made, the first `limit` of them, and what was rejected on the way."""
    placed: list[_Placed] = []
    rejected: list[Rejected] = []
    ids = _Ids()
    for item in found:
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        try:
            placed.append(_place(item, pictures, ids))
        except (RecordError, ImageError) as error:
            rejected.append(Rejected(str(item.file), item.line, str(error)))
        if len(placed) == limit:
            break
    return placed, rejected


def _place(found: Found, pictures: Pictures, ids: _Ids) -> _Placed:
    if not found.question.strip():
        raise RecordError("the question is empty")
    picture = None if found.image is None else pictures.keep(found.image, found.image_name)
    record = Record(
        question=found.question,
        image=picture and picture.path,
        targets=found.targets,
        width=picture and picture.frame.width,
        height=picture and picture.frame.height,
        answer=found.answer,
        extra=found.extra,
    )
    _check_writable(found.id, record, pictures.folder.parent)
    record = replace(record, id=ids.give(found.id))
    return _Placed(record, picture.identity if picture else f"no picture: {record.id}")


def _check_writable(wanted_id: str, record: Record, folder: Path) -> None:
    """RecordError for what JSON or UTF-8 cannot hold, such as half a surrogate pair."""
    try:
        json.dumps([wanted_id, record_to_json(record, folder)], ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError as error:
        raise RecordError(f"the record cannot be written as JSON: {error}") from None


class _Ids:
    """Gives every record a name of its own: the source's, with `-2` and so on behind repeated ones, else a number."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._next: dict[str, int] = {}

    def give(self, wanted: str) -> str:
        base = wanted or str(len(self._given) + 1)
        name = base
        while name in self._given:
            self._next[base] = self._next.get(base, 1) + 1
            name = f"{base}-{self._next[base]}"
        self._given.add(name)
        return name
