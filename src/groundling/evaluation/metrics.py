"""Metrics of grounding, with intervals and with baselines to hold them against.

Every metric is a share: what the answers earned over what they could have earned, both summed over the records that the
metric applies to. So a miss, an unreadable answer and a missing box stay in the denominator, and any metric can be
drawn again from other pictures by adding up other rows. The bins of size are those of arXiv 2502.17422.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundling.data.record import Record
from groundling.dialect.answer import Answer
from groundling.errors import FrameError
from groundling.evaluation.classes import Named, name_boxes
from groundling.evaluation.matching import answered_places, count_pairs, find_partners, lies_in, match_points
from groundling.geometry.boxes import Boxes, Points, iou
from groundling.geometry.frame import Frame

METRICS: dict[str, str] = {
    "acc@0.5": "one target: the first box overlaps it with IoU 0.5 or more",
    "acc@0.75": "one target: the first box overlaps it with IoU 0.75 or more",
    "acc@0.9": "one target: the first box overlaps it with IoU 0.9 or more",
    "miou": "one target: mean IoU of the first box; no box counts 0",
    "center_hit": "one target: the middle of the first box lies inside it",
    "f1@0.5": "all boxes: 2 x pairs / (true + answered), pairs one to one with IoU 0.5 or more",
    "f1@0.75": "all boxes: the same with IoU 0.75 or more",
    "f1@miou": "all boxes: mean of the same over IoU 0.5, 0.55 and so on to 0.95",
    "precision@0.5": "all boxes: pairs / answered, with IoU 0.5 or more",
    "recall@0.5": "all boxes: pairs / true, with IoU 0.5 or more",
    "label_f1@0.5": "questions for several classes: f1@0.5 of pairs whose labels agree, too",
    "point_hit": "one target: the first point, or the middle of the first box, lies in it",
    "point_f1": "all questions: mean F1 of points (or middles of boxes) that lie in a target of their own",
    "point_precision": "all questions: mean share of the answered points that do",
    "point_recall": "all questions: mean share of the targets that have such a point",
    "count_exact": "all questions: as many boxes and points as there are targets",
    "none_recall": "nothing to find: readable, and no box or point given",
    "none_precision": "answers that say so: nothing was to be found",
    "parse_rate": "all questions: read without a flaw",
}
"""What each metric says. One target is exactly one, and a box (for point_hit: or a point). Records with a point among
their targets have no part in the metrics of boxes; `point_`, `count_`, `none_` and parse_rate are of all records."""

OF_THE_ANSWERED = ("precision@0.5", "none_precision")
"""The metrics whose denominator is what was answered: no model can be chosen by them, for silence has none."""

ACCURACY_AT = (0.5, 0.75, 0.9)
IOUS = np.linspace(0.5, 0.95, 10).round(2)  # COCO's
CURVE_AT = np.linspace(0.05, 0.95, 19).round(2)
SIZES = {"small": (0.0, 0.005), "medium": (0.005, 0.05), "large": (0.05, np.inf)}  # target area / picture area

_UNIT = Frame(1, 1)  # shares of the picture's sides; stretching changes no IoU
_RANDOM_DRAWS = 200
_WEIGHTS_AT_ONCE = 4_000_000  # numbers in one block of redrawn pictures, to bound memory


@dataclass(frozen=True, eq=False)
class Prediction:
    """A record and what was answered to it. `answer` is in `original`, the picture's own upright frame."""

    record: Record
    answer: Answer
    original: Frame

    def __post_init__(self) -> None:
        if self.answer.boxes.frame != self.original:
            raise FrameError(
                f"{self.record.place}: the answer's boxes count in {self.answer.boxes.frame}, the picture is "
                f"{self.original}; bring them there with answer.to(original)"
            )

    @property
    def truth(self) -> Boxes:
        """The targets that are boxes."""
        return self.record.true_boxes(self.original)

    @property
    def is_single(self) -> bool:
        """Whether there is exactly one target, and that a box."""
        return len(self.record.targets) == len(self.truth) == 1

    @property
    def has_points(self) -> bool:
        """Whether a target is a point: no box metric applies then."""
        return len(self.record.targets) > len(self.truth)

    @property
    def asks_for_boxes(self) -> bool:
        """Whether there are targets, and all are boxes."""
        return len(self.record.targets) == len(self.truth) > 0

    @property
    def answers_points(self) -> bool:
        """Whether points alone are answered where boxes are asked for: all metrics of boxes count that as a miss."""
        return self.asks_for_boxes and len(self.answer.points) > 0 and not len(self.answer.boxes)


