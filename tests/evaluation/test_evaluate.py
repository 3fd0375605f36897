"""Evaluations: those that are broken off go on, and answer as if they had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import groundling as gl
from groundling.evaluation import evaluate as module
from groundling.evaluation.answers import ANSWERS_FILE
from groundling.evaluation.report import report_to_json
from groundling.inference.predict import Grounder, Question
from groundling.tiny.scenes import draw_shapes


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[gl.Record]:
    """Two questions about each of twelve drawn scenes, in no order of pictures."""
    import numpy as np

    folder, rng = tmp_path_factory.mktemp("evaluate"), np.random.default_rng(0)
    found: list[gl.Record] = []
    for number in range(12):
        scene = draw_shapes(rng)
        scene.picture.save(folder / f"{number}.png")
        shape = scene.objects[0]
        target = gl.Target(box=shape.box, label=shape.name)
        found.append(gl.Record(f"the {shape.name}", folder / f"{number}.png", targets=(target,), id=f"{number}"))
    return [*found, *(replace(record, question=f"it, {record.question}", id=f"{record.id}-b") for record in found)]


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return gl.load("tiny", device="cpu")


class Stopped(Exception):
    """As if by Ctrl-C."""


def stop_after(count: int) -> module.Progress:
    def stop(done: int, _: int) -> None:
        if done == count:
            raise Stopped

    return stop


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions are asked at each call, as they will be."""
    counts: list[int] = []
    before = Grounder.answer_each

    def count(self: Grounder, questions: list[Question], **options: int):
        counts.append(len(questions))
        return before(self, questions, **options)

    monkeypatch.setattr(Grounder, "answer_each", count)
    return counts


def evaluate(grounder: Grounder, records: list[gl.Record], to: Path, stop: int = 0) -> gl.Report:
    return module.evaluate(grounder, records, to, batch_size=2, max_new_tokens=40, progress=stop_after(stop))


@pytest.mark.parametrize("rest", [b'{"place": 23, "te', b"[]\n", b"{}\n", b"\xff\x00\n", b""])
def test_a_broken_evaluation_goes_on_where_it_stopped(
    rest: bytes, grounder: Grounder, records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = evaluate(grounder, records, tmp_path / "whole")
    with pytest.raises(Stopped):
        evaluate(grounder, records, tmp_path / "broken", stop=10)
    log = tmp_path / "broken" / ANSWERS_FILE
    with log.open("ab") as file:
        file.write(rest)  # killed while writing, or worse
    counts = count_questions(monkeypatch)

    found = evaluate(grounder, records, tmp_path / "broken")

    assert counts == [14], "ten of 24 were answered"
    assert report_to_json(found) == report_to_json(whole)
    for name in ("predictions.jsonl", "report.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not log.exists()


def test_answers_to_something_else_are_not_taken(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counts = count_questions(monkeypatch)
    others = [
        (grounder, [replace(records[0], question="the moon"), *records[1:]]),
        (replace(grounder, weights="others"), records),
        (grounder.with_max_tokens(9), records),
    ]
    for number, (other, asked) in enumerate(others):
        with pytest.raises(Stopped):
            evaluate(grounder, records, tmp_path / f"{number}", stop=10)
        counts.clear()
        evaluate(other, asked, tmp_path / f"{number}")
        assert counts == [24]


def test_a_model_in_training_keeps_no_answers(grounder: Grounder, records: list[gl.Record], tmp_path: Path):
    with pytest.raises(Stopped):
        evaluate(replace(grounder, weights=None), records, tmp_path, stop=10)
    assert not (tmp_path / ANSWERS_FILE).exists()
