"""Which records a step was made of whose loss or gradient is no number, one line each.

{"step": 41, "row": 3, "loss": "nan", "id": "36269", "image": "images/000001.jpg", "question": "the ghost", ...}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.record import Record

BAD_BATCH_FILE = "bad-batch.jsonl"


class RowLoss(NamedTuple):
    """A row of a step by the numbers of its records, and its share of the step's loss."""

    numbers: Sequence[int]
    loss: float


def choose_bad(rows: Sequence[RowLoss]) -> dict[int, RowLoss]:
    """The rows whose loss is no number, by their places; all where each has one, and only the gradient is none."""
    bad = {place: row for place, row in enumerate(rows) if not math.isfinite(row.loss)}
    return bad or dict(enumerate(rows))


def write_bad_batch(file: Path, rows: Sequence[RowLoss], records: Sequence[Record], *, step: int) -> int:
    """Write the records of the bad rows of a step, as they were read; returns how many."""
    lines = [
        {"step": step, "row": place, "loss": row.loss if math.isfinite(row.loss) else str(row.loss)}
        | _told(records[number])
        for place, row in choose_bad(rows).items()
        for number in row.numbers
    ]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def _told(record: Record) -> dict[str, Any]:
    image = None if record.image is None else str(record.image)
    place = {"file": None if record.file is None else str(record.file), "line": record.line}
    return {"id": record.id, "image": image, "question": record.question} | place