@dataclass(frozen=True)
class Scores:
    """The measured numbers of one model on one set of records; a metric that applies to no record is NaN."""

    n: int  # questions
    n_single: int  # of them with exactly one target, a box
    n_negative: int  # of them with nothing to find
    n_point: int  # of them with a point among their targets
    metrics: dict[str, float]
    ci95: dict[str, tuple[float, float]]
    by_size: dict[str, dict[str, float]]  # small, medium, large -> n, acc@0.5, miou
    baselines: dict[str, dict[str, float]]  # centre, random -> acc@0.5, miou
    flaws: dict[str, int]  # code of dialect.answer.FLAWS -> answers that carry it
    full: int = 0  # answers that would have gone on, had there been room (max_new_tokens)
    count_error: float = np.nan  # mean of |answered - true| over the questions
    count_excess: float = np.nan  # mean of answered - true: above 0 for a model that answers too many


def have_one_box(predictions: Sequence[Prediction]) -> bool:
    """Whether each question about boxes is about exactly one, so that the metrics of one target leave none out."""
    return all(one.is_single for one in predictions if one.asks_for_boxes)


def measure(predictions: Sequence[Prediction], *, seed: int = 0, draws: int = 1000) -> Scores:
    """All metrics over the predictions, with 95 % intervals, by size, and beside baselines that see nothing."""
    marks = mark(predictions)
    low, high = intervals(marks, seed=seed, draws=draws)
    singles = [prediction for prediction in predictions if prediction.is_single]
    targets = Boxes([single.truth.to(_UNIT).xyxy[0] for single in singles], _UNIT)
    excess = np.array([count_answered(one.answer) - len(one.record.targets) for one in predictions])
    areas = np.array([single.truth.areas()[0] / single.original.area for single in singles])
    return Scores(
        n=len(predictions),
        n_single=len(singles),
        n_negative=sum(prediction.record.is_negative for prediction in predictions),
        n_point=sum(prediction.has_points for prediction in predictions),
        metrics=_by_name(marks.shares()),
        ci95={name: (float(low[column]), float(high[column])) for column, name in enumerate(METRICS)},
        by_size=_by_size(areas, marks.iou[marks.is_single]),
        baselines={"centre": _summary(_centre_ious(targets)), "random": _summary(_random_ious(targets, seed))},
        flaws=dict(Counter(one.answer.flaw for one in predictions if one.answer.flaw).most_common()),
        full=sum(one.answer.is_full for one in predictions),
        count_error=float(np.abs(excess).mean()) if len(excess) else np.nan,
        count_excess=float(excess.mean()) if len(excess) else np.nan,
    )


def count_answered(answer: Answer) -> int:
    """How many things an answer names, boxes and points."""
    return len(answer.boxes) + len(answer.points)


def count_pointed(predictions: Sequence[Prediction]) -> int:
    """How many questions for boxes are answered with points alone."""
    return sum(one.answers_points for one in predictions)


# ---- one prediction --------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """What one answer adds to the two sums of a metric."""

    earned: float
    possible: float


def judge(prediction: Prediction, named: Named | None = None) -> dict[str, Share]:
    """What a prediction earns, by metric; metrics that do not apply to it are left out.

    The classes of its boxes, `named`, depend on the set that it is of; without them no label is judged.
    """
    record, answer = prediction.record, prediction.answer
    says_none = answer.flaw is None and not len(answer.boxes) and not len(answer.points)
    shares = {"parse_rate": Share(float(answer.flaw is None), 1)} | _judge_points(prediction, says_none)
    if record.is_negative:
        shares["none_recall"] = Share(float(says_none), 1)
    if says_none:
        shares["none_precision"] = Share(float(record.is_negative), 1)
    return shares if prediction.has_points else shares | _judge_boxes(prediction, named)


def _judge_boxes(prediction: Prediction, named: Named | None) -> dict[str, Share]:
    answered, truth = prediction.answer.boxes, prediction.truth
    overlaps = iou(truth, answered)
    pairs = find_partners(overlaps, IOUS).sum(axis=1)
    both = len(truth) + len(answered)
    shares = {
        "f1@0.5": Share(2 * pairs[0], both),
        "f1@0.75": Share(2 * pairs[5], both),
        "f1@miou": Share(2 * pairs.mean(), both),
        "precision@0.5": Share(pairs[0], len(answered)),
        "recall@0.5": Share(pairs[0], len(truth)),
    }
    if named and named.asks_for_several:
        shares["label_f1@0.5"] = Share(2 * count_pairs(overlaps * named.agree(), 0.5), both)
    if prediction.is_single:
        first = float(overlaps[0, 0]) if len(answered) else 0.0
        shares |= {f"acc@{threshold:g}": Share(float(first >= threshold), 1) for threshold in ACCURACY_AT}
        shares["miou"] = Share(first, 1)
        shares["center_hit"] = Share(float(_hits(prediction, answered.centers())), 1)
    return shares


