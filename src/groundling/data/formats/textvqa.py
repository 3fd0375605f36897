"""TextVQA_GT_bbox: questions on photographs, one box each, as Parquet. Schema of a row (values made up):

    {"image": {"bytes": b"...", "path": "1.jpg"}, "question": "what brand is it?", "answer": ["acme", "acme"],
     "dataset_id": "36269", "bbox": [460.0, 635.0, 53.0, 34.0]}

`bbox` is left, top, width, height in original pixels. Source: the data set's own Parquet files on the hub; the copy on
ModelScope holds the same ones. Only they are read: `dataset_infos.json`, broken in that copy, is never opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from groundling.data.formats.found import Found, Reading, keep_extra, read_id
from groundling.data.formats.rows import Row, find_folder, find_image, read_rows
from groundling.data.record import Rejected, Target, read_numbers
from groundling.errors import RecordError

COLUMNS = ("image", "question", "bbox")  # needed; `dataset_id` becomes the id, `answer` the extra key `answers`


def read_textvqa(source: str, reading: Reading) -> Iterator[Found | Rejected]:
    """What the Parquet files hold, in order of their names.

    `source` is such a file, a folder of them at any depth, or a data set's name on the hub. RecordError where there are
    none; a file or a row that cannot be read is rejected, and the others are read.
    """
    folder = find_folder(source)
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
    if not files:
        raise RecordError(f"no *.parquet below {folder}; expected the data set's own folder or one of its files")
    for file in files:
        for row in read_rows(file, COLUMNS):
            yield row if isinstance(row, Rejected) else _read_row(row, file, folder if folder.is_dir() else file.parent)


def _read_row(row: Row, file: Path, folder: Path) -> Found | Rejected:
    values = dict(row.values)
    try:
        left, top, width, height = read_numbers(values.pop("bbox"), 4, "bbox")
        image, name = find_image(values.pop("image"), folder)
        question = values.pop("question")
        if not isinstance(question, str):
            raise RecordError(f"the question is {question!r}; expected a text")
        target = Target(box=(left, top, left + width, top + height))
    except RecordError as error:
        return Rejected(str(file), row.line, str(error))
    return Found(
        question=question,
        image=image,
        image_name=name,
        file=file,
        line=row.line,
        targets=(target,),
        id=read_id(values.get("dataset_id")),
        extra=keep_extra({"answers" if key == "answer" else key: value for key, value in values.items()}),
    )
