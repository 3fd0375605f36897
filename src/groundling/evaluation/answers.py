"""Answers kept on disk as they come, so that an evaluation that was broken off goes on where it stopped.

Each evaluation has a log of its own, so another model or budget tried in the same folder costs none of them. Of several
processes that share one out each writes a log; whatever their number, the next start gathers what is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

from groundling.evaluation.processes import from_main_process, this_process
from groundling.geometry.frame import Frame

LOG_NAME = "answers-*.jsonl.partial"  # * is a hash of what they are answers to, and of a further process its number


class KeptAnswer(NamedTuple):
    """The text answered to a record, its picture's size as the model saw it and as it is, and what else is known."""

    text: str
    seen: Frame
    original: Frame
    scores: list[float]  # of the boxes
    none_score: float | None
    is_full: bool


class AnswerLog:
    """A file of answers by the place of their question, the first line telling what they are answers to."""

    def __init__(self, file: IO[str], kept: Mapping[int, KeptAnswer]) -> None:
        self.kept = kept
        self._file = file

    def keep(self, place: int, answer: KeptAnswer) -> None:
        """Write an answer down, at once."""
        self._file.write(_to_line(place, answer))
        self._file.flush()


@contextmanager
def open_answers(folder: Path, told: Mapping[str, Any], *, questions: int) -> Iterator[AnswerLog]:
    """A log in a folder for the evaluation that is `told`, with what its logs hold already of its `questions`.

    Left without an error, the block has put all answers into the report: every log in the folder is deleted then.
    """
    state = this_process()
    heading = json.dumps(told, sort_keys=True)
    name = sha256(heading.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    kept = from_main_process(lambda: _gather(folder, name, heading, questions))
    path = _path(folder, name, state.process_index)
    if not state.is_main_process:
        _write(path, heading, {})
    with path.open("a", encoding="utf-8") as file:
        yield AnswerLog(file, kept)
    state.wait_for_everyone()  # whoever writes the report has written it
    path.unlink(missing_ok=True)
    if state.is_main_process:
        for each in folder.glob(LOG_NAME):
            each.unlink(missing_ok=True)


def _path(folder: Path, name: str, process: int) -> Path:
    return folder / LOG_NAME.replace("*", f"{name}-{process}" if process else name)


def _gather(folder: Path, name: str, heading: str, questions: int) -> dict[int, KeptAnswer]:
    """What all processes of an earlier start had written, now in one log; whatever a broken write left is gone."""
    own = _path(folder, name, 0)
    others = sorted(folder.glob(LOG_NAME.replace("*", f"{name}-*")))
    kept: dict[int, KeptAnswer] = {}
    for path in (own, *others):
        kept |= _read(path, heading, questions)
    _write(own, heading, kept)
    for path in others:
        path.unlink()
    return kept


def _write(path: Path, heading: str, kept: Mapping[int, KeptAnswer]) -> None:
    """At no time is there less at `path` than before."""
    beside = path.with_suffix(".new")
    lines = [heading + "\n", *(_to_line(place, answer) for place, answer in kept.items())]
    beside.write_text("".join(lines), encoding="utf-8")
    os.replace(beside, path)


def _to_line(place: int, answer: KeptAnswer) -> str:
    sizes = {"seen": answer.seen.size_wh, "original": answer.original.size_wh}
    known = {"scores": answer.scores, "none_score": answer.none_score, "is_full": answer.is_full}
    return json.dumps({"place": place, "text": answer.text} | sizes | known) + "\n"


def _read(path: Path, heading: str, questions: int) -> dict[int, KeptAnswer]:
    """What a log holds of answers to the same, up to a line that is none: the one that was being written."""
    kept: dict[int, KeptAnswer] = {}
    if path.is_file():
        first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        for line in lines if first == heading else []:
            try:
                found = json.loads(line)
                place, text = found["place"], found["text"]
                scores = [float(score) for score in found["scores"]]
                none_score = None if found["none_score"] is None else float(found["none_score"])
                sizes = Frame(*found["seen"]), Frame(*found["original"])
                answer = KeptAnswer(text, *sizes, scores, none_score, bool(found["is_full"]))
            except (ValueError, TypeError, KeyError, RecursionError):
                break
            if type(place) is not int or not 0 <= place < questions or not isinstance(text, str):
                break
            kept[place] = answer
    return kept
