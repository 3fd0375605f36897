"""Evaluations: those that are broken off go on, and answer as if they had not been."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import groundling as gl
from groundling.evaluation import evaluate as module
from groundling.evaluation.answers import LOG_NAME
from groundling.evaluation.guard import retell_guard
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


@pytest.fixture(scope="module")
def other(grounder: Grounder, tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    """The same model as far as sizes and times of its files tell; one bit of its weights is another."""
    assert grounder.checkpoint is not None
    folder = tmp_path_factory.mktemp("other") / "weights"
    shutil.copytree(grounder.checkpoint.folder, folder)
    (file,) = folder.glob("*.safetensors")
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return replace(grounder, checkpoint=replace(grounder.checkpoint, folder=folder))


class Stopped(Exception):
    """As if by Ctrl-C."""


def stop_after(count: int) -> module.Progress:
    def stop(done: int, _: int) -> None:
        if done == count > 0:
            raise Stopped

    return stop


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions are asked at each call, as they will be."""
    counts: list[int] = []
    before = Grounder.answer_each

    def count(self: Grounder, questions: list[Question], **options: Any):
        counts.append(len(questions))
        return before(self, questions, **options)

    monkeypatch.setattr(Grounder, "answer_each", count)
    return counts


def evaluate(grounder: Grounder, records: list[gl.Record], to: Path, stop: int = 0, **options: Any) -> gl.Report:
    options = {"batch_size": 2, "max_new_tokens": 40} | options
    return module.evaluate(grounder, records, to, progress=stop_after(stop), **options)


