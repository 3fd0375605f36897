"""Answers of a model as records, so that they can be exported to where people label, or be trained on.

Two files hold such answers: `predictions.jsonl` of an evaluation, and what `groundling predict --json` prints, a JSON
list. One entry of either (made by hand; the first also has an `id`):

    {"image": "photos/7.jpg", "width": 1024, "height": 681, "question": "the ghost",
     "boxes": [[460, 635, 513, 669]], "labels": ["ghost"], "scores": [0.93], "points": [], "text": "...", "flaw": null}

Of a question whose picture could not be read, `predict` has all but `image` and `question` null, and an `error`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundling.data.formats.found import PictureFolder, read_id, refuse_no_folder
from groundling.data.labelled import SCORE_KEY
from groundling.data.record import Record, Rejected, Scan, Target, is_number, parse_json, read_side
from groundling.errors import RecordError
from groundling.geometry.packed import is_there

UNANSWERED = "not answered"  # begins the reason why a question has no answer
_KEYS = {"image", "question", "boxes"}


def holds_predictions(path: str | Path) -> bool:
    """Whether a file's first entry that can be read has the keys of a prediction; False where there is no file."""
    file = Path(path)
    if not file.is_file():
        return False
    return next((_is_prediction(entry) for _, entry in read_entries(file) if isinstance(entry, dict)), False)


def scan_predictions(path: str | Path, *, images: str | Path | None = None) -> Scan:
    """Every prediction of a file as a record whose targets are the answered places, each with its `score`, if any.

    Pictures lie where the file says: seen from its own folder, else from the current one, which is what `predict` was
    told; or they are looked for in the folder `images`. What a flaw of an answer left out is not there. SettingsError
    where `images` is no folder.
    """
    file = Path(path)
    if images is not None:
        refuse_no_folder(Path(images))
    folder = None if images is None else PictureFolder(Path(images))
    records: list[Record] = []
    rejected: list[Rejected] = []
    for line, entry in read_entries(file):
        try:
            records.append(_read_prediction(entry, file, line, folder))
        except RecordError as error:
            rejected.append(Rejected(str(file), line, str(error)))
    return Scan(records, rejected)


def read_entries(file: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every line, or of every entry of a list.

    RecordError takes the place of a value: of a line that is no JSON, and of a question that was not answered.
    """
    for line, entry in _parse_entries(file):
        yield line, _why_unanswered(entry) or entry


def _why_unanswered(entry: Any) -> RecordError | None:
    if not isinstance(entry, dict) or entry.get("boxes") is not None or not isinstance(entry.get("error"), str):
        return None
    return RecordError(f"{UNANSWERED}: {entry['error']}")


def _parse_entries(file: Path) -> Iterator[tuple[int, Any]]:
    raw = file.read_bytes()
    if raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from enumerate(_parse_or_error(raw, is_list=True), start=1)
        return
    for line, text in enumerate(raw.split(b"\n"), start=1):
        if text.strip():
            yield line, _parse_or_error(text)


def _parse_or_error(raw: bytes, *, is_list: bool = False) -> Any:
    try:
        return parse_json(raw)
    except RecordError as error:
        return [error] if is_list else error


def _is_prediction(entry: dict[str, Any]) -> bool:
    return entry.keys() >= _KEYS and "targets" not in entry


def _read_prediction(entry: Any, file: Path, line: int, folder: PictureFolder | None) -> Record:
    if isinstance(entry, RecordError):
        raise entry
    if not isinstance(entry, dict) or not _is_prediction(entry):
        raise RecordError("no prediction; expected an object with 'image', 'question' and 'boxes'")
    image, question = entry["image"], entry["question"]
    if not isinstance(image, str) or not isinstance(question, str):
        raise RecordError(f"'image' and 'question' are {image!r} and {question!r}; expected texts")
    return Record(
        question=question,
        image=_find_image(image, file) if folder is None else folder.find(image),
        targets=tuple(_read_targets(entry)),
        id=read_id(entry.get("id")) or str(line),
        width=read_side(entry, "width"),
        height=read_side(entry, "height"),
        file=file,
        line=line,
    )


def _find_image(name: str, file: Path) -> Path:
    beside = file.parent / name
    return beside if is_there(beside) or not is_there(Path(name)) else Path(name)


def _read_targets(entry: dict[str, Any]) -> Iterator[Target]:
    """Boxes, then points: the order of the labels. RecordError where the lists do not go together."""
    boxes, points = _list_of(entry, "boxes"), _list_of(entry, "points")
    labels = _list_of(entry, "labels") or [None] * (len(boxes) + len(points))
    scores = _list_of(entry, "scores") or [None] * len(boxes)
    if len(labels) != len(boxes) + len(points) or len(scores) != len(boxes):
        raise RecordError(
            f"{len(boxes)} boxes and {len(points)} points with {len(labels)} labels and {len(scores)} scores; "
            "expected a label for each, and a score for each box"
        )
    strange = [label for label in labels if not isinstance(label, str | None)]
    if strange:
        raise RecordError(f"a label is {strange[0]!r}; expected a text or null")
    for box, label, score in zip(boxes, labels, scores, strict=False):
        yield Target(box=box, label=label, extra={SCORE_KEY: score} if is_number(score) else {})
    for point, label in zip(points, labels[len(boxes) :], strict=True):
        yield Target(point=point, label=label)


def _list_of(entry: dict[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    if value is not None and not isinstance(value, list):
        raise RecordError(f"{key!r} is {value!r}; expected a list")
    return value or []