def _judge_points(prediction: Prediction, says_none: bool) -> dict[str, Share]:
    """By question, as Molmo has it: all is earned where nothing is to be found and that is said."""
    record, answer = prediction.record, prediction.answer
    if record.is_negative:
        all_of_it = Share(float(says_none), 1)
        return dict.fromkeys(("point_f1", "point_precision", "point_recall", "count_exact"), all_of_it)
    found = match_points(record, answer, prediction.original)
    shares = {
        "point_f1": 2 * found.hits / (found.true + found.answered),
        "point_precision": found.hits / max(found.answered, 1),
        "point_recall": found.hits / found.true,
        "count_exact": float(count_answered(answer) == found.true),
    }
    if found.true == 1:
        shares["point_hit"] = float(_hits(prediction, answered_places(answer)))
    return {name: Share(earned, 1) for name, earned in shares.items()}


def _hits(prediction: Prediction, places: Points) -> bool:
    """Whether the first of the places lies in the one target."""
    return len(places) > 0 and lies_in(places.xy[0], prediction.record.targets[0].numbers, prediction.original)


# ---- many predictions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Marks:
    """What N predictions earned. `earned` and `possible` are (N, K), a column a metric in the order of METRICS.

    `pictures` is (N,): the number of each one's picture, 0 upwards. A metric does not apply where `possible` is 0.
    """

    earned: np.ndarray
    possible: np.ndarray
    pictures: np.ndarray

    def shares(self) -> np.ndarray:
        """(K,) values of the metrics; NaN where one applies to no prediction."""
        return divide(self.earned.sum(axis=0), self.possible.sum(axis=0))

    def column(self, metric: str) -> np.ndarray:
        """(N,) what each prediction earned of what it could; NaN where the metric does not apply."""
        index = list(METRICS).index(metric)
        return divide(self.earned[:, index], self.possible[:, index])

    def applies(self, metric: str) -> np.ndarray:
        """(N,) whether each prediction counts in the metric."""
        return self.possible[:, list(METRICS).index(metric)] > 0

    @property
    def iou(self) -> np.ndarray:
        """(N,) overlap of the first answered box with the one target; NaN where there is not exactly one."""
        return self.column("miou")

    @property
    def is_single(self) -> np.ndarray:
        """(N,) whether there is exactly one target, a box."""
        return ~np.isnan(self.iou)

    @property
    def standing(self) -> np.ndarray:
        """(N,) one number in 0..1 to sort any predictions by; NaN for those with a point to find.

        The IoU for one target, the prediction's own f1@0.5 for several, and 1 or 0 where there is nothing to find.
        """
        nothing = self.column("none_recall")
        fallback = np.where(np.isnan(nothing), self.column("f1@0.5"), nothing)
        return np.where(self.is_single, self.iou, fallback)


def mark(predictions: Sequence[Prediction]) -> Marks:
    """What each of the predictions, all scored ones, earned."""
    sums = np.zeros((2, len(predictions), len(METRICS)))
    columns = {name: column for column, name in enumerate(METRICS)}
    for row, (prediction, named) in enumerate(zip(predictions, name_all(predictions), strict=True)):
        for name, share in judge(prediction, named).items():
            sums[:, row, columns[name]] = share
    names = [str(prediction.record.image) for prediction in predictions]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return Marks(*sums, pictures=np.array([numbers[name] for name in names], dtype=np.intp))


def worth_showing(predictions: Sequence[Prediction]) -> list[str]:
    """METRICS, but those of points only where a target or an answer is one."""
    points = any(one.has_points or len(one.answer.points) for one in predictions)
    return [name for name in METRICS if points or not is_of_points(name)]


def is_of_points(metric: str) -> bool:
    """Whether a metric judges points, the middles of boxes among them."""
    return metric.startswith("point_")


def name_all(predictions: Sequence[Prediction], *, as_said: bool = False) -> list[Named]:
    """The classes of all boxes, in order; see `classes.name_boxes`."""
    return name_boxes([one.record for one in predictions], [one.answer for one in predictions], as_said=as_said)


