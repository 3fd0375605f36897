"""Answers beside the truth they are held against: rows of a predictions file, each with the record of its id.

A row is a line of an evaluation's `predictions.jsonl`, or less: an `id` with `boxes` (original pixels) or with a `text`
(made by hand):

    {"id": "7", "text": "[{\\"bbox_2d\\": [465, 642, 519, 676]}]", "seen": [1036, 686]}

A row without an `id`, as `predict --json` prints them, goes with the record of its `image` and `question`.

A reader puts corners in order and cuts boxes off at the border, which hides what went wrong. So where a row has a text
that reads as its boxes, the numbers of the text are kept, in the frame they were read in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundling.data.formats.chat import resize_within
from groundling.data.formats.found import read_id
from groundling.data.predictions import read_entries
from groundling.data.record import Record, Rejected, parse_json, read_numbers, read_side
from groundling.dialect.answer import FLAWS, Answer, read_answer, read_items
from groundling.dialect.family import FAMILIES, Budget, find_family
from groundling.errors import ImageError, RecordError, SettingsError
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.report import find_report
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import THOUSANDTHS, Frame
from groundling.geometry.images import read_header
from groundling.model.contract import DEFAULT_MAX_TOKENS, DEFAULT_MIN_TOKENS

_SAME = 1e-3  # of a pixel: boxes that a text was read as, and boxes that are written


@dataclass(frozen=True, eq=False)
class Case:
    """One answered question. `numbers` is (M, 4) as the model wrote them, counting `read`; labels are one a box."""

    record: Record
    original: Frame
    seen: Frame | None  # where it is told
    read: Frame  # what the numbers count: the text's frame, as it was read, or else original pixels
    numbers: np.ndarray
    labels: list[str | None]
    text: str | None
    flaw: str | None
    is_raw: bool  # whether `numbers` come from the text, hence are neither clipped nor put in order
    points: int = 0  # answered points, beside the boxes
    orientation: int = 1  # of the picture's file, where it is at hand
    is_full: bool = False  # whether the answer would have gone on, had there been room

    @property
    def truth(self) -> Boxes:
        """The targets that are boxes."""
        return self.record.true_boxes(self.original)

    @property
    def true_labels(self) -> list[str | None]:
        """One a true box."""
        return [target.label for target in self.record.targets if target.box is not None]

    @property
    def is_single(self) -> bool:
        """Whether there is exactly one target, and that a box."""
        return len(self.record.targets) == 1 and self.record.targets[0].box is not None


class Cases(NamedTuple):
    """Answers with their records, and what found no partner."""

    cases: list[Case]
    rejected: list[Rejected]  # rows that are no answer, or whose record was not found
    unanswered: int  # records without an answer


@dataclass(frozen=True)
class Reading:
    """How the numbers of a text are read where its row does not tell."""

    budget: Budget | None = None  # None: no family is known
    sizes: dict[Path, tuple[Frame, int] | None] = field(default_factory=dict, compare=False, repr=False)

    def header(self, image: Path | None) -> tuple[Frame, int] | None:
        """Upright size and orientation of a picture; None where it is not at hand."""
        if image is None:
            return None
        if image not in self.sizes:
            try:
                found = read_header(image) if image.is_file() else None
            except ImageError:
                found = None
            self.sizes[image] = found and (found.upright, found.orientation)
        return self.sizes[image]


# ---- reading ---------------------------------------------------------------------------------------------------


def read_cases(
    path: str | Path, records: Sequence[Record], *, family: str | None = None, max_tokens: int | None = None
) -> Cases:
    """The answers of a file, or of a report's folder, beside their records. RecordError where none answers a record.

    A text without boxes is read as `family` writes, at `max_tokens` visual tokens, else as `report.json` beside the
    file says; SettingsError where neither is known.
    """
    file = find_report(path) / "predictions.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise RecordError(f"no predictions {file}; `groundling evaluate MODEL RECORDS` writes predictions.jsonl")
    reading = _find_reading(file, family, max_tokens)
    waiting = _Waiting(records, file.parent)
    cases: list[Case] = []
    rejected: list[Rejected] = []
    for line, row in read_entries(file):
        try:
            cases.append(_read_case(row, line, waiting, reading))
        except RecordError as error:
            rejected.append(Rejected(str(file), line, str(error)))
    if not cases:
        reason = f" ({rejected[0].file}:{rejected[0].line}: {rejected[0].reason})" if rejected else ""
        raise RecordError(
            f"no row of {file} answers one of the {len(records)} records{reason}; "
            "give the very record file that the questions came from"
        )
    return Cases(cases, rejected, waiting.count)


def cases_of(predictions: Sequence[Prediction], family: str | None) -> list[Case]:
    """The same of predictions in memory; `family` is their contract's."""
    reading = Reading()
    return [_case_of(each, family, reading) for each in predictions if each.record.answer is None]


