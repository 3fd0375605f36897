"""The guard of other abilities: right numbers, a shipped set that can be used, and forgetting that is seen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

import groundling as gl
from groundling.data.check import check
from groundling.errors import RecordError
from groundling.evaluation.compare_page import write_comparison
from groundling.evaluation.compare_text import describe_comparison
from groundling.evaluation.evaluate import measure_guard
from groundling.evaluation.guard import (
    GENERAL_FILE,
    Found,
    Guard,
    compare_guards,
    guard_from_json,
    guard_to_json,
    read_guard,
)
from groundling.evaluation.report import build_report, read_report, write_report
from groundling.inference.batch import IGNORED, encode_record, encode_words, pack_row
from groundling.inference.predict import Grounder
from groundling.model.attention import attend_packed


@pytest.fixture(scope="module")
def questions() -> list[gl.Record]:
    return read_guard("general")


@pytest.fixture(scope="module")
def taught(questions: list[gl.Record]) -> Grounder:
    """The tiny model, taught the answers of the guard: it knows nothing of them by itself, hence cannot forget any."""
    grounder = gl.load("tiny", device="cpu")
    model, processor = grounder.model, grounder.processor
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(12):
        teach(grounder, questions, optimizer)
    assert processor is grounder.processor
    return replace(grounder, checkpoint=None)


def teach(grounder: Grounder, records: list[gl.Record], optimizer: torch.optim.Optimizer) -> None:
    """One step on all the records, each a row of its own token stretch."""
    pictures = [None if record.image is None else Image.open(record.image).convert("RGB") for record in records]
    samples = [encode_record(grounder.processor, *pair) for pair in zip(records, pictures, strict=True)]
    row = pack_row(samples, grounder.processor)
    labels = row.pop("labels")
    with attend_packed(grounder.model):
        logits = grounder.model(**grounder.processor.normalise(row)).logits
    loss = cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def copied(grounder: Grounder) -> Grounder:
    from copy import deepcopy

    return replace(grounder, model=deepcopy(grounder.model))


def measured(grounder: Grounder, questions: list[gl.Record]) -> Guard:
    found = measure_guard(grounder, questions, "general")
    assert found is not None
    return found


# ---- the shipped set -------------------------------------------------------------------------------------------


def test_the_shipped_questions_are_good_records(questions: list[gl.Record]):
    assert 30 <= len(questions) <= 60
    assert not [finding for finding in check(questions) if finding.level == "error"]
    assert len({record.id for record in questions}) == len(questions)
    assert all(record.answer and len(record.answer) <= 12 for record in questions), "a short right answer"
    assert {record.extra["kind"] for record in questions} >= {"colour", "count", "read", "arithmetic", "knowledge"}
    used = {record.image for record in questions if record.image}
    assert used == set((GENERAL_FILE.parent / "images").iterdir()), "every picture is asked about"
    assert sum(record.image is None for record in questions) >= 10


def test_a_file_of_ones_own_has_to_have_answers(tmp_path: Path):
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"question": "What is 1 + 1?", "answer": "2"}\n{"question": "q", "image": "a.png", "targets": []}\n'
    )
    assert [record.question for record in read_guard(own)] == ["What is 1 + 1?"]
    own.write_text('{"question": "q", "image": "a.png", "targets": []}\n')
    with pytest.raises(RecordError, match=r"no record of .*own\.jsonl has an 'answer' text"):
        read_guard(own)
    with pytest.raises(RecordError, match=r"no record file .*nowhere.* 'general'"):
        read_guard(tmp_path / "nowhere.jsonl")


# ---- the numbers -----------------------------------------------------------------------------------------------


def test_likelihoods_are_those_of_each_answer_by_itself(taught: Grounder, questions: list[gl.Record]):
    """Packed rows and shared pictures against one padded-free sample at a time through the stock attention."""
    chosen = [*questions[:6], *questions[-6:]]
    found = measured(taught, chosen)

    for record, one in zip(chosen, found.found, strict=True):
        picture = None if record.image is None else taught.processor.see(Image.open(record.image).convert("RGB"))
        sample = encode_words(taught.processor, record, picture)
        row = taught.processor.normalise(pack_row([sample], taught.processor))
        inputs = {name: value for name, value in row.items() if name not in ("layout", "labels")}
        with torch.no_grad():
            likely = taught.model(**inputs).logits[0].log_softmax(-1)
        places = [place for place, label in enumerate(sample.labels) if label != IGNORED]
        expected = [float(likely[place - 1, sample.labels[place]]) for place in places]
        assert one.tokens == len(expected)
        assert one.mean == pytest.approx(sum(expected) / len(expected), abs=1e-4), record.question
        assert (one.id, one.question, one.answer) == (record.id, record.question, record.answer)


def answer(place: int, mean: float, image: str | None = None) -> Found:
    return Found(str(place), "q", "a", image, 2, mean)


def test_the_mean_weighs_questions_alike_and_draws_pictures_together():
    guard = Guard("own", [answer(0, -1.0), answer(1, -3.0)])
    assert guard.mean == -2
    low, high = guard.ci95
    assert (low, high) == (-3, -1), "of two either may be drawn twice"
    together = Guard("own", [answer(0, -1.0, "a.png"), answer(1, -3.0, "a.png")])
    assert all(math.isnan(end) for end in together.ci95), "one picture shows no spread"


def test_a_guard_survives_the_disk(tmp_path: Path):
    guard = Guard("own", [answer(0, -1.25), answer(1, -3.5, "images/a.png")])
    assert guard_from_json(json.loads(json.dumps(guard_to_json(guard)))) == guard
    write_report(build_report([], contract={}, versions={}, guard=guard), tmp_path)
    assert read_report(tmp_path).guard == guard
    assert "Other abilities" in (tmp_path / "report.html").read_text("utf-8")
    write_report(build_report([], contract={}, versions={}), tmp_path)
    assert read_report(tmp_path).guard is None
    assert "Other abilities" not in (tmp_path / "report.html").read_text("utf-8")


def test_a_likelihood_that_is_no_number_is_no_change(tmp_path: Path):
    broken = Guard("own", [answer(0, math.nan), answer(1, -1.0)])
    write_report(build_report([], contract={}, versions={}, guard=broken), tmp_path)
    found = compare_guards(
        Guard("own", [answer(0, -1.0), answer(1, -1.0)]), read_report(tmp_path).guard, seed=0, draws=9
    )
    assert found is not None and found.verdict == "not measured, since a likelihood is not a number"


def test_a_small_fall_of_all_is_one_and_a_rise_is_none():
    """A fifth of a nat a token, of eight questions: each is a fifth less likely."""
    high, low = (Guard("own", [answer(place, -1.0 - place - fall) for place in range(8)]) for fall in (0.0, 0.2))
    fell, rose = compare_guards(high, low, seed=0, draws=1000), compare_guards(low, high, seed=0, draws=1000)
    assert fell is not None and fell.is_worse and fell.verdict.endswith("other abilities suffered")
    assert rose is not None and not rose.is_worse and rose.verdict.endswith("became more likely")


def test_only_questions_that_both_hold_are_compared():
    before, after = Guard("own", [answer(0, -1.0), answer(1, -2.0)]), Guard("own", [answer(1, -2.5), answer(2, 0.0)])
    found = compare_guards(before, after, seed=0, draws=100)
    assert found is not None
    assert (found.questions, found.change.before, found.change.after) == (1, -2, -2.5)
    assert compare_guards(before, None, seed=0, draws=100) is None
    assert compare_guards(before, Guard("own", [answer(7, -1.0)]), seed=0, draws=100) is None


# ---- forgetting ------------------------------------------------------------------------------------------------


def test_the_same_model_twice_differs_by_exactly_nothing(taught: Grounder, questions: list[gl.Record]):
    before, after = measured(taught, questions), measured(copied(taught), questions)
    found = compare_guards(before, after, seed=0, draws=1000)
    assert found is not None and found.change.difference == 0
    assert found.change.ci95 == (0, 0) and found.change.p == 1 and not found.falls
    assert found.verdict == f"no change that {len(questions)} questions can show"


def test_disturbed_weights_are_seen(taught: Grounder, questions: list[gl.Record]):
    disturbed = copied(taught)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in disturbed.model.parameters():
            weight += 0.3 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
    found = compare_guards(measured(taught, questions), measured(disturbed, questions), seed=0, draws=1000)
    assert found is not None and found.change.ci95[1] < 0 and found.change.is_seen()
    assert found.verdict.endswith("other abilities suffered")


def test_a_model_taught_one_phrase_has_forgotten_the_rest(taught: Grounder, questions: list[gl.Record], tmp_path: Path):
    forgetful = copied(taught)
    optimizer = torch.optim.AdamW(forgetful.model.parameters(), lr=3e-3)
    phrase = [gl.Record(record.question, record.image, answer="the left one") for record in questions]
    for _ in range(6):
        teach(forgetful, phrase, optimizer)
    reports = [
        build_report([], contract={}, versions={}, guard=measured(grounder, questions))
        for grounder in (taught, forgetful)
    ]
    found = compare_guards(reports[0].guard, reports[1].guard, seed=0, draws=1000)

    assert found is not None and found.change.ci95[1] < 0 and found.change.is_seen()
    assert math.exp(found.change.before) > 2 * math.exp(found.change.after), "each right token half as likely"
    drops = [fall.before - fall.after for fall in found.falls]
    assert len(drops) == 5 and min(drops) > 0


def test_compare_shows_it_on_the_page_and_in_markdown(tmp_path: Path):
    from test_groups import report

    one = report([("mug", 20.0, True)] * 4)
    before = replace(one, guard=Guard("general", [answer(place, -0.5) for place in range(9)]))
    after = replace(one, guard=Guard("general", [answer(place, -2.0 - place / 10) for place in range(9)]))
    comparison = gl.compare(before, after)
    write_comparison(comparison, tmp_path)

    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))["guard"]
    assert (value["before"], value["after"], value["questions"]) == (-0.5, pytest.approx(-2.4), 9)
    assert value["ci95"][1] < 0
    for name in ("comparison.html", "comparison.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert "Other abilities" in text and "other abilities suffered" in text and "-1.900" in text
    assert "| q | a | 0.607 | 0.061 |" in (tmp_path / "comparison.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (Guard("general", [answer(0, -1.0)]), None, "not measured (only the first report has a guard)"),
        (None, Guard("general", [answer(0, -1.0)]), "not measured (only the second report has a guard)"),
        (
            Guard("general", [answer(0, -1.0)]),
            Guard("own.jsonl", [answer(7, -1.0)]),
            "not measured (the guards of the two reports, general and own.jsonl, share no question)",
        ),
        (Guard("general", [answer(0, -1.0)]), Guard("general", [answer(0, -1.0)]), None),
        (None, None, None),
    ],
)
def test_a_guard_that_cannot_be_compared_is_told(
    before: Guard | None, after: Guard | None, words: str | None, tmp_path: Path
):
    from test_groups import report

    one = report([("mug", 20.0, True)] * 4)
    comparison = gl.compare(replace(one, guard=before), replace(one, guard=after))
    write_comparison(comparison, tmp_path)

    assert comparison.no_guard == words
    assert (comparison.guard is None) == (before is None or words is not None)
    assert json.loads((tmp_path / "comparison.json").read_text("utf-8"))["no_guard"] == words
    lines = describe_comparison(comparison).splitlines()
    assert (f"other abilities: {words}" in lines) == (words is not None)
    markdown = (tmp_path / "comparison.md").read_text("utf-8")
    assert (f"Other abilities: {words}." in markdown) == (words is not None)
    page = (tmp_path / "comparison.html").read_text("utf-8")
    assert f"N{words[1:]}." in page if words else "ot measured" not in page
