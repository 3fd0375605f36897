"""Detection against numbers worked out on paper, then against pycocotools, then its properties."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from answered import predict
from coco_numbers import FILE, HEIGHT, QUESTION, SIZES, WIDTH, draw_set

from groundling.data.record import Record, Target
from groundling.dialect.score import SCORE_DIGITS
from groundling.evaluation.detection import (
    MOST_BOXES_REORDERED,
    ORDERS,
    Detection,
    detection_from_json,
    detection_to_json,
    measure_detection,
)
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.report import without_nan
from groundling.geometry.frame import Frame

BOX = [100.0, 100.0, 300.0, 200.0]
FAR = [600.0, 600.0, 800.0, 700.0]
SHIFTED = [150.0, 100.0, 350.0, 200.0]  # IoU with BOX 150 / 250 = 0.6


def detect(*predictions: Prediction, **options: bool) -> Detection:
    found = measure_detection(predictions, **options)
    assert found is not None
    return found


def the_class(found: Detection, label: str):
    return next(each for each in found.classes if each.label == label)


# ---- on paper --------------------------------------------------------------------------------------------------


def test_a_perfect_detector_earns_everything():
    truth = [("cat", BOX), ("dog", FAR)]
    found = detect(predict(truth, truth), predict([], [], name="b"), predict(truth[:1], truth[:1], name="c"))

    assert (found.map, found.map50, found.map75) == pytest.approx((1, 1, 1))
    assert found.f1 == {"f1@0.5": 1, "f1@0.75": 1, "f1@miou": 1}
    assert [(each.label, each.targets, each.answered) for each in found.classes] == [("cat", 2, 2), ("dog", 1, 1)]
    assert all(each[3:] == pytest.approx((1, 1, 1, 1, 1)) for each in found.classes)
    assert found.orders is not None and (found.orders.mean, found.orders.sd) == pytest.approx((1, 0))


def test_a_detector_that_is_off_by_a_quarter_earns_what_iou_three_fifths_earns():
    # IoU 0.6 reaches 0.5, 0.55 and 0.6 of the ten thresholds: 3 / 10 of everything.
    found = detect(*(predict([("cat", BOX), ("cat", FAR)], [("cat", SHIFTED)], name=str(row)) for row in range(2)))

    half = 51 / 101  # two of four targets: precision 1 at the recalls 0, 0.01 to 0.5
    assert (found.map50, found.map75) == pytest.approx((half, 0))
    assert found.map == pytest.approx(0.3 * half)
    assert found.f1 == pytest.approx({"f1@0.5": 2 * 2 / (4 + 2), "f1@0.75": 0, "f1@miou": 0.3 * 2 / 3})
    assert the_class(found, "cat")[5:] == pytest.approx((2 / 3, 1, 0.5))


def test_a_wrong_box_that_ranks_first_halves_the_precision():
    # Scores .9 wrong, .8 right: precision at every recall is 1/2. The other way around it is 1.
    answers = [("cat", FAR), ("cat", BOX)]
    first_wrong = detect(predict([("cat", BOX)], answers, scores=[0.9, 0.8]))
    first_right = detect(predict([("cat", BOX)], answers, scores=[0.8, 0.9]))

    assert first_wrong.scored and first_right.scored and first_right.orders is None
    assert (first_wrong.map, first_right.map) == pytest.approx((0.5, 1))
    assert first_wrong.f1 == first_right.f1 == pytest.approx({"f1@0.5": 2 / 3, "f1@0.75": 2 / 3, "f1@miou": 2 / 3})


@pytest.mark.parametrize("score", [0.5, 0.99997])
def test_boxes_rank_by_every_digit_that_a_score_has(score: float):
    """As pycocotools ranks them, so that its numbers for the same scores are these."""
    answers, step = [("cat", FAR), ("cat", BOX)], 10**-SCORE_DIGITS
    surer, less_sure = (detect(predict([("cat", BOX)], answers, scores=[score, score + way * step])) for way in (1, -1))
    assert (surer.map, less_sure.map) == pytest.approx((1, 0.5))


def test_equal_scores_rank_boxes_as_they_were_answered():
    assert detect(predict([("cat", BOX)], [("cat", BOX), ("cat", FAR)])).map == pytest.approx(1)
    assert detect(predict([("cat", BOX)], [("cat", FAR), ("cat", BOX)])).map == pytest.approx(0.5)


def test_random_boxes_are_worth_what_counting_says():
    # The target is the left half; a box as wide begins at x in 0..500, with IoU (500 - x) / (500 + x). IoU t is reached
    # for x up to 500 (1 - t) / (1 + t): the share of the questions that a threshold finds, one third at 0.5.
    dice = random.Random(0)
    starts = [dice.uniform(0, 500) for _ in range(1500)]
    found = detect(
        *(
            predict([("cat", [0, 0, 500, 1000])], [("cat", [x, 0, x + 500, 1000])], name=str(row))
            for row, x in enumerate(starts)
        )
    )
    shares = [(1 - t) / (1 + t) for t in [0.5 + 0.05 * step for step in range(10)]]

    assert found.f1["f1@0.5"] == pytest.approx(1 / 3, abs=0.03), "as many answers as targets: F1 is the share found"
    assert found.f1["f1@miou"] == pytest.approx(sum(shares) / 10, abs=0.02)
    # In random order precision is the share at any depth, and no recall beyond it is reached: AP is its square.
    assert found.map50 == pytest.approx(1 / 9, abs=0.03)
    assert found.map == pytest.approx(sum(share**2 for share in shares) / 10, abs=0.02)


def test_swapped_classes_find_the_places_and_nothing_else():
    found = detect(predict([("cat", BOX), ("dog", FAR)], [("dog", BOX), ("cat", FAR)]))

    assert (found.map, found.map50) == (0, 0)
    assert found.f1 == {"f1@0.5": 0, "f1@0.75": 0, "f1@miou": 0}


def test_no_answer_at_all_is_worth_nothing():
    found = detect(predict([("cat", BOX), ("dog", FAR)], []))

    assert (found.map, found.map50, found.f1["f1@0.5"]) == (0, 0, 0)
    assert not found.scored, "there is nothing that could have a score"
    assert the_class(found, "cat").recall == 0
    assert math.isnan(the_class(found, "cat").precision)


def test_a_class_without_a_target_counts_in_f1_alone():
    found = detect(predict([("cat", BOX)], [("cat", BOX), ("bird", FAR)]), predict([("dog", BOX)], [], name="b"))

    assert found.map == pytest.approx((1 + 0) / 2), "cat 1, dog 0; COCO has no AP for bird"
    assert found.f1["f1@0.5"] == pytest.approx(2 * 1 / (2 + 2))
    bird = the_class(found, "bird")
    assert (bird.targets, bird.answered, bird.f1, bird.precision) == (0, 1, 0, 0)
    assert math.isnan(bird.ap) and math.isnan(bird.recall)


def test_answers_where_nothing_is_to_be_found_lower_the_precision():
    # Six pictures with a cat and two without, cats answered on all: ranked in whatever order, the last target is found
    # with a precision of 6/8 to 1.
    predictions = [predict([("cat", BOX)] if row < 6 else [], [("cat", BOX)], name=str(row)) for row in range(8)]
    found = detect(*predictions)

    assert 6 / 8 <= found.map < 1
    assert the_class(found, "cat").precision == 6 / 8
    assert found.f1["f1@0.5"] == pytest.approx(2 * 6 / (6 + 8))


def test_hundreds_of_rare_classes_beside_a_common_one_each_earn_their_own():
    rare = [[(f"rare {row}", BOX), ("common", FAR)] for row in range(450)]
    found = detect(*(predict(truth, truth[row % 2 :], name=str(row)) for row, truth in enumerate(rare)))

    assert len(found.classes) == 451
    assert found.map == pytest.approx((225 + 1) / 451), "every other rare one is missed"
    assert [each.ap for each in found.classes if each.label in ("common", "rare 0", "rare 1")] == pytest.approx(
        [1, 1, 0]
    )


def test_sizes_are_of_the_targets_in_pixels_and_in_shares():
    # 20 x 20 pixels are small for COCO, and large in a picture of 40 x 40.
    small, picture = [("cat", [0, 0, 20, 20])], Frame(40, 40)
    found = detect(predict(small, small, original=picture), predict([("cat", BOX)], [], name="b"))

    assert found.by_area == pytest.approx({"small": 1, "medium": math.nan, "large": 0}, nan_ok=True)
    # BOX is 200 x 100 of 1000 x 1000: 0.02, medium.
    assert found.by_share == pytest.approx({"small": math.nan, "medium": 0, "large": 1}, nan_ok=True)


def test_nothing_to_find_is_no_detection():
    assert measure_detection([]) is None
    assert measure_detection([predict([], [("cat", BOX)])]) is None
    assert measure_detection([predict([("nose", [5, 5])], [("nose", [5, 5])])]) is None


def test_questions_for_points_have_no_part():
    truth = [("cat", BOX)]
    alone, beside = predict(truth, truth), predict([("cat", BOX), ("nose", [5, 5])], [("cat", FAR)], name="b")

    assert detection_to_json(detect(alone, beside)) == detection_to_json(detect(alone))


def test_scores_count_only_where_every_box_has_one():
    scored = predict([("cat", BOX)], [("cat", FAR), ("cat", BOX)], scores=[0.1, 0.9])
    silent = predict([], [], name="b")
    bare = predict([("cat", BOX)], [("cat", BOX)], name="c")

    assert detect(scored, silent).scored
    assert detect(scored, silent).map == pytest.approx(1)
    assert not detect(scored, bare).scored
    assert not detect(scored, silent, use_scores=False).scored
    assert detect(scored, silent, use_scores=False).map == pytest.approx(0.5)


# ---- against pycocotools ---------------------------------------------------------------------------------------


def predictions_of(kind: str) -> list[Prediction]:
    return [
        predict(
            picture.truth,
            [(label, box) for label, box, _ in picture.answered],
            question=QUESTION,
            name=Path(picture.name).stem,
            scores=None if kind == "unscored" else [score for *_, score in picture.answered],
            original=Frame(WIDTH, HEIGHT),
        )
        for picture in draw_set(kind)
    ]


@pytest.mark.parametrize("kind", ["scored", "unscored", "crowded"])
def test_average_precision_is_that_of_pycocotools(kind: str):
    numbers = json.loads(FILE.read_text(encoding="ascii"))[kind]
    found = detect(*predictions_of(kind))

    assert found.scored == (kind != "unscored")
    for sizes, own in zip(SIZES, (found.by_area, found.by_share), strict=True):
        expected = numbers[sizes]
        for name in ("map", "map50", "map75"):
            assert getattr(found, name) == pytest.approx(expected[name], abs=5e-5), name
        for name in ("small", "medium", "large"):
            wanted = math.nan if expected[name] is None else expected[name]
            assert own[name] == pytest.approx(wanted, abs=5e-5, nan_ok=True), f"{name}, {sizes}"
    for name, ap in numbers["pixels"]["classes"].items():
        assert the_class(found, name).ap == pytest.approx(ap, abs=5e-5), name


def test_the_numbers_on_file_are_those_of_pycocotools_here():
    pytest.importorskip("pycocotools", reason="tests/evaluation/coco_numbers.py says how to install pycocotools")
    import coco_numbers

    measured = {
        kind: {sizes: coco_numbers.measure(draw_set(kind), sizes) for sizes in SIZES}
        for kind in ("scored", "unscored", "crowded")
    }
    assert measured == json.loads(FILE.read_text(encoding="ascii"))


# ---- order -----------------------------------------------------------------------------------------------------


def easy_and_hard() -> list[Prediction]:
    """Twenty pictures answered well, then twenty answered with one box beside the target and one somewhere else."""
    easy = [predict([("cat", BOX)], [("cat", BOX)], name=f"a{row}") for row in range(20)]
    hard = [predict([("cat", BOX)], [("cat", FAR), ("cat", [0, 0, 9, 9])], name=f"b{row}") for row in range(20)]
    return easy + hard


def test_no_order_of_the_records_changes_a_number():
    predictions = easy_and_hard()
    shuffled = random.Random(1).sample(predictions, len(predictions))

    assert detect(*predictions) == detect(*reversed(predictions)) == detect(*shuffled)


def test_pictures_rank_the_same_in_whatever_folder_they_lie():
    predictions = easy_and_hard()
    moved = [
        replace(one, record=replace(one.record, image=Path("elsewhere") / str(one.record.image))) for one in predictions
    ]
    assert detect(*moved) == detect(*predictions)


def test_orders_tell_how_far_the_ranking_is_luck():
    # Easy first: precision 1 to recall 1/2, nothing after, 51/101. Any other order is less, the fixed one among them.
    found = detect(*easy_and_hard())

    assert found.orders is not None
    assert found.orders.n == ORDERS
    assert 0.005 < found.orders.sd < 0.1
    assert found.orders.mean + 3 * found.orders.sd < 51 / 101
    assert abs(found.map - found.orders.mean) < 4 * found.orders.sd


def test_large_sets_are_not_ranked_again():
    box = predict([("cat", BOX)], [("cat", BOX)] * 100)
    many = [replace(box, record=replace(box.record, id=str(row))) for row in range(MOST_BOXES_REORDERED // 101 + 1)]
    assert detect(*many).orders is None
    assert detect(*many[:-1]).orders is not None


# ---- classes ---------------------------------------------------------------------------------------------------


def test_labels_compare_in_lower_case_and_otherwise_exactly():
    def one(label: str) -> float:
        return detect(predict([("Traffic light", BOX), ("dog", FAR)], [(label, BOX), ("dog", FAR)])).f1["f1@0.5"]

    assert one("traffic LIGHT ") == 1
    assert one("traffic-light") == one("traffic lights") == 0.5


def test_a_question_for_one_class_is_answered_in_it_whatever_the_label():
    cats = [predict([("cat", BOX)], [("kitten", BOX)], question="cats", name=f"c{row}") for row in range(2)]
    dogs = [predict([("dog", BOX)], [(None, BOX)], question="dogs", name=f"d{row}") for row in range(2)]
    none = predict([], [("animal", FAR)], question="dogs", name="e")

    found = detect(*cats, *dogs, none)
    assert [(each.label, each.targets, each.answered) for each in found.classes] == [("cat", 2, 2), ("dog", 2, 3)]
    assert the_class(found, "cat").ap == pytest.approx(1)
    assert the_class(found, "dog").precision == pytest.approx(2 / 3)

    at_their_word = detect(*cats, *dogs, none, as_said=True)
    assert at_their_word.map == 0, "no answered label names a class"


def test_expressions_are_no_classes():
    found = detect(
        *(predict([(f"mug {row}", BOX)], [("mug", BOX)], question=f"mug {row}", name=str(row)) for row in range(9))
    )

    assert [(each.label, each.targets) for each in found.classes] == [("", 9)]
    assert found.map == pytest.approx(1)


def test_boxes_without_labels_are_of_one_class():
    found = detect(predict([(None, BOX), (None, FAR)], [(None, BOX), ("mug", FAR)]))

    assert [each.label for each in found.classes] == [""]
    assert found.map == pytest.approx(1)


# ---- on disk ---------------------------------------------------------------------------------------------------


def test_numbers_survive_json():
    for found in (detect(*easy_and_hard()), detect(predict([("cat", BOX)], [("bird", BOX)], scores=[0.5]))):
        text = json.dumps(without_nan(detection_to_json(found)), allow_nan=False)
        assert json.dumps(detection_to_json(detection_from_json(json.loads(text)))) == json.dumps(
            detection_to_json(found)
        )


def test_a_target_far_out_of_its_picture_breaks_nothing():
    record = Record("q", None, (Target(box=(-1e9, -1e9, 1e9, 1e9)), Target(box=(5, 5, 5, 9))))
    one = predict([(None, BOX)], [(None, BOX)])

    assert detect(Prediction(record, one.answer, one.original)).map == 0