@pytest.mark.parametrize("rest", [b'{"place": 23, "te', b""])
def test_a_broken_evaluation_goes_on_where_it_stopped(
    rest: bytes,
    grounder: Grounder,
    records: list[gl.Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    whole = evaluate(grounder, records, tmp_path / "whole")
    with pytest.raises(Stopped):
        evaluate(grounder, records, tmp_path / "broken", stop=10)
    (log,) = (tmp_path / "broken").glob(LOG_NAME)
    with log.open("ab") as file:
        file.write(rest)  # killed while writing, or worse
    counts = count_questions(monkeypatch)

    with caplog.at_level(logging.INFO, logger="groundling"):
        found = evaluate(grounder, records, tmp_path / "broken")

    assert caplog.messages == ["10 of 24 answers were there already"]
    assert counts == [14], "ten of 24 were answered"
    assert report_to_json(found) == report_to_json(whole)
    for name in ("predictions.jsonl", "report.json"):
        ours, theirs = ((tmp_path / folder / name).read_text() for folder in ("broken", "whole"))
        assert SCORES.sub("", ours) == SCORES.sub("", theirs)
    assert scores_of(found) == pytest.approx(scores_of(whole), abs=1e-5), "other questions stood beside theirs"
    assert not log.exists()


SCORES = re.compile(r'"(?:scores|none_score)": [^"]*')


def scores_of(report: gl.Report) -> list[float]:
    return [score for one in report.predictions if one.answer.scores is not None for score in one.answer.scores]


def test_answers_that_were_there_keep_their_scores_to_the_bit(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path
):
    """No question is asked again, so these are those of the log."""
    whole = evaluate(grounder, records[:4], tmp_path / "whole")
    with pytest.raises(Stopped):
        evaluate(grounder, records[:4], tmp_path / "broken", stop=4)

    found = evaluate(grounder, records[:4], tmp_path / "broken")

    assert len(scores_of(found)) >= 4
    assert scores_of(found) == scores_of(whole)


def test_an_answer_that_was_read_otherwise_is_asked_for_again(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(Stopped):
        evaluate(grounder, records[:2], tmp_path, stop=2)
    (log,) = tmp_path.glob(LOG_NAME)
    log.write_text(re.sub(r'"scores": \[[^]]*\]', '"scores": [0.5, 0.5]', log.read_text(), count=1))
    counts = count_questions(monkeypatch)

    evaluate(grounder, records[:2], tmp_path)

    assert counts == [1]


def test_answers_of_several_processes_are_gathered_by_however_many_come_next(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    whole = evaluate(grounder, records, tmp_path / "whole")
    with pytest.raises(Stopped):
        evaluate(grounder, records, tmp_path / "broken", stop=10)
    (log,) = (tmp_path / "broken").glob(LOG_NAME)
    heading, *lines = log.read_text("utf-8").splitlines(keepends=True)
    for process, share in enumerate((lines[:3], lines[3:7], lines[5:])):  # some in two
        other = log.with_name(log.name.replace(".jsonl", f"-{process}.jsonl" if process else ".jsonl"))
        other.write_text("".join([heading, *share]), "utf-8")

    caplog.set_level(logging.INFO, logger="groundling")
    with pytest.raises(Stopped):
        evaluate(grounder, records, tmp_path / "broken", stop=12)
    assert caplog.messages == ["10 of 24 answers were there already"]
    assert list((tmp_path / "broken").glob(LOG_NAME)) == [log], "and are in one log now"

    found = evaluate(grounder, records, tmp_path / "broken")

    assert caplog.messages[1:] == ["12 of 24 answers were there already"]
    assert report_to_json(found) == report_to_json(whole)
    assert not list((tmp_path / "broken").glob(LOG_NAME))


def test_each_evaluation_goes_on_from_answers_of_its_own(
    grounder: Grounder, other: Grounder, records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another one in the same folder takes none of them, and costs none; the first that is complete clears up."""
    counts = count_questions(monkeypatch)
    records = records[:6]
    changed = [replace(records[0], question="the moon"), *records[1:]]
    evaluations: list[tuple[Grounder, list[gl.Record], dict[str, Any]]] = [
        (grounder, records, {}),
        (grounder, changed, {}),
        (other, records, {}),
        (grounder.with_max_tokens(9), records, {}),
        (grounder, records, {"max_new_tokens": 39}),
        (grounder, records, {"free": True}),
    ]
    for model, asked, options in evaluations:
        with pytest.raises(Stopped):
            evaluate(model, asked, tmp_path, stop=2, **options)
    assert counts == [6] * len(evaluations)
    assert len(list(tmp_path.glob(LOG_NAME))) == len(evaluations)

    counts.clear()
    for model, asked, options in evaluations[1:]:
        with pytest.raises(Stopped):
            evaluate(model, asked, tmp_path, stop=4, **options)
    evaluate(grounder, records, tmp_path)

    assert counts == [4] * len(evaluations)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predictions.jsonl", "report.html", "report.json"]


def test_a_finished_report_of_another_evaluation_stays(
    grounder: Grounder,
    other: Grounder,
    records: list[gl.Record],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    records = records[:2]
    first = evaluate(grounder, records, tmp_path)
    assert gl.read_report(tmp_path).options == first.options == {"max_new_tokens": 40, "free": False}
    assert gl.read_report(tmp_path).weights == grounder.weights
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    general, own = retell_guard(first.guard), tmp_path_factory.mktemp("guard") / "own.jsonl"
    own.write_text('{"question": "Who are you?", "answer": "A model."}', "utf-8")
    counts = count_questions(monkeypatch)

    others: list[tuple[Grounder, list[gl.Record], dict[str, Any], str]] = [
        (grounder, [replace(records[0], question="the moon"), records[1]], {}, "differ: records; choose"),
        (other, records, {}, "differ: weights; choose another folder (--to), or delete this one"),
        (grounder.with_max_tokens(9), records, {}, "differ: contract (max_pixels); choose"),
        (grounder, records, {"max_new_tokens": 39}, "differ: max_new_tokens (40, now 39); choose"),
        (grounder, records[:1], {"free": True}, "differ: records, free (False, now True); choose"),
        (grounder, records, {"protocol": "refcoco"}, "differ: protocol (none, now refcoco); choose"),
        (grounder, records, {"guard": None}, f"differ: guard ({general}, now none); choose"),
        (grounder, records, {"guard": own}, f"differ: guard ({general}, now own.jsonl, 1 questions, "),
    ]
    for model, asked, options, words in others:
        with pytest.raises(gl.SettingsError, match=re.escape(words)):
            evaluate(model, asked, tmp_path, **options)
    assert counts == [] and {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files

    evaluate(grounder, records, tmp_path)
    assert counts == [2], "the same one again takes its place"


def test_a_guard_is_known_by_its_questions_and_a_protocol_by_its_name(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path
):
    guard = tmp_path / "own.jsonl"
    guard.write_text('{"question": "Who are you?", "answer": "A model."}', "utf-8")
    evaluate(grounder, records[:1], tmp_path / "report", guard=guard, protocol="refcoco")
    evaluate(grounder, records[:1], tmp_path / "report", guard=guard, protocol="refcoco")
    guard.write_text('{"question": "Who are you?", "answer": "A mule."}', "utf-8")
    with pytest.raises(gl.SettingsError, match=r"differ: guard \(own\.jsonl, 1 questions, .*, now own\.jsonl, 1 q"):
        evaluate(grounder, records[:1], tmp_path / "report", guard=guard, protocol="refcoco")
    with pytest.raises(gl.SettingsError, match=r"differ: protocol \(refcoco, now screenspot\), guard "):
        evaluate(grounder, records[:1], tmp_path / "report", protocol="screenspot")


def test_answers_serve_whatever_the_protocol_and_the_guard(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(Stopped):
        evaluate(grounder, records[:4], tmp_path, stop=2)
    counts = count_questions(monkeypatch)

    evaluate(grounder, records[:4], tmp_path, guard=None, protocol="refcoco")

    assert counts == [2]


def test_an_older_report_and_half_a_report_are_in_nobodys_way(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path
):
    evaluate(grounder, records[:1], tmp_path)
    value = json.loads((tmp_path / "report.json").read_text("utf-8"))
    told = {key: part for key, part in value.items() if key not in ("options", "weights")}
    (tmp_path / "report.json").write_text(json.dumps(told), "utf-8")
    evaluate(grounder, records[:1], tmp_path, max_new_tokens=39, guard=None)
    value["weights"] = "5f" * 32  # by sizes and times
    (tmp_path / "report.json").write_text(json.dumps(value), "utf-8")
    evaluate(grounder, records[:1], tmp_path)
    (tmp_path / "report.json").write_text("{", "utf-8")
    evaluate(grounder, records[:1], tmp_path)


def test_answers_are_kept_until_the_report_is_written(
    grounder: Grounder, records: list[gl.Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def be_killed(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(module, "write_report", be_killed)
        evaluate(grounder, records[:2], tmp_path)
    counts = count_questions(monkeypatch)

    evaluate(grounder, records[:2], tmp_path)

    assert counts == [0]


def test_a_model_in_training_keeps_no_answers(grounder: Grounder, records: list[gl.Record], tmp_path: Path):
    with pytest.raises(Stopped):
        evaluate(replace(grounder, checkpoint=None), records, tmp_path, stop=10)
    assert not list(tmp_path.glob(LOG_NAME))


def test_two_evaluations_at_once_do_not_share_a_folder(grounder: Grounder, records: list[gl.Record], tmp_path: Path):
    """The second is refused while the first is asking, and goes through once it is done."""
    refused: list[str] = []

    def look(_: int, __: int) -> None:
        program = "import sys\nfrom groundling.evaluation.lock import hold_folder\nfrom pathlib import Path\n"
        program += 'with hold_folder(Path(sys.argv[1]), "--to"): pass'
        if not refused:
            done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
            refused.append(done.stderr)

    gl.evaluate(grounder, records, tmp_path, guard=None, progress=look)

    assert f"{tmp_path} is in use by process {os.getpid()} on " in refused[0]
    assert {file.name for file in tmp_path.iterdir()} == {"report.json", "predictions.jsonl", "report.html"}
