"""Answers kept on disk as they come, so that an evaluation that was broken off goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from groundling.geometry.frame import Frame

ANSWERS_FILE = "answers.jsonl.partial"


class KeptAnswer(NamedTuple):
    """The text answered to a record, and its picture's size as the model saw it and as it is."""

    text: str
    seen: Frame
    original: Frame


class AnswerLog:
    """A file of answers by the place of their question, the first line telling what they are answers to."""

    def __init__(self, file: IO[str], kept: Mapping[int, KeptAnswer]) -> None:
        self.kept = kept
        self._file = file

    def keep(self, place: int, answer: KeptAnswer) -> None:
        """Write an answer down, at once."""
        sizes = {"seen": answer.seen.size_wh, "original": answer.original.size_wh}
        self._file.write(json.dumps({"place": place, "text": answer.text} | sizes) + "\n")
        self._file.flush()


@contextmanager
def open_answers(folder: Path, told: Mapping[str, Any]) -> Iterator[AnswerLog]:
    """The log of a folder, with what it holds already if that answers the same (`told`); else it begins anew.

    It is deleted when the block is left without an error: its answers are in the report then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ANSWERS_FILE
    heading = json.dumps(told, sort_keys=True)
    kept = _read(path, heading)
    with path.open("w", encoding="utf-8") as file:  # whatever a broken write left at the end is gone
        file.write(heading + "\n")
        log = AnswerLog(file, kept)
        for place, answer in kept.items():
            log.keep(place, answer)
        yield log
    path.unlink()


def _read(path: Path, heading: str) -> dict[int, KeptAnswer]:
    """What a log holds of answers to the same, up to a line that is none: the one that was being written."""
    kept: dict[int, KeptAnswer] = {}
    if path.is_file():
        first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        for line in lines if first == heading else []:
            try:
                found = json.loads(line)
                answer = KeptAnswer(str(found["text"]), Frame(*found["seen"]), Frame(*found["original"]))
                kept[int(found["place"])] = answer
            except (ValueError, TypeError, KeyError, RecursionError):
                break
    return kept
