"""The log of answers: what it gives back, and what it does not believe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from groundling.evaluation.answers import LOG_NAME, KeptAnswer, open_answers
from groundling.geometry.frame import Frame

ANSWER = KeptAnswer('{"bbox_2d": [1, 2, 3, 4]}', Frame(112, 84), Frame(640, 480), [0.1 + 0.2], None, is_full=True)
TOLD = {"weights": "a"}
SURE = '"scores": [], "none_score": 0.5, "is_full": false'
SIZES = f'"seen": [112, 84], "original": [640, 480], {SURE}'


class Stopped(Exception):
    """As if killed."""


def stop(*_: object) -> None:
    raise Stopped


def begin(folder: Path, place: int) -> Path:
    """The log of an evaluation that was broken off after one answer."""
    with pytest.raises(Stopped), open_answers(folder, TOLD, questions=24) as log:
        assert not log.kept
        log.keep(place, ANSWER)
        stop()
    (file,) = folder.glob(LOG_NAME)
    return file


def read(folder: Path) -> dict[int, KeptAnswer]:
    with open_answers(folder, TOLD, questions=24) as log:
        return dict(log.kept)


def test_answers_come_back_once_and_are_gone_when_all_is_done(tmp_path: Path):
    begin(tmp_path, 23)

    assert read(tmp_path) == {23: ANSWER}
    assert not list(tmp_path.iterdir())
    assert read(tmp_path) == {}


def test_a_line_of_the_test_below_would_be_an_answer_if_nothing_were_wrong_with_it(tmp_path: Path):
    file = begin(tmp_path, 3)
    with file.open("a", encoding="utf-8") as log:
        log.write(f'{{"place": 7, "text": "[]", {SIZES}}}\n')

    assert read(tmp_path) == {3: ANSWER, 7: KeptAnswer("[]", Frame(112, 84), Frame(640, 480), [], 0.5, is_full=False)}


@pytest.mark.parametrize(
    "line",
    [
        '{"place": 7, "te',
        "[]",
        "{}",
        "\0",
        *(f'{{"place": {place}, "text": "[]", {SIZES}}}' for place in (999, 24, -1, 7.5, '"7"', "true", "null")),
        f'{{"place": 7, "text": 5, {SIZES}}}',
        f'{{"place": 7, "text": "[]", "seen": [112, 84], "original": ["640", 480], {SURE}}}',
        f'{{"place": 7, "text": "[]", "seen": [112, 84], "original": [0, 480], {SURE}}}',
        *(
            f'{{"place": 7, "text": "[]", "seen": [112, 84], "original": [640, 480]{sure}}}'
            for sure in (
                "",
                ', "scores": []',
                ', "scores": null, "none_score": null',
                ', "scores": ["a"], "none_score": null',
                ', "scores": [[1]], "none_score": null',
                ', "scores": [], "none_score": "a"',
                ', "scores": [], "none_score": null',
            )
        ),
    ],
)
def test_a_line_that_is_no_answer_ends_the_log(line: str, tmp_path: Path):
    file = begin(tmp_path, 3)
    with file.open("a", encoding="utf-8") as log:
        log.write(f'{line}\n{{"place": 8, "text": "[]", {SIZES}}}\n')

    assert read(tmp_path) == {3: ANSWER}


def test_a_log_that_is_told_something_else_begins_anew(tmp_path: Path):
    file = begin(tmp_path, 3)
    file.write_text(file.read_text(encoding="utf-8").replace('"a"', '"b"'), encoding="utf-8")

    assert read(tmp_path) == {}


def test_kept_answers_are_there_while_they_are_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begin(tmp_path, 3)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(os, "replace", stop)
        read(tmp_path)

    assert read(tmp_path) == {3: ANSWER}
    assert not list(tmp_path.iterdir())