def _case_of(prediction: Prediction, family: str | None, reading: Reading) -> Case:
    record, answer = prediction.record, prediction.answer
    found = reading.header(record.image)
    frames = _frames_of(answer.seen, family)
    numbers = _numbers_of(answer.text, answer.boxes, answer.seen, frames)
    return Case(
        record=record,
        original=prediction.original,
        seen=answer.seen,
        read=numbers.read,
        numbers=numbers.numbers,
        labels=numbers.labels or answer.labels[: len(answer.boxes)],
        text=answer.text,
        flaw=answer.flaw,
        is_raw=numbers.is_raw,
        points=len(answer.points),
        orientation=found[1] if found else 1,
        is_full=answer.is_full,
    )


def _find_reading(file: Path, family: str | None, max_tokens: int | None) -> Reading:
    """By the options, else by the contract in the report beside the file."""
    stated = _contract_beside(file)
    name = family or stated.get("family")
    if name is None:
        return Reading()
    known = find_family(name)
    side = known.token_side**2
    least, most = DEFAULT_MIN_TOKENS * side, (max_tokens or DEFAULT_MAX_TOKENS) * side
    if max_tokens is None and stated.get("family") == name:
        least, most = stated.get("min_pixels", least), stated.get("max_pixels", most)
    return Reading(Budget(known, min(least, most), most))


def _contract_beside(file: Path) -> Mapping[str, Any]:
    report = file.with_name("report.json")
    if not report.is_file():
        return {}
    try:
        contract = parse_json(report.read_bytes())["contract"]
    except (RecordError, KeyError, TypeError):
        return {}
    return contract if isinstance(contract, dict) and contract.get("family") in FAMILIES else {}


def _read_case(row: Any, line: int, waiting: _Waiting, reading: Reading) -> Case:
    if isinstance(row, RecordError):
        raise row
    if not isinstance(row, dict) or ("boxes" not in row and "text" not in row):
        raise RecordError("no answer; expected an object with an 'id', and with 'boxes' or a 'text'")
    record = waiting.take(row, line)
    found = reading.header(record.image)
    original = record.declared or _declared(row) or (found and found[0])
    if original is None:
        raise RecordError(f"record {record.id!r} has no width and height, and its picture is not at hand; give either")
    seen = _read_seen(row)
    text = row.get("text") if isinstance(row.get("text"), str) else None
    boxes = _read_boxes(row, original)
    if boxes is None:
        answer = _read_text(text or "", original, seen, reading)
        boxes, labels, flaw, seen = answer.to(original).boxes, answer.labels, answer.flaw, answer.seen
        points = len(answer.points)
    else:
        labels, flaw, points = _read_labels(row, len(boxes)), row.get("flaw"), len(row.get("points") or [])
    family = reading.budget and reading.budget.family.name
    numbers = _numbers_of(text, boxes, seen, _frames_of(seen, family))
    return Case(
        record=record,
        original=original,
        seen=seen,
        read=numbers.read,
        numbers=numbers.numbers,
        labels=numbers.labels or list(labels[: len(boxes)]),
        text=text,
        flaw=flaw if flaw in FLAWS else None,
        is_raw=numbers.is_raw,
        points=points,
        orientation=found[1] if found else 1,
        is_full=row.get("full") is True,
    )


def _declared(row: dict[str, Any]) -> Frame | None:
    width, height = read_side(row, "width"), read_side(row, "height")
    return Frame(width, height) if width and height else None


def _read_seen(row: dict[str, Any]) -> Frame | None:
    if row.get("seen") is None:
        return None
    width, height = read_numbers(row["seen"], 2, "seen")
    if min(width, height) < 1:
        raise RecordError(f"'seen' is {row['seen']!r}; expected the width and height that the model saw")
    return Frame(int(width), int(height))


def _read_boxes(row: dict[str, Any], original: Frame) -> Boxes | None:
    if row.get("boxes") is None:
        return None
    if not isinstance(row["boxes"], list):
        raise RecordError(f"'boxes' is {row['boxes']!r}; expected a list")
    return Boxes([read_numbers(box, 4, f"box {place}") for place, box in enumerate(row["boxes"])], original)


def _read_labels(row: dict[str, Any], boxes: int) -> list[str | None]:
    labels = row.get("labels")
    if labels is None:
        return [None] * boxes
    if not isinstance(labels, list) or len(labels) < boxes or not all(isinstance(each, str | None) for each in labels):
        raise RecordError(f"'labels' is {labels!r}; expected a text or null for each of the {boxes} boxes")
    return labels


