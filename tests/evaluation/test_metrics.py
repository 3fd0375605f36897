"""Metrics against numbers worked out on paper, then their properties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import answered
import numpy as np
import pytest

from groundling.data.record import Record, Target
from groundling.dialect.answer import Answer
from groundling.errors import FrameError
from groundling.evaluation.metrics import (
    METRICS,
    OF_THE_ANSWERED,
    Marks,
    Prediction,
    accuracy_curve,
    intervals,
    mark,
    measure,
)
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

PHOTO = Frame(1000, 1000)
SEEN = Frame(980, 980)
BOX = [100.0, 100.0, 300.0, 200.0]


def predict(
    truth: Sequence[Sequence[float]],
    answered: Sequence[Sequence[float]],
    *,
    flaw: str | None = None,
    image: str = "a.jpg",
    point: tuple[float, float] | None = None,
    original: Frame = PHOTO,
) -> Prediction:
    targets = [Target(box=(box[0], box[1], box[2], box[3])) for box in truth]
    targets += [Target(point=point)] if point else []
    record = Record(question="the mug", image=Path(image), targets=tuple(targets))
    answer = Answer(
        boxes=Boxes(answered, original),
        points=Points([], original),
        labels=[None] * len(answered),
        text="",
        flaw=flaw,
        seen=SEEN,
    )
    return Prediction(record, answer, original)


def test_perfect_answers_earn_everything():
    scores = measure([predict([BOX], [BOX]), predict([], [])])

    without_labels = [name for name in METRICS if not name.startswith("label_")]
    assert {name: scores.metrics[name] for name in without_labels} == dict.fromkeys(without_labels, 1.0)
    assert (scores.count_error, scores.count_excess) == (0, 0)
    assert (scores.n, scores.n_single, scores.n_negative) == (2, 1, 1)


def test_a_box_shifted_by_a_quarter_of_its_width_has_iou_three_fifths():
    shifted = [150.0, 100.0, 350.0, 200.0]  # overlap 150, union 250 of 200 + 200, times one height

    scores = measure([predict([BOX], [shifted])])

    assert scores.metrics["miou"] == pytest.approx(0.6)
    assert [scores.metrics[name] for name in ("acc@0.5", "acc@0.75", "acc@0.9")] == [1, 0, 0]
    assert scores.metrics["f1@0.5"] == 1
    assert scores.metrics["f1@0.75"] == 0
    assert math.isnan(scores.metrics["none_recall"]), "no negatives were asked"


def test_iou_of_exactly_the_threshold_counts():
    upper_half = [100.0, 100.0, 300.0, 150.0]

    assert measure([predict([BOX], [upper_half])]).metrics["acc@0.5"] == 1


def test_only_the_first_box_counts_for_one_target():
    miss = [800.0, 800.0, 900.0, 900.0]

    scores = measure([predict([BOX], [miss, BOX])])

    assert scores.metrics["acc@0.5"] == 0
    assert scores.metrics["miou"] == 0
    assert scores.metrics["f1@0.5"] == pytest.approx(2 * 1 / (1 + 2))


def test_an_unreadable_answer_stays_in_every_denominator():
    scores = measure([predict([BOX], [BOX]), predict([BOX], [], flaw="no_boxes")])

    assert scores.metrics["acc@0.5"] == scores.metrics["miou"] == scores.metrics["center_hit"] == 0.5
    assert scores.metrics["f1@0.5"] == pytest.approx(2 * 1 / (2 + 1))
    assert scores.metrics["parse_rate"] == 0.5
    assert scores.flaws == {"no_boxes": 1}


@pytest.mark.parametrize(
    ("center", "hit"), [((200, 150), 1), ((100, 100), 1), ((300, 150), 0), ((200, 200), 0), ((99, 150), 0)]
)
def test_center_hit_is_half_open_as_boxes_are(center: tuple[int, int], hit: int):
    x, y = center
    answered = [x - 2.0, y - 2.0, x + 2.0, y + 2.0]

    assert measure([predict([BOX], [answered])]).metrics["center_hit"] == hit


def test_nothing_to_find_wants_no_box_and_no_flaw():
    predictions = [predict([], []), predict([], [BOX]), predict([], [], flaw="no_boxes"), predict([], [])]

    scores = measure(predictions)

    assert scores.metrics["none_recall"] == 0.5
    assert scores.metrics["f1@0.5"] == 0, "the one answered box has no partner"
    assert math.isnan(scores.metrics["acc@0.5"])


def test_two_answers_cannot_share_one_target():
    scores = measure([predict([BOX, [500, 500, 600, 600]], [BOX, BOX])])

    assert scores.metrics["f1@0.5"] == pytest.approx(2 * 1 / (2 + 2))
    assert scores.n_single == 0


def test_questions_for_points_have_no_part_in_the_metrics_of_boxes():
    scores = measure([predict([], [BOX], point=(5, 5)), predict([BOX], [], point=(5, 5), flaw="no_boxes")])

    assert (scores.n, scores.n_single, scores.n_negative, scores.n_point) == (2, 0, 0, 2)
    assert scores.metrics["parse_rate"] == 0.5
    of_boxes = ("acc@", "miou", "center_hit", "f1@", "precision@", "recall@", "label_")
    assert all(math.isnan(value) for name, value in scores.metrics.items() if name.startswith(of_boxes))


def test_f1_over_all_ious_is_the_mean_of_ten():
    # IoU 0.6 reaches 0.5, 0.55 and 0.6; the second answer is nowhere: f1 is 2 x 1 / (1 + 2) there, and 0 at the others.
    scores = measure([predict([BOX], [[150.0, 100.0, 350.0, 200.0], [800, 800, 900, 900]])])

    assert scores.metrics["f1@miou"] == pytest.approx(0.3 * 2 / 3)
    assert scores.metrics["precision@0.5"] == 0.5
    assert scores.metrics["recall@0.5"] == 1


def test_labels_count_where_a_question_asks_for_several_classes():
    far = [500.0, 500.0, 600.0, 600.0]
    right = answered.predict([("cat", BOX), ("dog", far)], [("Cat", BOX), ("dog", far)])
    swapped = answered.predict([("cat", BOX), ("dog", far)], [("dog", BOX), ("cat", far), ("cat", BOX)])
    one_class = answered.predict([("cat", BOX)], [("dog", BOX)], question="cats")

    scores = measure([right, swapped, one_class])

    assert scores.metrics["label_f1@0.5"] == pytest.approx(2 * (2 + 1) / (4 + 2 + 3)), "the last has no part in it"
    assert scores.metrics["f1@0.5"] == pytest.approx(2 * (2 + 2 + 1) / (5 + 2 + 3 + 1))


def test_labels_do_not_count_where_every_question_asks_for_one_class():
    """Nothing was to be found of a third class; what is made up there does not make its question one for several."""
    found = [answered.predict([(name, BOX)], [(None, BOX)], question=name) for name in ("cat", "dog", "cat", "dog")]
    made_up = answered.predict([], [("zebra", BOX)], question="zebra")

    assert math.isnan(measure([*found, made_up]).metrics["label_f1@0.5"])
    far = [500.0, 500.0, 600.0, 600.0]
    both = answered.predict([("cat", BOX), ("dog", far)], [("cat", BOX)], question="cats and dogs")
    assert measure([*found, both, made_up]).metrics["label_f1@0.5"] == pytest.approx(2 / (3 + 1)), "where one does"


def test_counts_are_of_boxes_and_points():
    far = [500.0, 500.0, 600.0, 600.0]
    predictions = [
        predict([BOX, far], [far, far]),  # 2 of 2, wherever they are
        predict([BOX], [BOX, far, far]),  # 2 too many
        predict([BOX, far], []),  # 2 too few
        predict([], []),  # none of none
        predict([], [], flaw="no_boxes"),  # none, but it did not say so
    ]

    scores = measure(predictions)

    assert scores.metrics["count_exact"] == 2 / 5
    assert (scores.count_error, scores.count_excess) == (4 / 5, 0)


def test_none_is_said_rightly_or_wrongly():
    predictions = [
        predict([], []),
        predict([], [BOX]),
        predict([BOX], []),
        predict([BOX], []),
        predict([BOX], [], flaw="no_boxes"),
        predict([BOX], [BOX]),
    ]

    scores = measure(predictions)

    assert scores.metrics["none_recall"] == 1 / 2
    assert scores.metrics["none_precision"] == pytest.approx(1 / 3), "said of three, true of one"
    assert math.isnan(measure(predictions[4:]).metrics["none_precision"]), "nobody said so"


def test_silence_has_all_but_the_metrics_of_what_was_answered():
    silent = [predict([BOX], [], flaw="empty"), answered.predict([("a", BOX), ("b", BOX)], [], flaw="empty")]
    silent += [predict([], [], flaw="empty")]

    metrics = measure(silent).metrics

    assert {name for name, value in metrics.items() if math.isnan(value)} == set(OF_THE_ANSWERED)


# ---- points ----------------------------------------------------------------------------------------------------


def test_points_earn_by_question():
    nose, ear, far = ("nose", [500, 500]), ("ear", [600, 500]), ("far", [10, 10])
    predictions = [
        answered.predict([nose, ear], [ear, nose]),  # both: F1 1
        answered.predict([nose, ear], [nose, far, far]),  # P 1/3, R 1/2, F1 2/5
        answered.predict([nose], [far]),  # nothing
        answered.predict([], []),  # all of nothing
        answered.predict([], [far]),  # and nothing of it
    ]

    scores = measure(predictions)

    assert scores.metrics["point_f1"] == pytest.approx((1 + 2 / 5 + 0 + 1 + 0) / 5)
    assert scores.metrics["point_precision"] == pytest.approx((1 + 1 / 3 + 0 + 1 + 0) / 5)
    assert scores.metrics["point_recall"] == pytest.approx((1 + 1 / 2 + 0 + 1 + 0) / 5)
    assert scores.metrics["point_hit"] == 0, "of the one question with one target"


@pytest.mark.parametrize(
    ("place", "hit"),
    [
        ([("mug", [100.0, 100.0])], 1),  # half-open, as boxes are
        ([("mug", [300.0, 150.0])], 0),
        ([("mug", [190.0, 140.0, 210.0, 160.0])], 1),  # the middle of a box
        ([("mug", [0.0, 0.0, 150.0, 150.0])], 0),  # (75, 75)
        ([("mug", [500.0, 500.0]), ("mug", [200.0, 150.0])], 0),  # the first counts
        ([("mug", [500.0, 500.0, 600.0, 600.0]), ("mug", [200.0, 150.0])], 1),  # a point goes before a box
        ([], 0),
    ],
)
def test_a_point_hits_the_box_that_it_lies_in(place: list[answered.Labelled], hit: int):
    assert measure([answered.predict([("mug", BOX)], place)]).metrics["point_hit"] == hit


@pytest.mark.parametrize(("x", "hit"), [(500, 1), (600, 1), (601, 0)])
def test_a_point_hits_a_point_within_a_twentieth_of_the_longer_side(x: int, hit: int):
    metrics = measure(
        [answered.predict([("nose", [500, 500])], [("nose", [x, 500])], original=Frame(1000, 2000))]
    ).metrics

    assert metrics["point_hit"] == metrics["point_f1"] == hit


def test_nothing_measured_is_nan_everywhere():
    scores = measure([])

    assert scores.n == 0
    assert all(math.isnan(value) for value in scores.metrics.values())
    assert all(math.isnan(end) for ends in scores.ci95.values() for end in ends)
    assert math.isnan(scores.baselines["random"]["miou"])


def test_an_answer_still_in_the_seen_frame_is_refused():
    good = predict([BOX], [BOX])

    with pytest.raises(FrameError, match=r"980x980.*1000x1000.*answer\.to"):
        Prediction(good.record, good.answer.to(SEEN), PHOTO)


def test_size_bins_are_closed_below():
    sides = {"small": [10, 10], "medium": [50, 100], "large": [500, 100]}  # areas 0.0001, 0.005, 0.05

    scores = measure([predict([[0, 0, *side]], [[0, 0, *side]]) for side in sides.values()])

    assert {name: row["n"] for name, row in scores.by_size.items()} == {"small": 1, "medium": 1, "large": 1}
    assert scores.by_size["small"]["acc@0.5"] == scores.by_size["small"]["miou"] == 1


def test_stretching_the_picture_and_reordering_the_rest_change_no_number():
    answered = [[150.0, 100.0, 350.0, 200.0], [500.0, 500.0, 590.0, 600.0], [0.0, 0.0, 9.0, 9.0]]
    truth = [BOX, [500.0, 500.0, 600.0, 600.0]]
    wide = [2, 1, 2, 1]

    plain = measure([predict(truth, answered), predict([BOX], answered)])
    stretched = measure(
        [
            predict(
                np.multiply([BOX], wide).tolist(), np.multiply(answered, wide).tolist(), original=Frame(2000, 1000)
            ),
            predict(truth[::-1], answered[::-1]),
        ]
    )

    assert stretched.metrics == pytest.approx(plain.metrics, nan_ok=True)


# ---- baselines -------------------------------------------------------------------------------------------------


def test_baselines_find_a_target_that_fills_the_picture():
    scores = measure([predict([[0, 0, 1000, 1000]], [])])

    assert scores.baselines == {"centre": {"acc@0.5": 1, "miou": 1}, "random": {"acc@0.5": 1, "miou": 1}}


def test_the_centre_box_has_the_median_size():
    # Three centred targets, half, half and all of each side: the centre box is half, IoU 1, 1 and 1/4.
    half, full = [250, 250, 750, 750], [0, 0, 1000, 1000]

    scores = measure([predict([half], []), predict([half], []), predict([full], [])])

    assert scores.baselines["centre"]["miou"] == pytest.approx((1 + 1 + 1 / 4) / 3)
    assert scores.baselines["centre"]["acc@0.5"] == pytest.approx(2 / 3)


def test_random_boxes_score_what_the_integral_says():
    # The target is the left half. A half as wide at x in 0..1/2 overlaps it with IoU (1/2 - x) / (1/2 + x): its mean is
    # 2 ln 2 - 1, and it is 1/2 or more for x up to 1/6, a third of the range.
    left_half = [0, 0, 500, 1000]

    scores = measure([predict([left_half], []) for _ in range(100)])

    assert scores.baselines["random"]["miou"] == pytest.approx(2 * math.log(2) - 1, abs=0.01)
    assert scores.baselines["random"]["acc@0.5"] == pytest.approx(1 / 3, abs=0.02)


def test_a_random_predictor_measures_as_the_random_baseline():
    generator = np.random.default_rng(7)
    corners = generator.integers(0, 500, (2000, 2))
    predictions = [
        predict([[0, 0, 500, 1000]], [[x, 0, x + 500, 1000]], image=f"{x}-{y}-{row}")
        for row, (x, y) in enumerate(corners.tolist())
    ]

    scores = measure(predictions, draws=100)

    assert scores.metrics["miou"] == pytest.approx(2 * math.log(2) - 1, abs=0.02)
    assert scores.metrics["miou"] == pytest.approx(scores.baselines["random"]["miou"], abs=0.02)


# ---- intervals -------------------------------------------------------------------------------------------------


def coin_marks(hits: int, questions: int, *, per_picture: int = 1) -> Marks:
    """`hits` of `questions` right, each question asked `per_picture` times of its own picture with one outcome."""
    earned = np.repeat(np.arange(questions) < hits, per_picture).astype(np.float64)[:, None]
    return Marks(earned, np.ones_like(earned), np.repeat(np.arange(questions), per_picture))


def test_interval_agrees_with_the_binomial_one():
    low, high = intervals(coin_marks(160, 400), draws=4000)[:, 0]
    half_width = 1.96 * math.sqrt(0.4 * 0.6 / 400)

    assert low == pytest.approx(0.4 - half_width, abs=0.006)
    assert high == pytest.approx(0.4 + half_width, abs=0.006)


def test_asking_ten_times_about_each_picture_promises_nothing_more():
    once, ten_times = intervals(coin_marks(30, 60)), intervals(coin_marks(30, 60, per_picture=10))

    np.testing.assert_allclose(once, ten_times)


def test_intervals_are_the_same_for_the_same_seed_alone():
    marks = coin_marks(30, 60)

    np.testing.assert_array_equal(intervals(marks, seed=1), intervals(marks, seed=1))
    assert not np.array_equal(intervals(marks, seed=1, draws=50), intervals(marks, seed=2, draws=50))


def test_one_picture_has_no_interval():
    assert np.isnan(intervals(coin_marks(1, 1, per_picture=5))).all()


# ---- curves and order ------------------------------------------------------------------------------------------


def test_the_curve_falls_from_found_to_exact():
    half, exact = [100, 100, 300, 150], BOX  # IoU 0.5 and 1
    curve = accuracy_curve(mark([predict([BOX], [half], image="a"), predict([BOX], [exact], image="b")]))

    assert curve.thresholds[[0, 9, -1]].tolist() == [0.05, 0.5, 0.95]
    assert curve.accuracy[[0, 9, 10, -1]].tolist() == [1, 1, 0.5, 0.5]
    assert (np.diff(curve.accuracy) <= 0).all()


def test_standing_sorts_every_kind_of_question():
    marks = mark(
        [
            predict([BOX], [[150.0, 100.0, 350.0, 200.0]]),
            predict([BOX, [0, 0, 9, 9]], [BOX]),
            predict([], []),
            predict([], [BOX]),
            predict([], [], point=(1, 1)),
        ]
    )

    np.testing.assert_allclose(marks.standing, [0.6, 2 / 3, 1, 0, np.nan])
    np.testing.assert_allclose(marks.iou, [0.6, np.nan, np.nan, np.nan, np.nan])
