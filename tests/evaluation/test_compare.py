"""Before against after: known differences, no difference, and questions without a partner."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from called import Call

from groundling.data.record import Record, Target
from groundling.dialect.answer import Answer
from groundling.errors import RecordError
from groundling.evaluation.compare import compare, comparison_to_json
from groundling.evaluation.compare_page import write_comparison
from groundling.evaluation.metrics import METRICS, Prediction
from groundling.evaluation.report import Report, build_report, read_report, write_report
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

PHOTO = Frame(100, 100)
BOX = (10.0, 10.0, 30.0, 30.0)
MISS = (60.0, 60.0, 80.0, 80.0)


def predict(number: int, is_hit: bool, *, question: str = "the mug", per_picture: int = 1) -> Prediction:
    record = Record(question, Path(f"{number // per_picture}.jpg"), (Target(box=BOX),), id=str(number))
    boxes = Boxes([BOX if is_hit else MISS], PHOTO)
    return Prediction(record, Answer(boxes, Points([], PHOTO), [None], "", None, PHOTO), PHOTO)


def report(hits: list[bool], *, question: str = "the mug", per_picture: int = 1) -> Report:
    predictions = [
        predict(number, is_hit, question=question, per_picture=per_picture) for number, is_hit in enumerate(hits)
    ]
    return build_report(predictions, contract={}, versions={}, name="run")


def test_the_same_answers_differ_by_nothing():
    one = report([True, False] * 20)

    comparison = compare(one, one)

    change = comparison.metrics["acc@0.5"]
    assert change == (0.5, 0.5, 0.0, (0.0, 0.0), 1.0)
    assert (
        comparison.verdict
        == "no difference that 40 questions about 40 pictures can show: acc@0.5 0.00 [0.00, 0.00], p = 1.00"
    )
    assert comparison.warning is None


def test_a_clear_gain_is_called_better_and_its_mirror_worse():
    before, after = report([False] * 60 + [True] * 40), report([False] * 20 + [True] * 80)

    gain, loss = compare(before, after), compare(after, before)

    change = gain.metrics["acc@0.5"]
    assert (change.before, change.after) == (0.4, 0.8)
    assert change.difference == pytest.approx(0.4)
    # 40 of 100 pairs gain 1, the others 0: the interval is the binomial one of a share of 0.4.
    half_width = 1.96 * math.sqrt(0.4 * 0.6 / 100)
    assert change.ci95 == pytest.approx((0.4 - half_width, 0.4 + half_width), abs=0.02)
    assert change.p < 0.001
    assert gain.verdict.startswith("better: acc@0.5 +0.40 [+0.3")
    assert gain.verdict.endswith("p < 0.001")
    assert loss.verdict.startswith("worse: acc@0.5 -0.40 [-0.5")
    assert loss.metrics["acc@0.5"].p == pytest.approx(change.p)


BOXES = {"cup": BOX, "pan": MISS}


def ask_for(number: int, names: str, said: str) -> Prediction:
    """A question for some of two things, and which of them are shown."""
    targets = tuple(Target(box=BOXES[name], label=name) for name in names.split())
    boxes = Boxes([BOXES[name] for name in said.split()], PHOTO)
    answer = Answer(boxes, Points([], PHOTO), list(said.split()), "", None, PHOTO)
    return Prediction(Record("all", Path(f"{number}.jpg"), targets, id=str(number)), answer, PHOTO)


def test_a_loss_of_many_boxes_is_not_hidden_by_a_few_questions_for_one():
    """Every tenth question is for one thing, and its first box stays right; of two things only one is shown."""
    names = ["cup" if number % 10 == 0 else "cup pan" for number in range(60)]
    before, after = (
        build_report(
            [ask_for(number, name, say or name) for number, name in enumerate(names)], contract={}, versions={}
        )
        for say in ("", "cup")
    )

    found = compare(before, after)

    assert found.metrics["acc@0.5"].difference == 0
    assert found.verdict.startswith("worse: f1@0.5 -0.")
    assert found.by_class.metric == "f1@0.5"
    assert {group.name: (group.questions, group.differs) for group in found.by_class.groups} == {
        "cup": (60, False),
        "pan": (54, True),
    }
    (medium,) = found.by_size.groups
    assert (found.by_size.metric, medium.name, medium.questions, medium.differs) == ("recall@0.5", "medium", 60, True)
    assert medium.change.difference == pytest.approx(-54 / 114)


def test_boxes_that_rank_badly_are_not_hidden_by_f1():
    """Cup and pan are always found; wrong boxes beside them become fewer, and from the least sure the surest."""

    def make(wrong: int, score: float) -> Report:
        found: list[Prediction] = []
        for number in range(40):
            one = ask_for(number, "cup pan", "cup pan")
            boxes = Boxes([BOX, MISS, *[(80.0, 5.0, 95.0, 20.0)] * wrong], PHOTO)
            scores = np.array([0.5, 0.5, *[score] * wrong])
            labels = ["cup", "pan", *["cup"] * wrong]
            found.append(replace(one, answer=replace(one.answer, boxes=boxes, labels=labels, scores=scores)))
        return build_report(found, contract={}, versions={})

    found = compare(make(3, 0.1), make(1, 0.9))

    assert found.metrics["f1@0.5"].difference > 0 > found.metrics["map"].difference
    assert re.search(r"^better: f1@0\.5 .*; but map -0\.\d\d$", found.verdict)


@pytest.mark.parametrize(("gains", "verdict"), [(0, "no difference that 20 questions about 20"), (12, "better: acc@")])
def test_what_else_is_seen_to_differ_stands_beside_the_verdict(gains: int, verdict: str):
    """Twenty questions for one thing, and thirty for nothing, which are answered with something afterwards."""

    def make(right: int, said_of_nothing: str) -> Report:
        asked = [ask_for(number, "cup", "cup" if number < right else "pan") for number in range(20)]
        nothing = [ask_for(number, "", said_of_nothing) for number in range(20, 50)]
        return build_report([*asked, *nothing], contract={}, versions={})

    found = compare(make(5, ""), make(5 + gains, "cup"))

    assert found.verdict.startswith(verdict)
    assert re.search(r"; but (f1@0\.5 -0\.\d\d, )?none_recall -1\.00$", found.verdict)
    assert "; but" not in compare(make(5, ""), make(17, "")).verdict, "what goes the same way is no news"


def test_a_protocols_number_is_no_other_number_beside_itself():
    """Seven gains, p 2 in 128, are seen where three other numbers are looked at, and would not be where four are."""

    def verdict(protocol: str | None) -> str:
        asked = [ask_for(number, "cup", "cup" if number % 2 else "pan") for number in range(20)]
        talking, silent = (
            build_report(
                [*asked, *(ask_for(number, "", said) for number in range(20, 27))],
                contract={},
                versions={},
                protocol=protocol,
            )
            for said in ("cup", "")
        )
        return compare(talking, silent).verdict

    assert verdict("refcoco") == verdict(None)
    assert verdict(None).endswith("; but f1@0.5 +0.07, none_recall +1.00")


def nothing_there(said: list[bool], of: str = "cup") -> Report:
    """Questions for what is not there; to some of them something is answered."""
    found = [ask_for(number, "", of if is_said else "") for number, is_said in enumerate(said)]
    return build_report(found, contract={}, versions={})


@pytest.mark.parametrize("still", [0, 3])
def test_where_nothing_is_to_be_found_the_verdict_is_on_what_says_so(still: int):
    found = compare(nothing_there([True] * 15 + [False] * 5), nothing_there([True] * still + [False] * (20 - still)))
    gain = f"{(15 - still) / 20:.2f}"
    assert found.verdict.startswith(f"better: none_recall +{gain} [") and "but" not in found.verdict


def test_a_box_where_there_is_none_does_not_head_a_comparison_of_points():
    def make(is_hit: bool) -> Report:
        points = Points([(20, 20) if is_hit else (80, 80)], PHOTO)
        answer = Answer(Boxes([], PHOTO), points, [None], "", None, PHOTO)
        nose = [
            Prediction(Record("the nose", Path(f"{row}.jpg"), (Target(point=(20, 20)),), id=str(row)), answer, PHOTO)
            for row in range(20)
        ]
        return build_report([*nose, ask_for(20, "", "cup")], contract={}, versions={})

    assert compare(make(False), make(True)).verdict.startswith("better: point_f1 +0.95")


def test_the_verdict_counts_the_questions_that_count_in_either_report():
    # Two answers to nothing count in f1@0.5, whichever report they are in.
    asked = [ask_for(number, "cup pan", "cup") for number in range(3)]
    silent, talking = (
        build_report([*asked, *[ask_for(number, "", said) for number in (3, 4)]], contract={}, versions={})
        for said in ("", "cup")
    )
    for pair in ((silent, talking), (talking, silent)):
        assert compare(*pair).verdict.startswith("no difference that 5 questions about 5 pictures can show: f1@0.5")


def test_the_metric_of_the_verdict_is_in_the_table():
    before, after = (
        build_report([predict(row, is_hit) for row in range(20)], contract={}, versions={}, protocol="screenspot")
        for is_hit in (False, True)
    )
    found = compare(before, after)
    assert found.verdict.startswith("better: point_hit +1.00") and "point_hit" in found.shown
    assert "point_f1" not in found.shown


def test_both_are_held_against_one_truth():
    """The cup is called a pan, and the pan a cup, by both."""

    def make(*labels: str | None) -> Report:
        found = [ask_for(number, "cup pan", "cup pan") for number in range(20)]
        targets = tuple(Target(box=box, label=label) for box, label in zip((BOX, MISS), labels, strict=True))
        wrong = [
            replace(one, answer=replace(one.answer, labels=["pan", "cup"]), record=replace(one.record, targets=targets))
            for one in found
        ]
        return build_report(wrong, contract={}, versions={})

    known = make("cup", "pan")
    for old, new in ((make(None, None), known), (known, make(None, None)), (known, make("pan", "cup"))):
        found = compare(old, new)
        assert (found.metrics["map"].before, found.metrics["map"].after) == (0, 0)
        assert found.metrics["label_f1@miou"].difference == 0
    assert found.made_otherwise == "the two reports were not made alike: labels cup, pan / pan, cup (before / after)"
    assert compare(make("pan", "cup"), known).metrics["map"][:2] == (1, 1), "the first report's, where both have labels"
    assert compare(make("mug", "pan"), known).otherwise == {"labels": ("mug", "cup")}
    assert compare(make(None, None), known).made_otherwise is None, "what one does not tell"


def test_classes_are_in_the_words_of_one_report():
    """Both label some of the boxes, in words of their own: the second one more, so that all is counted in its words."""

    def make(word: str, named: range) -> Report:
        found = [ask_for(number, "cup", "cup") for number in range(20)]
        for number in range(20):
            targets = (Target(box=BOX, label=word if number in named else None),)
            found[number] = replace(found[number], record=replace(found[number].record, targets=targets))
        return build_report(found, contract={}, versions={})

    cats, kitties = make("cat", range(8)), make("kitty", range(6, 15))
    for old, new in ((cats, kitties), (kitties, cats)):
        found = compare(old, new)
        labels = {target.label for pair in found.pairs for one in pair for target in one.record.targets}
        assert labels == {"kitty", None}
        assert [(group.name, group.questions) for group in found.by_class.groups] == [("kitty", 9)]
    equal = compare(make("cat", range(9)), kitties)
    assert [group.name for group in equal.by_class.groups] == ["cat"], "the first report's, where both name as many"


def test_many_labels_that_differ_are_told_by_a_few():
    found = [ask_for(number, "cup", "cup") for number in range(9)]

    def make(word: str) -> Report:
        targets = [(Target(box=BOX, label=f"{word} {number}"),) for number in range(9)]
        named = [
            replace(one, record=replace(one.record, targets=each)) for one, each in zip(found, targets, strict=True)
        ]
        return build_report(named, contract={}, versions={})

    old, new = compare(make("cup"), make("mug")).otherwise["labels"]
    assert old == "cup 0, cup 1, cup 2, cup 3, cup 4 and 4 more" and new == old.replace("cup", "mug")


def test_a_metric_of_one_picture_has_no_interval():
    hits = [predict(number, True) for number in range(10)]
    before, after = (build_report([*hits, ask_for(10, "", said)], contract={}, versions={}) for said in ("cup", ""))
    change = compare(before, after).metrics["none_recall"]
    assert change[:3] == (0, 1, 1) and change.p == 1
    assert math.isnan(change.ci95[0]) and math.isnan(change.ci95[1])
    assert math.isnan(before.ci95["none_recall"][0]) and before.ci95["acc@0.5"] == (1, 1)


def test_p_is_the_exact_share_of_swaps():
    # Three pairs gain: of the 8 ways to swap them two give a difference as large, all and none.
    change = compare(report([False] * 3), report([True] * 3), draws=20_000).metrics["acc@0.5"]

    assert change.p == pytest.approx(2 / 8, abs=0.01)
    assert change.ci95 == (1, 1)


def test_questions_about_one_picture_are_swapped_together():
    # Six gains about three pictures are three pieces of evidence, not six.
    before, after = report([False] * 6, per_picture=2), report([True] * 6, per_picture=2)

    assert compare(before, after, draws=20_000).metrics["acc@0.5"].p == pytest.approx(2 / 8, abs=0.01)


def test_a_difference_in_one_of_three_is_none_that_can_be_shown():
    comparison = compare(report([True, False, False]), report([True, True, False]))

    assert comparison.verdict.startswith("no difference that 3 questions about 3 pictures can show: acc@0.5 +0.33")


def test_questions_without_a_partner_are_counted_and_warned_of():
    before, after = report([True] * 4), report([True] * 6)

    comparison = compare(before, after)

    assert (len(comparison.pairs), comparison.unmatched_before, comparison.unmatched_after) == (4, 0, 2)
    assert comparison.warning is not None
    assert before.records_sha256[:12] in comparison.warning
    assert after.records_sha256[:12] in comparison.warning
    assert comparison.warning.endswith("; 0 of the first report and 2 of the second have no partner")


def test_the_same_line_numbers_of_other_records_do_not_pair():
    before, after = report([True] * 3), report([True] * 3, question="the lamp")

    with pytest.raises(RecordError, match=f"{before.records_sha256[:12]}.*{after.records_sha256[:12]}"):
        compare(before, after)


def test_pairs_go_by_question_where_ids_repeat():
    def two(first: bool, second: bool) -> Report:
        return build_report(
            [predict(0, first, question="a"), predict(0, second, question="b")], contract={}, versions={}
        )

    swapped = two(False, True)
    swapped = build_report(swapped.predictions[::-1], contract={}, versions={})

    comparison = compare(two(False, True), swapped)

    assert [pair.after.record.question for pair in comparison.pairs] == ["a", "b"]
    assert comparison.metrics["acc@0.5"].difference == 0


def test_reports_from_disk_compare_as_those_in_memory(tmp_path: Path):
    before, after = report([True, False, False, True]), report([True, True, False, True])
    write_report(before, tmp_path / "before")
    write_report(after, tmp_path / "after")

    from_disk = compare(read_report(tmp_path / "before"), read_report(tmp_path / "after"))

    assert json.dumps(comparison_to_json(from_disk)) == json.dumps(comparison_to_json(compare(before, after)))


def test_comparison_json_has_a_key_for_each_metric(tmp_path: Path):
    write_comparison(compare(report([True, False]), report([True, True])), tmp_path)

    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))

    assert set(METRICS) <= set(value)
    assert set(value["acc@0.5"]) == {"before", "after", "difference", "ci95", "p"}
    assert value["none_recall"] == {"before": None, "after": None, "difference": None, "ci95": [None, None], "p": None}
    assert (value["matched"], value["unmatched"]) == (2, {"before": 0, "after": 0})


def test_points_are_compared_where_there_are_any(tmp_path: Path):
    def point(number: int, is_hit: bool) -> Prediction:
        record = Record("the nose", Path(f"{number}.jpg"), (Target(point=(20, 20)),), id=str(number))
        points = Points([(20, 20) if is_hit else (80, 80)], PHOTO)
        return Prediction(record, Answer(Boxes([], PHOTO), points, [None], "", None, PHOTO), PHOTO)

    def points(hits: list[bool]) -> Report:
        predictions = [point(number, is_hit) for number, is_hit in enumerate(hits)]
        return build_report(predictions, contract={}, versions={}, name="run")

    found = compare(points([False] * 20), points([True] * 20))

    assert found.verdict.startswith("better: point_f1 +1.00")
    assert {"point_f1", "point_hit", "count_exact"} <= set(found.shown) and "f1@0.5" not in found.shown
    boxes = compare(report([True, False]), report([True, True]))
    assert not math.isnan(boxes.metrics["point_f1"].difference)
    assert not any(name.startswith("point_") for name in boxes.shown)


def ask_for_a_box(number: int, *places: tuple[float, float]) -> Prediction:
    """A question for one box, answered with points."""
    answer = Answer(Boxes([], PHOTO), Points(places, PHOTO), [None] * len(places), "", None, PHOTO)
    return replace(predict(number, True), answer=answer)


INSIDE, OUTSIDE = (20.0, 20.0), (90.0, 90.0)


@pytest.mark.parametrize(
    ("protocol", "places", "by", "standing"),
    [(None, (OUTSIDE, INSIDE), "point_f1", "0.67"), ("screenspot", (INSIDE, OUTSIDE), "point_hit", "1.00")],
)
def test_points_are_shown_and_sorted_by_what_is_judged(
    protocol: str | None, places: tuple[tuple[float, float], ...], by: str, standing: str, tmp_path: Path
):
    """The first comes closer, the next two go further from it, and the last is alike."""
    before = [ask_for_a_box(0, OUTSIDE), ask_for_a_box(1, INSIDE), ask_for_a_box(2, INSIDE), ask_for_a_box(3, INSIDE)]
    after = [ask_for_a_box(0, *places), ask_for_a_box(1, OUTSIDE), ask_for_a_box(2), ask_for_a_box(3, INSIDE)]
    reports = [build_report(each, contract={}, versions={}, protocol=protocol) for each in (before, after)]
    write_comparison(compare(*reports), tmp_path)

    page = (tmp_path / "comparison.html").read_text("utf-8")
    markdown = (tmp_path / "comparison.md").read_text("utf-8").replace("\\", "")

    titles = re.findall(r"<h2>([^<]+) <span class=\"count\">(\d+) question", page)
    assert titles == [("Closer to the truth", "1"), ("Further from the truth", "2"), ("Much the same", "1")]
    assert f"after {standing}</span>" in page and f"By {by} of each question." in page
    assert page.count('<path class="dot before"') == 4 and page.count('<path class="dot after"') == 4
    assert page.count('<rect class="line truth"') == 2 * 4, "on either side"
    assert "How exact the boxes are" not in page
    assert f"By {by} of each question." in markdown and "closer to the truth: 1, further from the truth: 2" in markdown


def test_points_to_find_are_sorted_beside_boxes_and_seen_whole(tmp_path: Path):
    boxes = [predict(number, True) for number in range(6)]

    def make(*places: tuple[float, float]) -> Report:
        answer = Answer(Boxes([], PHOTO), Points(places, PHOTO), [None] * len(places), "", None, PHOTO)
        nose = Prediction(Record("the nose", Path("9.jpg"), (Target(point=(1, 1)),), id="9"), answer, PHOTO)
        return build_report([*boxes, nose], contract={}, versions={})

    write_comparison(compare(make(OUTSIDE), make((2.0, 2.0))), tmp_path)

    page = (tmp_path / "comparison.html").read_text("utf-8")
    closer = page.partition("Closer to the truth")[2].partition("Much the same")[0]
    assert "the nose" in closer and "after 1.00" in closer and "of points by their F1" in closer
    assert 'viewBox="0.0 0.0 100.0 100.0"' in closer, "the point in the one corner, and the answer in the other"


@pytest.mark.parametrize(
    ("protocol", "answered", "told"),
    [
        (
            "refcoco",
            ("points", "points"),
            "8 of 8 answers of the first report and 8 of 8 answers of the second are points",
        ),
        (None, ("boxes", "points"), "8 of 8 answers of the second are points"),
        (None, ("points", "points"), None),
        ("pointing", ("boxes", "points"), None),
        (None, ("boxes", "boxes"), None),
    ],
)
def test_points_in_place_of_boxes_are_told_wherever_the_comparison_is(
    call: Call, protocol: str | None, answered: tuple[str, str], told: str | None, tmp_path: Path
):
    lots = {
        "points": [ask_for_a_box(number, INSIDE) for number in range(8)],
        "boxes": [predict(number, True) for number in range(8)],
    }
    for name, what in zip(("before", "after"), answered, strict=True):
        write_report(build_report(lots[what], contract={}, versions={}, protocol=protocol), tmp_path / name)
    ended = call("compare", tmp_path / "before", tmp_path / "after", "--to", tmp_path)

    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))["pointed"]
    assert [*value.values()] == [8 if what == "points" else 0 for what in answered]
    line = (
        f"{told} alone where boxes are asked for, which all metrics of boxes count as misses: "
        "evaluate --protocol pointing (or screenspot) judges points"
    )
    for text, words in (
        (ended.err, f"warning: {line}\n"),
        ((tmp_path / "comparison.md").read_text("utf-8").replace("\\", ""), f"> {line}.\n"),
        ((tmp_path / "comparison.html").read_text("utf-8"), f'<p class="warning">{line}.</p>'),
    ):
        assert words in text if told else "are points" not in text


def test_the_page_shows_gains_losses_and_the_rest(tmp_path: Path):
    question = "<img src=x onerror=alert(1)></script>"
    before = report([True, False, False, True], question=question)
    after = report([True, True, True, False], question=question)
    write_comparison(compare(before, after), tmp_path)

    page = (tmp_path / "comparison.html").read_text("utf-8")

    titles = re.findall(r"<h2>([^<]+) <span class=\"count\">(\d+) question", page)
    assert titles == [("Closer to the truth", "2"), ("Further from the truth", "1"), ("Much the same", "1")]
    assert page.count("<polyline") == 2, "both curves in one plot"
    assert "<img" not in page
    assert "<script" not in page
    assert "</script>" not in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:|//)", page)


def made(contract: dict[str, Any], options: dict[str, Any] | None) -> Report:
    answers = [predict(number, True) for number in range(4)]
    return build_report(answers, contract=contract, versions={}, name="tiny", options=options)


def test_reports_that_were_made_otherwise_say_so_in_one_line(tmp_path: Path):
    before = made(
        {"max_pixels": 50176, "answer_form": "fenced", "prompt_template": "a" * 70, "trained_on": None, "patch": 14},
        {"free": False, "max_new_tokens": 512},
    )
    after = made(
        {"max_pixels": 7056, "answer_form": "bare", "prompt_template": "b", "trained_on": {"records": 1}, "patch": 14},
        {"free": True, "max_new_tokens": 6},
    )

    comparison = compare(before, after)
    write_comparison(comparison, tmp_path)

    line = (
        "the two reports were not made alike: max_pixels 50176 / 7056, answer_form fenced / bare, prompt_template, "
        "free false / true, max_new_tokens 512 / 6 (before / after)"
    )
    assert comparison.made_otherwise == line
    assert line + "." in (tmp_path / "comparison.md").read_text("utf-8").replace("\\", "")
    page = (tmp_path / "comparison.html").read_text("utf-8")
    assert line + "." in page
    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))["made_otherwise"]
    assert value["max_pixels"] == [50176, 7056] and set(value) == {
        *("max_pixels", "answer_form", "prompt_template", "free", "max_new_tokens")
    }


def test_reports_that_were_made_alike_or_do_not_tell_say_nothing():
    told = made({"max_pixels": 9}, {"free": False})
    assert compare(told, told).made_otherwise is None
    assert compare(told, made({"max_pixels": 9}, None)).made_otherwise is None


def cut(answers: int, of: int = 5) -> Report:
    """The first answers would have gone on."""
    found = [predict(number, True) for number in range(of)]
    full = [replace(one, answer=replace(one.answer, is_full=row < answers)) for row, one in enumerate(found)]
    return build_report(full, contract={}, versions={}, name="run")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (2, 0, "2 of 5 answers of the first report"),
        (0, 1, "1 of 5 answers of the second"),
        (2, 3, "2 of 5 answers of the first report and 3 of 5 answers of the second"),
    ],
)
def test_answers_that_were_cut_are_told_wherever_the_comparison_is(
    call: Call, before: int, after: int, told: str, tmp_path: Path
):
    write_report(cut(before), tmp_path / "before")
    write_report(cut(after), tmp_path / "after")
    ended = call("compare", tmp_path / "before", tmp_path / "after", "--to", tmp_path)

    line = (
        f"{told} would have gone on, had there been room, so recall cannot be compared: "
        "raise --max-new-tokens (in a recipe evaluate.max_new_tokens)"
    )
    assert f"warning: {line}\n" in ended.err
    assert f"> {line}.\n" in (tmp_path / "comparison.md").read_text("utf-8").replace("\\", "")
    assert f'<p class="warning">{line}.</p>' in (tmp_path / "comparison.html").read_text("utf-8")
    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))["full"]
    assert value == {"before": before, "after": after}


def test_only_the_answers_that_are_compared_count_as_cut():
    found = compare(cut(2, of=4), cut(5, of=6))
    assert found.full == (2, 4)
    assert str(found.no_room).startswith("2 of 4 answers of the first report and 4 of 4 answers of the second would")


def test_answers_that_ended_by_themselves_are_no_news(tmp_path: Path):
    write_report(cut(2), tmp_path / "old")
    lines = (tmp_path / "old" / "predictions.jsonl").read_text("utf-8")
    older = re.sub(r'"full": (true|false), ', "", lines)  # as before it was known
    assert older != lines
    (tmp_path / "old" / "predictions.jsonl").write_text(older, "utf-8")

    found = compare(read_report(tmp_path / "old"), cut(0))

    assert found.no_room is None
    write_comparison(found, tmp_path)
    assert "had there been room" not in (tmp_path / "comparison.html").read_text("utf-8")
    assert "had there been room" not in (tmp_path / "comparison.md").read_text("utf-8")


def test_curves_of_one_name_are_told_apart(tmp_path: Path):
    one = made({}, None)
    write_comparison(compare(one, one), tmp_path / "one")
    write_comparison(compare(one, replace(one, name="run")), tmp_path / "two")

    for folder, names in (("one", ["tiny (before)", "tiny (after)"]), ("two", ["tiny", "run"])):
        page = (tmp_path / folder / "comparison.html").read_text("utf-8")
        assert re.findall(r'swatch (?:before|after)"></span>([^<]+)', page)[:2] == names
        assert f"<title>{names[0]} against {names[1]}</title>" in page


def test_misses_that_overlap_a_little_are_closer_and_no_better(tmp_path: Path):
    near = build_report([box_answer((26.0, 26.0, 46.0, 46.0))], contract={}, versions={}, name="run")
    write_comparison(compare(build_report([box_answer(MISS)], contract={}, versions={}), near), tmp_path)

    markdown = (tmp_path / "comparison.md").read_text("utf-8")
    assert "closer to the truth: 0, further from the truth: 0, much the same: 1" in markdown
    nearer = build_report([box_answer((22.0, 22.0, 42.0, 42.0))], contract={}, versions={}, name="run")
    write_comparison(compare(build_report([box_answer(MISS)], contract={}, versions={}), nearer), tmp_path)

    markdown = (tmp_path / "comparison.md").read_text("utf-8")
    assert "closer to the truth: 1, further" in markdown and "may be a miss as before" in markdown
    assert "better" not in markdown.lower().partition("## question by question")[2]


def box_answer(box: tuple[float, float, float, float]) -> Prediction:
    answer = Answer(Boxes([box], PHOTO), Points([], PHOTO), [None], "", None, PHOTO)
    return Prediction(Record("the mug", Path("0.jpg"), (Target(box=BOX),), id="0"), answer, PHOTO)


def test_two_empty_reports_share_no_question():
    with pytest.raises(RecordError, match="share no question"):
        compare(report([]), report([]))
