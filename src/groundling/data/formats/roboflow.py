"""Roboflow's JSONL for vision-language models: a picture, what is asked, and what is answered. Two lines (made up):

    {"image": "1.jpg", "prefix": "detect cat ; dog", "suffix": "<loc0256><loc0102><loc0512><loc0800> cat"}
    {"image": "1.jpg", "prefix": "<OD>", "suffix": "cat<loc_52><loc_333><loc_932><loc_774>"}

The first is PaliGemma's: top, left, bottom, right in 1024ths of the picture's sides, then the label. The second is
Florence-2's: the label, then left, top, right, bottom as one of 1000 bins each, whose middle is meant. Any other
suffix is text, and what its numbers count has to be declared, or proven. Sources: the JSONL page of Roboflow's maestro
(2025); processing_paligemma.py and processing_florence2.py of transformers 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groundling.data.formats.chat import Chat, Places, Turn, Unplaced, declared_frame, one_picture, read_chats
from groundling.data.formats.found import Found, Reading, read_id
from groundling.data.record import Rejected
from groundling.dialect.answer import Item
from groundling.errors import RecordError, SettingsError
from groundling.geometry.frame import Frame

_KEYS = ("image", "prefix", "suffix", "id")


def read_roboflow(source: str, reading: Reading) -> Iterator[Found | Rejected | Unplaced]:
    """One question a line, boxes in original pixels; see `read_chats`.

    `source` is a file, or a folder: its `_annotations.train.jsonl`, or `train/annotations.jsonl`, is the part `train`.
    SettingsError for a part that is not there.
    """
    for file in _find_files(Path(source), reading.part):
        yield from read_chats(file, read_chat, reading.frame, reading.images)


def _find_files(path: Path, part: str | None) -> list[Path]:
    files = sorted(path.rglob("*annotations*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise RecordError(f"no *annotations*.jsonl below {path}")
    if part is None:
        return files
    chosen = [file for file in files if _part_of(file) == part]
    if not chosen:
        raise SettingsError(f"there is no part {part!r} in {path}; it has {', '.join(map(_part_of, files))}")
    return chosen


def _part_of(file: Path) -> str:
    """`train` for _annotations.train.jsonl and for train/annotations.jsonl."""
    return file.stem.partition("annotations.")[2] or file.parent.name


def read_chat(entry: dict[str, Any]) -> Chat:
    """The conversation of one line."""
    prefix, suffix, image = entry.get("prefix"), entry.get("suffix"), one_picture(entry.get("image"))
    if not isinstance(prefix, str) or not isinstance(suffix, str) or image is None:
        raise RecordError(f"found the keys {', '.join(entry)}; expected image, and prefix and suffix as texts")
    question = _bare_question(prefix)
    asked = {} if question == prefix else {"prefix": prefix}
    return Chat(
        image=image,
        turns=[Turn(question, suffix, _read_places(prefix, suffix))],
        id=read_id(entry.get("id")),
        extra={key: value for key, value in entry.items() if key not in _KEYS} | asked,
    )


_DETECT = re.compile(r"detect (.+)", re.DOTALL)
_TASK = re.compile(r"<[A-Z_]+>")


def _bare_question(prefix: str) -> str:
    """What is to be found, without the words of one model: cat, dog for both `detect cat ; dog` and its like."""
    detect = _DETECT.fullmatch(prefix.strip())
    if detect:
        return ", ".join(name.strip() for name in detect.group(1).split(";") if name.strip())
    task = _TASK.match(prefix.strip())
    return (prefix.strip()[task.end() :].strip() or "all objects") if task else prefix


# ---- tokens ----------------------------------------------------------------------------------------------------

_PALIGEMMA = re.compile(r"<loc(\d{4})>")
_FLORENCE = re.compile(r"<loc_(\d+)>")
_NO_BOXES = re.compile(r"<[A-Z_]*(?:SEGMENTATION|OCR_WITH_REGION)>")
_END = re.compile(r"<eos>|</?s>")


def _read_places(prefix: str, suffix: str) -> Places | None:
    """The boxes written in tokens; None where there are none. RecordError for tokens that do not make boxes."""
    suffix = _END.sub("", suffix)
    if _FLORENCE.search(suffix):
        if _NO_BOXES.match(prefix.strip()):
            raise RecordError(f"the answer to {prefix[:50]!r} holds polygons, not boxes")
        return Places(tuple(_read_florence(suffix)), declared_frame("thousandths"))
    if _PALIGEMMA.search(suffix):
        return Places(tuple(_read_paligemma(suffix)), lambda original: Frame(1024, 1024))
    return None


def _read_paligemma(suffix: str) -> Iterator[Item]:
    for part in suffix.split(";"):
        (top, left, bottom, right), *more = _in_fours(_PALIGEMMA.findall(part), below=1024)
        if more:
            raise RecordError(f"{part.strip()[:100]!r} holds several boxes; expected one between semicolons")
        label = re.sub(r"<(loc|seg)\d+>", "", part).strip()
        yield Item((left, top, right, bottom), label or None)


def _read_florence(suffix: str) -> Iterator[Item]:
    """Boxes belong to the words before them; where the text begins with one and ends in words, to those after them."""
    words = [part.strip() for part in re.split(r"(?:<loc_\d+>)+", suffix)]
    runs = re.findall(r"(?:<loc_\d+>)+", suffix)
    labels = words[1:] if not words[0] and words[-1] else words[:-1]
    for label, run in zip(labels, runs, strict=True):
        for box in _in_fours(_FLORENCE.findall(run), below=1000):
            yield Item(tuple(number + 0.5 for number in box), label or None)


def _in_fours(digits: Sequence[str], *, below: int) -> list[list[int]]:
    """The numbers of each box, at least one."""
    numbers = [int(digit[:9]) for digit in digits]
    if not numbers or len(numbers) % 4 or max(numbers) >= below:
        raise RecordError(f"{len(numbers)} places {numbers[:8]}; expected four for each box, all below {below}")
    return [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