def _read_text(text: str, original: Frame, seen: Frame | None, reading: Reading) -> Answer:
    if reading.budget is None:
        raise SettingsError(
            "the answers are texts, and nothing says what their numbers count; "
            f"give --family ({', '.join(FAMILIES)}), and --max-tokens if it was not {DEFAULT_MAX_TOKENS}"
        )
    frame = seen or resize_within(original, reading.budget)
    return read_answer(text, family=reading.budget.family.name, seen=frame)


# ---- which record a row answers ---------------------------------------------------------------------------------


class _Waiting:
    """Records that wait for their answers; each is taken once, so that repeats pair in order."""

    def __init__(self, records: Sequence[Record], folder: Path) -> None:
        self._folder = folder  # of the predictions
        self._by_id: defaultdict[str, list[Record]] = defaultdict(list)
        self._by_name: defaultdict[str, list[Record]] = defaultdict(list)  # of the picture
        for record in records:
            if record.answer is None:
                self._by_id[record.id].append(record)
                if record.image is not None:
                    self._by_name[record.image.name].append(record)

    @property
    def count(self) -> int:
        """Records that are left."""
        return sum(len(left) for left in self._by_id.values())

    def take(self, row: Mapping[str, Any], line: int) -> Record:
        """The record of the row's id; without one, that of its picture, or else of its line. RecordError if none."""
        name, image = read_id(row.get("id")), row.get("image")
        if not name and isinstance(image, str) and image:
            record = self._find_pictured(image, row.get("question"))
        else:
            record = self._find_named(name or str(line), row.get("question"))
        _drop(self._by_id[record.id], record)
        if record.image is not None:
            _drop(self._by_name[record.image.name], record)
        return record

    def _find_named(self, name: str, asked: Any) -> Record:
        """The first of that id, and of the same question where the row says one."""
        left = self._by_id.get(name, [])
        fitting = [each for each in left if asked is None or each.question == asked]
        if fitting:
            return fitting[0]
        if left:
            raise RecordError(f"record {name!r} asks {left[0].question[:80]!r}, the answer is to {str(asked)[:80]!r}")
        raise RecordError(
            f"record {name!r} is answered already" if name in self._by_id else f"there is no record {name!r}"
        )

    def _find_pictured(self, image: str, asked: Any) -> Record:
        """The only one of that picture, or else of a picture of that name, with the row's question."""
        about = f"picture {image!r}" + ("" if asked is None else f" that asks {str(asked)[:80]!r}")
        named = self._by_name.get(Path(image).name, [])
        fitting = [each for each in named if asked is None or each.question == asked]
        paths = {Path(image).resolve(), (self._folder / image).resolve()}
        found = [each for each in fitting if each.image and each.image.resolve() in paths] or fitting
        if not found:
            raise RecordError(f"there is no record left of a {about}; give rows the 'id' of their records")
        if len({(each.image, each.question) for each in found}) > 1:
            raise RecordError(f"{len(found)} records may be that of {about}; give rows the 'id' of their records")
        return found[0]


def _drop(records: list[Record], record: Record) -> None:
    """Takes that very one out, not its equal."""
    del records[next(place for place, each in enumerate(records) if each is record)]


# ---- the numbers behind the boxes ------------------------------------------------------------------------------


class _Numbers(NamedTuple):
    read: Frame
    numbers: np.ndarray
    labels: list[str | None] | None  # None: the row's own
    is_raw: bool


def _frames_of(seen: Frame | None, family: str | None) -> dict[str, Frame]:
    """Families whose reading of a text is tried, with the frame that each takes its numbers to count."""
    names = [family] if family else ["qwen2_5_vl", "qwen3_vl"]
    frames = {name: find_family(name).text_frame(seen or THOUSANDTHS) for name in names}
    return frames if seen else {name: THOUSANDTHS for name in names if FAMILIES[name].coordinates == "thousandths"}


def _numbers_of(text: str | None, boxes: Boxes, seen: Frame | None, frames: Mapping[str, Frame]) -> _Numbers:
    """Those of the text, where it reads as these boxes; else the boxes as they are."""
    for name, frame in frames.items() if text else ():
        items = [item for item in read_items(text or "") if len(item.numbers) == 4]
        if items and _reads_as(text or "", name, seen or THOUSANDTHS, boxes):
            return _Numbers(frame, np.array([item.numbers for item in items]), [item.label for item in items], True)
    return _Numbers(boxes.frame, boxes.xyxy, None, False)


def _reads_as(text: str, family: str, seen: Frame, boxes: Boxes) -> bool:
    found = read_answer(text, family=family, seen=seen).boxes.to(boxes.frame).xyxy
    return found.shape == boxes.xyxy.shape and bool(np.allclose(found, boxes.xyxy, atol=_SAME, rtol=0))