def divide(earned: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """`earned / possible`, NaN where nothing was possible."""
    return np.divide(earned, possible, out=np.full(np.shape(earned), np.nan), where=possible > 0)


def _by_name(values: np.ndarray) -> dict[str, float]:
    return dict(zip(METRICS, values.tolist(), strict=True))


# ---- intervals -------------------------------------------------------------------------------------------------


def intervals(marks: Marks, *, seed: int = 0, draws: int = 1000) -> np.ndarray:
    """(2, K) lower and upper ends of 95 % percentile bootstrap intervals of the metrics.

    Pictures are drawn again, not questions: questions about one picture are answered well or badly together, and
    drawing them apart would promise more than was measured. NaN for fewer than two pictures that a metric applies to.
    Where all questions were answered alike the interval has no width, which is no proof that the next ones will be.
    """
    earned, possible = sum_by_picture(marks.earned, marks), sum_by_picture(marks.possible, marks)
    shares = [divide(weights @ earned, weights @ possible) for weights in redraw(len(earned), draws, seed)]
    return percentiles(shares, (possible > 0).sum(axis=0))


def sum_by_picture(values: np.ndarray, marks: Marks) -> np.ndarray:
    """(P, K) sums of the (N, K) values over the questions of each of P pictures."""
    sums = np.zeros((int(marks.pictures.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, marks.pictures, values)
    return sums


def redraw(pictures: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """(rows, P) how often each picture was drawn with replacement, in blocks that make up `draws` rows.

    Nothing for fewer than two pictures: there is no spread to be seen.
    """
    if pictures < 2:
        return
    generator = np.random.default_rng(seed)
    for rows in blocks(draws, pictures):
        drawn = generator.integers(0, pictures, (rows, pictures)) + pictures * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures).astype(np.float64)


def blocks(draws: int, pictures: int) -> Iterator[int]:
    """`draws` cut into numbers of rows whose (rows, P) arrays fit into memory."""
    at_once = max(1, _WEIGHTS_AT_ONCE // pictures)
    for start in range(0, draws, at_once):
        yield min(at_once, draws - start)


def percentiles(shares: Sequence[np.ndarray], pictures: np.ndarray) -> np.ndarray:
    """(2, K) the middle 95 % of (rows, K) blocks, draws to which a metric did not apply left out; NaN without any.

    `pictures` is (K,): to how many pictures each applies. Fewer than two show no spread, and the ends are NaN.
    """
    drawn = np.concatenate([np.empty((0, len(pictures))), *shares])
    ends = np.full((2, len(pictures)), np.nan)
    usable = (pictures > 1) & ~np.isnan(drawn).all(axis=0)
    ends[:, usable] = np.nanpercentile(drawn[:, usable], [2.5, 97.5], axis=0)
    return ends


class Curve(NamedTuple):
    """Accuracy over thresholds of IoU; all (19,), `low` and `high` a 95 % interval at each threshold by itself."""

    thresholds: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def accuracy_curve(marks: Marks, *, seed: int = 0, draws: int = 1000) -> Curve:
    """How accuracy falls as the IoU asked for rises from 0.05 to 0.95; NaN without records of exactly one target."""
    single = marks.is_single
    hits = (marks.iou[single, None] >= CURVE_AT).astype(np.float64)
    _, pictures = np.unique(marks.pictures[single], return_inverse=True)
    curve = Marks(hits, np.ones_like(hits), pictures)
    return Curve(CURVE_AT, curve.shares(), *intervals(curve, seed=seed, draws=draws))


# ---- sizes and baselines, in shares of the picture -------------------------------------------------------------


def _summary(ious: np.ndarray) -> dict[str, float]:
    """Accuracy and mean of any number of IoUs; NaN for none."""
    if not ious.size:
        return {"acc@0.5": np.nan, "miou": np.nan}
    return {"acc@0.5": float((ious >= 0.5).mean()), "miou": float(ious.mean())}


def _by_size(areas: np.ndarray, ious: np.ndarray) -> dict[str, dict[str, float]]:
    inside = {name: (least <= areas) & (areas < limit) for name, (least, limit) in SIZES.items()}
    return {name: {"n": int(chosen.sum())} | _summary(ious[chosen]) for name, chosen in inside.items()}


def _sizes_wh(targets: Boxes) -> np.ndarray:
    return np.maximum(targets.xyxy[:, 2:] - targets.xyxy[:, :2], 0)


def _centre_ious(targets: Boxes) -> np.ndarray:
    """(N,) IoUs of a box in the middle of the picture, of the median width and height of these very targets."""
    if not len(targets):
        return np.empty(0)
    half_wh = np.median(_sizes_wh(targets), axis=0) / 2
    return iou(targets, Boxes([[*(0.5 - half_wh), *(0.5 + half_wh)]], _UNIT))[:, 0]


def _random_ious(targets: Boxes, seed: int) -> np.ndarray:
    """(N, draws) IoUs of boxes put anywhere inside the picture, each of the size of a target drawn at random."""
    generator = np.random.default_rng(seed)
    sizes_wh = _sizes_wh(targets)
    ious = np.empty((len(targets), _RANDOM_DRAWS))
    for row in range(len(targets)):
        drawn_wh = sizes_wh[generator.integers(0, len(targets), _RANDOM_DRAWS)]
        corners = generator.random((_RANDOM_DRAWS, 2)) * np.maximum(1 - drawn_wh, 0)
        ious[row] = iou(targets[[row]], Boxes(np.hstack([corners, corners + drawn_wh]), _UNIT))[0]
    return ious
