"""Before and after in average precision: COCO's numbers on the whole set, and draws that are as if measured anew."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from answered import Labelled, predict
from coco_numbers import FILE
from test_detection_scores import BOX, FAR, SHIFTED, predictions_of

from groundling.evaluation import ranking
from groundling.evaluation.change import Change, swaps
from groundling.evaluation.compare import compare, comparison_to_json
from groundling.evaluation.compare_page import write_comparison
from groundling.evaluation.detection import measure_detection
from groundling.evaluation.metrics import IOUS, METRICS, Prediction
from groundling.evaluation.ranking import DETECTION, Ranked, average_precision, compare_detection
from groundling.evaluation.report import Report, build_report

CAT, DOG = ("cat", BOX), ("dog", FAR)


def change(before: list[Prediction], after: list[Prediction], name: str = "map", **options: bool) -> Change:
    return compare_detection(before, after, draws=200, **options).changes[name]


# ---- on paper --------------------------------------------------------------------------------------------------


def test_three_boxes_are_worth_what_their_ranks_say():
    # Right, wrong, right of two targets: precision 1 up to recall 0.5 (51 of 101), then 2/3 (50).
    ranked = Ranked(np.array([0, 1, 2]), np.array([[True, False, True]]), np.array([1.0, 0, 1]))
    # Picture 1 left out: 1 throughout. Drawn twice: 2/4 at the end. No target drawn: nothing to say.
    weights = np.array([[1.0, 1, 1], [1, 0, 1], [1, 2, 1], [0, 3, 0]])

    found = average_precision(ranked, weights)[:, 0].tolist()

    assert found[:3] == pytest.approx([(51 + 50 * 2 / 3) / 101, 1, (51 + 50 / 2) / 101])
    assert math.isnan(found[3])


def test_one_that_is_never_right_earns_nothing():
    ranked = Ranked(np.array([0]), np.array([[False]]), np.array([2.0]))
    assert average_precision(ranked, np.ones((1, 1))).tolist() == [[0.0]]
    nothing = Ranked(np.array([], dtype=int), np.zeros((1, 0), dtype=bool), np.array([2.0]))
    assert average_precision(nothing, np.ones((1, 1))).tolist() == [[0.0]]


def several(hits: list[bool], wrong: Labelled = ("cat", [0, 0, 9, 9])) -> list[Prediction]:
    """A picture each with a cat and a dog; the cat is found or not."""
    return [predict([CAT, DOG], [CAT if hit else wrong, DOG], name=str(row)) for row, hit in enumerate(hits)]


def test_p_is_the_exact_share_of_swaps():
    # Three pictures gain: of the 8 ways to swap them two give a difference as large, all and none.
    found = compare_detection(several([False] * 3), several([True] * 3)).changes

    assert found["map"][:3] == (0.5, 1, 0.5), "dog is right before and after"
    assert found["map"].p == pytest.approx(2 / 8, abs=0.04)
    assert found["map"].ci95 == pytest.approx((0.5, 0.5))
    assert found["label_f1@miou"].p == pytest.approx(2 / 8, abs=0.02)


def swapping() -> list[Ranked]:
    """Two pictures of a target each: of the first the answer before is right, of the second that after."""

    def say(picture: int, score: float, is_right: bool) -> ranking.Judged:
        return ranking.Judged(picture, picture, np.array([score]), np.full((len(IOUS), 1), is_right), targets=1)

    before = {"cat": [say(0, 0.9, True), say(1, 0.8, False)]}
    after = {"cat": [say(0, 0.7, False), say(1, 0.6, True)]}
    return ranking._rank_together(before, after, 2)


def test_a_swapping_ranks_each_picture_once_on_either_side():
    # As they are: right at 0.9, wrong at 0.8, so 51 of 101 recalls at precision 1; wrong at 0.7, right at 0.6: at 1/2.
    # The first swapped: both wrong against both right. The second: both right against both wrong.
    swapped = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])

    for found in ranking._swap(swapping(), swapped).T:  # of map, map50 and map75
        assert found.tolist() == pytest.approx([-25.5 / 101, 1, -1, 25.5 / 101])


def test_p_counts_the_real_one_and_those_as_large_either_way():
    swapped = np.concatenate(list(swaps(2, 99, seed=0)))
    one_way, other_way = ((swapped == row).all(axis=1).sum() for row in ([1, 0], [0, 1]))
    assert min(one_way, other_way) > 10

    p = ranking._swap_p(swapping(), 2, np.array([25.5 / 101, 1, 1.5]), seed=0, draws=99)

    assert p.tolist() == pytest.approx([1, (1 + one_way + other_way) / 100, 1 / 100])


def test_questions_about_one_picture_are_swapped_and_drawn_together():
    def two_each(is_hit: bool) -> list[Prediction]:
        own = several([is_hit] * 6)
        return [replace(one, record=replace(one.record, image=Path(f"{row // 2}.jpg"))) for row, one in enumerate(own)]

    assert change(two_each(False), two_each(True)).p == pytest.approx(2 / 8, abs=0.08)
    one = [replace(each, record=replace(each.record, image=Path("one.jpg"))) for each in two_each(True)]
    assert math.isnan(change(one, one).ci95[0]), "one picture tells nothing of others"


def test_the_only_picture_with_a_target_has_no_interval():
    nothing = [predict([], [], name=f"none {row}") for row in range(5)]
    found = change([*several([False]), *nothing], [*several([True]), *nothing])
    assert found.difference == 0.5 and found.p == 1 and math.isnan(found.ci95[0])


def test_a_clear_gain_is_seen_and_its_mirror_is_a_loss():
    before, after = several([row % 3 == 0 for row in range(60)]), several([True] * 60)
    gain, loss = change(before, after), change(after, before)

    assert gain.is_seen() and gain.ci95[0] > 0.2
    assert (loss.difference, loss.p) == pytest.approx((-gain.difference, gain.p))
    assert not change(before, several([row % 3 == 1 for row in range(60)])).is_seen(), "as many, elsewhere"
    assert change(before, before)[2:] == (0, (0, 0), 1), "both of the pictures that were drawn"


def test_nothing_is_said_where_accuracy_says_it_all():
    mugs = [predict([(None, BOX)], [(None, SHIFTED)], name=str(row)) for row in range(3)]
    found = compare_detection(mugs, mugs)
    assert found.scored is None and all(math.isnan(each.difference) for each in found.changes.values())
    assert compare_detection(mugs, mugs, as_said=True).changes["map"].before == pytest.approx(0.3)
    points = [predict([("nose", [5, 5])], [("nose", [5, 5])])]
    assert compare_detection(points, points).scored is None


def test_both_are_ranked_by_scores_or_neither():
    # The wrong box is the less sure one. Ranked by scores AP is 1, as they were answered 1/2.
    answers = [("cat", FAR), CAT]
    scored = [predict([CAT, DOG], [*answers, DOG], scores=[0.1, 0.9, 0.9], name=str(row)) for row in range(2)]
    bare = [predict([CAT, DOG], [*answers, DOG], name=str(row)) for row in range(2)]
    silent = [predict([CAT, DOG], [], name=str(row)) for row in range(2)]

    assert change(scored, scored).before == pytest.approx(1)
    assert change(scored, bare).before == pytest.approx((0.5 + 1) / 2)
    assert not compare_detection(scored, bare).scored
    assert compare_detection(silent, scored).scored, "who answers nothing lacks no score"
    assert change(silent, scored)[:2] == pytest.approx((0, 1))
    assert change(scored, scored, use_scores=False).before == pytest.approx((0.5 + 1) / 2)


# ---- against COCO ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scored", "unscored", "crowded"])
def test_on_the_whole_set_the_numbers_are_those_of_pycocotools(kind: str):
    numbers = json.loads(FILE.read_text(encoding="ascii"))[kind]["pixels"]
    predictions = predictions_of(kind)
    found = compare_detection(predictions, predictions, draws=2).changes
    measured = measure_detection(predictions)
    assert measured is not None

    for name in ("map", "map50", "map75"):
        assert found[name].before == found[name].after == pytest.approx(numbers[name], abs=5e-5)
        assert found[name].before == pytest.approx(getattr(measured, name), abs=1e-12), "faster-coco-eval"
    assert found["label_f1@miou"].before == pytest.approx(measured.f1["f1@miou"], abs=1e-12)


def draw_crowd(dice: random.Random, pictures: int, per_picture: int) -> list[Prediction]:
    """Two classes, boxes that overlap one another, near answers, doubles and wrong ones; no two scores are equal."""
    found: list[Prediction] = []
    for row in range(pictures):
        truth: list[Labelled] = []
        answered: list[Labelled] = []
        for _ in range(per_picture):
            left, top = dice.randrange(60), dice.randrange(60)
            truth.append((dice.choice(["cat", "dog"]), [left, top, left + 30, top + 30]))
            for _ in range(dice.choice([0, 1, 1, 2])):
                x, y = left + dice.randrange(-6, 7), top + dice.randrange(-6, 7)
                answered.append((truth[-1][0] if dice.random() < 0.9 else "dog", [x, y, x + 30, y + 30]))
        scores = [number / 10_000 for number in dice.sample(range(10_000), len(answered))]
        found.append(predict(truth, answered, name=str(row), scores=scores))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_crowds_are_worth_what_faster_coco_eval_says(seed: int):
    predictions = draw_crowd(random.Random(seed), 20, 5)  # of a hundred targets, each recall of COCO's is met exactly
    found, measured = compare_detection(predictions, predictions, draws=2).changes, measure_detection(predictions)
    assert measured is not None
    for name in ("map", "map50", "map75"):
        assert found[name].before == pytest.approx(getattr(measured, name), abs=1e-12)


def test_a_recall_that_coco_just_misses_is_missed_here():
    # 57 of 100 are found; 0.57 is below 57 x 0.01 in floating point, so 57 recalls are read at precision 1 and no more.
    ranked = Ranked(np.arange(57), np.ones((1, 57), dtype=bool), np.ones(100))
    assert average_precision(ranked, np.ones((1, 100)))[0, 0] == pytest.approx(57 / 101)


@pytest.mark.parametrize("seed", range(3))
def test_drawing_pictures_again_is_measuring_the_set_that_was_drawn(seed: int):
    """A picture drawn twice is two pictures with the same answers."""
    predictions = [*draw_crowd(random.Random(seed), 12, 3), predict([("bird", BOX)], [], name="rare")]
    drawn = np.append(np.random.default_rng(seed).multinomial(12, [1 / 12] * 12), 0)  # the only bird is not drawn
    again = [
        replace(one, record=replace(one.record, id=f"{one.record.id}-{copy}", image=Path(f"{copy}-{row}.jpg")))
        for row, one in enumerate(predictions)
        for copy in range(drawn[row])
    ]
    measured = measure_detection(again)
    assert measured is not None

    named = ranking.name_all(predictions)
    judged = ranking._judge(predictions, named, np.arange(13), scored=True)
    classes = [ranking._rank(each, 13) for each in judged.values()]
    found = ranking._mean_precision(classes, drawn[None].astype(float))[0]

    assert drawn.max() > 1 and drawn.min() == 0
    assert found.tolist() == pytest.approx([measured.map, measured.map50, measured.map75], abs=1e-12)


# ---- where it is shown -----------------------------------------------------------------------------------------


def report(predictions: list[Prediction], protocol: str | None = None) -> Report:
    return build_report(predictions, contract={}, versions={}, name="run", protocol=protocol)


def test_page_and_markdown_and_json_show_it_beside_the_other_metrics(tmp_path: Path):
    before, after = report(several([False] * 20)), report(several([True] * 20))
    found = compare(before, after, draws=100)
    write_comparison(found, tmp_path)

    assert list(found.shown)[-4:] == list(DETECTION) and set(METRICS) | set(DETECTION) == set(found.metrics)
    assert before.detection is not None and after.detection is not None
    assert (found.metrics["map"].before, found.metrics["map"].after) == (before.detection.map, after.detection.map)
    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))
    assert value["map"]["difference"] == 0.5 and value["map"]["p"] < 0.05 and value["scores"] == "1.0"
    markdown = (tmp_path / "comparison.md").read_text("utf-8")
    assert "| map | 0.500 | 1.000 | +0.500 | +0.500 to +0.500 |" in markdown
    page = (tmp_path / "comparison.html").read_text("utf-8")
    for text in (markdown, page):
        assert "not corrected for how many metrics there are. AP ranks boxes at 1.0 each" in text
    assert all(f"<td>{name}<small>" in page for name in DETECTION)


def test_a_comparison_without_classes_or_several_boxes_has_no_ap():
    one = report([predict([(None, BOX)], [(None, SHIFTED)], name=str(row)) for row in range(3)])
    found = compare(one, one, draws=10)
    assert not set(DETECTION) & set(found.shown)
    assert comparison_to_json(found)["map"]["difference"] is None and comparison_to_json(found)["scores"] is None


def test_two_reports_under_one_protocol_are_compared_by_its_rules_and_its_headline():
    before, after = several([False] * 20), several([True] * 20, wrong=("dog", BOX))
    found = compare(report(before, protocol="odinw"), report(after, protocol="odinw"), draws=100)
    assert found.verdict.startswith("better: map +0.50") and found.scored is False

    mixed = compare(report(before, protocol="odinw"), report(after), draws=100)
    assert mixed.verdict.startswith("better: f1@0.5")
    assert mixed.made_otherwise == "the two reports were not made alike: protocol odinw / none (before / after)"


def test_questions_that_ap_leaves_out_are_not_counted_in_its_verdict():
    point = predict([("nose", (5, 5))], [("nose", (5, 5))], name="z")
    one = report([*several([True] * 6), point], protocol="odinw")
    assert compare(one, one, draws=100).verdict.startswith(
        "no difference that 6 questions about 6 pictures can show: map"
    )
