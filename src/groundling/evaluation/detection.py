"""How well a set of boxes is detected: COCO's average precision, and beside it numbers that need no scores.

Average precision (AP) is that of COCO (Lin et al., arXiv 1405.0312), computed by faster-coco-eval, whose numbers are
pycocotools'. Its picture is here a question: one question about all classes of a picture is that picture, and one
question a class is COCO's picture and class. AP ranks all boxes of a class by their scores. A model that gives none has
every box at 1.0, as the detection results of Qwen3-VL are made (arXiv 2511.21631, section 5.5). Then the order of the
records decides the ranking, and with it the number: a set sorted from easy to hard scores higher. So the order is fixed
by a hash of each question, and `orders` tells what other orders give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from groundling.dialect.answer import Answer
from groundling.evaluation.classes import Named
from groundling.evaluation.matching import find_partners
from groundling.evaluation.metrics import IOUS, SIZES, Prediction, divide, name_all
from groundling.geometry.boxes import Boxes, iou

MAX_BOXES = 100  # of one class to one question that AP looks at, the best first, as COCO
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}  # square pixels, COCO's
ORDERS = 10
_CLASSES_AT_ONCE = 200  # to bound memory: COCO keeps 101 precisions of each at every IoU and size
MOST_BOXES_REORDERED = 10_000  # true and answered; AP of a larger set depends little on its order, and takes seconds


class Orders(NamedTuple):
    """The AP of all classes over random orders of the questions."""

    n: int
    mean: float
    sd: float


class ClassScores(NamedTuple):
    """One class; a number that no box bears on is NaN."""

    label: str  # in lower case; empty for all boxes where labels are no classes
    targets: int
    answered: int
    ap: float  # mean over IoU 0.5, 0.55 to 0.95
    ap50: float
    f1: float  # by optimal matching with IoU 0.5 or more, and so the next two
    precision: float
    recall: float


@dataclass(frozen=True)
class Detection:
    """What a model detected. Only boxes of one class can be a pair.

    AP is the mean over the classes that there is a target of; F1 is over all boxes of all classes together.
    """

    scored: bool  # ranked by the answers' own scores; False: every box at 1.0
    map: float  # mean over IoU 0.5, 0.55 to 0.95
    map50: float
    map75: float
    by_area: dict[str, float]  # AP of COCO's small, medium and large targets, in original pixels
    by_share: dict[str, float]  # AP of targets that are small, medium and large beside their picture, as in `by_size`
    orders: Orders | None  # None where scores rank the boxes, and for large sets
    f1: dict[str, float]  # f1@0.5, f1@0.75, f1@miou
    classes: list[ClassScores]  # by name; those that were answered alone, too


def measure_detection(
    predictions: Sequence[Prediction], *, use_scores: bool = True, as_said: bool = False, seed: int = 0
) -> Detection | None:
    """Detection of all targets that are boxes; None where there is none.

    Scores are used where every answered box has one. Questions with a point to find are left out. `as_said` takes every
    answered label at its word, as `classes.name_boxes` has it.
    """
    predictions = sorted((one for one in predictions if not one.has_points), key=hash_question)
    named = name_all(predictions, as_said=as_said)
    names = _list_classes(named)
    truth = _gather([one.truth for one in predictions], [each.true for each in named], names)
    answered = _gather([one.answer.boxes for one in predictions], [each.answered for each in named], names)
    if not len(truth.xyxy):
        return None
    scores = _scores([one.answer for one in predictions]) if use_scores else None
    if scores is not None:
        answered = answered._replace(scores=scores)
    hash_order = np.arange(len(predictions))
    precision = _average_precision(truth, answered, hash_order, AREAS)
    pairs = _count_pairs(predictions, named, truth.labels, len(names))
    return Detection(
        scored=scores is not None,
        map=_mean(precision[:, :, 0]),
        map50=_mean(precision[0, :, 0]),
        map75=_mean(precision[5, :, 0]),
        by_area=_by_size(precision, AREAS),
        by_share=_by_size(_average_precision(truth.in_shares(), answered.in_shares(), hash_order, SIZES), SIZES),
        orders=_reorder(truth, answered, len(predictions), seed) if scores is None else None,
        f1=_f1(pairs.sum(axis=0), len(truth.labels) + len(answered.labels)),
        classes=_by_class(names, pairs[:, 0], truth.labels, answered.labels, precision),
    )


def detection_to_json(detection: Detection) -> dict[str, Any]:
    """As `report.json` has it; NaN where a number applies to no box."""
    return {
        "scores": "answers" if detection.scored else "1.0",
        "max_boxes": MAX_BOXES,
        "map": detection.map,
        "map50": detection.map50,
        "map75": detection.map75,
        "by_area": detection.by_area,
        "by_share": detection.by_share,
        "orders": detection.orders._asdict() if detection.orders else None,
        **detection.f1,
        "classes": [each._asdict() for each in detection.classes],
    }


def detection_from_json(value: Mapping[str, Any]) -> Detection:
    """The inverse, from JSON in which null is NaN. KeyError or TypeError where it is none."""
    return Detection(
        scored=value["scores"] == "answers",
        **with_nan({key: value[key] for key in ("map", "map50", "map75")}),
        by_area=with_nan(value["by_area"]),
        by_share=with_nan(value["by_share"]),
        orders=Orders(**value["orders"]) if value["orders"] else None,
        f1=with_nan({key: value[key] for key in ("f1@0.5", "f1@0.75", "f1@miou")}),
        classes=[ClassScores(**with_nan(row)) for row in value["classes"]],
    )


def with_nan(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """NaN for each null of a row of numbers."""
    return {key: math.nan if number is None else number for key, number in row.items()}


def hash_question(prediction: Prediction) -> bytes:
    """An order that no file's order shows in. Pictures go by name, for folders differ between machines."""
    record = prediction.record
    name = record.image.name if record.image else ""
    return sha256("\n".join([name, record.question, record.id]).encode(errors="replace")).digest()


def _scores(answers: Sequence[Answer]) -> np.ndarray | None:
    """(N,) of all boxes; None unless each has one."""
    answering = [answer for answer in answers if len(answer.boxes)]
    if not answering or not all_have_scores(answering):
        return None
    return np.concatenate([answer.scores for answer in answering if answer.scores is not None])


def all_have_scores(answers: Sequence[Answer]) -> bool:
    """Whether each answered box has one."""
    return all(answer.scores is not None for answer in answers if len(answer.boxes))


# ---- all boxes of a set ----------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """The N true or the N answered boxes of a set, question by question."""

    questions: np.ndarray  # (N,) the number of each one's question
    labels: np.ndarray  # (N,) the number of its class
    xyxy: np.ndarray  # (N, 4) original pixels
    areas: np.ndarray  # (N,) square pixels, or shares of the picture
    whole: np.ndarray  # (N,) area of its picture, in the same
    scores: np.ndarray  # (N,)

    def in_shares(self) -> _Side:
        """With the areas as shares of the picture."""
        return self._replace(areas=self.areas / self.whole, whole=np.ones_like(self.whole))


def _list_classes(named: Sequence[Named]) -> list[str]:
    """Those with a target, then those that were only answered, each alphabetically."""
    true = {name for each in named for name in each.true}
    answered = {name for each in named for name in each.answered}
    return [*sorted(true), *sorted(answered - true)]


def _gather(groups: Sequence[Boxes], classes: Sequence[Sequence[str]], names: Sequence[str]) -> _Side:
    """The boxes of all questions with their classes, numbered as in `names`; every score 1.0."""
    counts = [len(boxes) for boxes in groups]
    numbers = {name: number for number, name in enumerate(names)}
    xyxy = np.concatenate([np.empty((0, 4)), *(boxes.xyxy for boxes in groups)])
    return _Side(
        questions=np.repeat(np.arange(len(groups)), counts),
        labels=np.array([numbers[name] for each in classes for name in each], dtype=np.intp),
        xyxy=xyxy,
        areas=np.prod(np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0), axis=1),
        whole=np.repeat([float(boxes.frame.area) for boxes in groups], counts),
        scores=np.ones(len(xyxy)),
    )


# ---- average precision -----------------------------------------------------------------------------------------


def _average_precision(
    truth: _Side, answered: _Side, order: np.ndarray, sizes: Mapping[str, tuple[float, float]]
) -> np.ndarray:
    """(T, K, 1 + sizes) AP by IoU, class with a target, and size of target, all sizes first; NaN without a target.

    `order` is (Q,): the rank of each question, by which boxes of one score are ranked.
    """
    places = _places(truth, answered, order)
    counts = np.zeros(int(truth.labels.max()) + 1, dtype=np.intp)  # pictures of each class, in COCO's terms
    for side, side_places in zip((truth, answered), places, strict=True):
        is_judged = side.labels < len(counts)  # no target, no AP
        np.maximum.at(counts, side.labels[is_judged], side_places[is_judged] + 1)
    precision = np.full((len(IOUS), len(counts), 1 + len(sizes)), np.nan)
    for labels in _alike(counts):
        outline = {
            "images": [{"id": place} for place in range(counts[labels].max())],
            "categories": [{"id": label, "name": str(label)} for label in labels.tolist()],
        }
        sides = [
            outline | {"annotations": _annotations(side, side_places, np.isin(side.labels, labels))}
            for side, side_places in zip((truth, answered), places, strict=True)
        ]
        precision[:, labels] = _run_coco(sides[0], sides[1], sizes)
    return precision


def _alike(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The classes in groups of about as many pictures, to within a factor of two; (K,) are the pictures of each.

    COCO looks for every class in every picture, mostly to find nothing: a frequent class among thousands of rare ones
    would cost millions of looks.
    """
    levels = np.ceil(np.log2(counts))
    for level in np.unique(levels):
        labels = np.flatnonzero(levels == level)
        yield from np.array_split(labels, math.ceil(len(labels) / _CLASSES_AT_ONCE))


def _run_coco(truth: dict[str, Any], answered: dict[str, Any], sizes: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """(T, K, 1 + sizes) AP of two data sets in COCO's form."""
    from faster_coco_eval import COCO, COCOeval_faster

    evaluation = COCOeval_faster(COCO(truth), COCO(answered), "bbox")
    evaluation.params.areaRng = [[0, math.inf], *map(list, sizes.values())]
    evaluation.params.areaRngLbl = ["all", *sizes]
    evaluation.params.maxDets = [MAX_BOXES]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0].mean(axis=1)  # over 101 recalls; all are -1 without a target
    return np.where(precision < 0, np.nan, precision)


def _places(truth: _Side, answered: _Side, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (M,) the picture's number of each box in COCO's terms: its question's rank among those of its class.

    Classes do not meet, so the pictures of each are numbered by themselves, and few numbers are needed.
    """
    keys = [side.labels * len(order) + order[side.questions] for side in (truth, answered)]
    cells = np.unique(np.concatenate(keys))  # class by class, the questions of each in order
    starts = [np.searchsorted(cells, side.labels * len(order)) for side in (truth, answered)]
    first, second = (np.searchsorted(cells, key) - start for key, start in zip(keys, starts, strict=True))
    return first, second


def _annotations(side: _Side, places: np.ndarray, chosen: np.ndarray) -> list[dict[str, Any]]:
    """The (N,) chosen boxes in COCO's form: left, top, width, height."""
    xywh = np.hstack([side.xyxy[:, :2], side.xyxy[:, 2:] - side.xyxy[:, :2]])
    columns = (column[chosen].tolist() for column in (places, side.labels, xywh, side.areas, side.scores))
    keys = ("image_id", "category_id", "bbox", "area", "score")
    return [
        {"id": number, "iscrowd": 0} | dict(zip(keys, row, strict=True))
        for number, row in enumerate(zip(*columns, strict=True), start=1)
    ]


def _by_size(precision: np.ndarray, sizes: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {name: _mean(precision[:, :, column]) for column, name in enumerate(sizes, start=1)}


def _reorder(truth: _Side, answered: _Side, questions: int, seed: int) -> Orders | None:
    """AP over random orders of the questions, the boxes of each in their own order."""
    if len(truth.xyxy) + len(answered.xyxy) > MOST_BOXES_REORDERED:
        return None
    generator = np.random.default_rng(seed)
    found = [_mean(_average_precision(truth, answered, generator.permutation(questions), {})) for _ in range(ORDERS)]
    return Orders(ORDERS, float(np.mean(found)), float(np.std(found)))


def _mean(values: np.ndarray) -> float:
    """Over the classes that have a target of that size; NaN where none has."""
    usable = values[~np.isnan(values)]
    return float(usable.mean()) if usable.size else math.nan


# ---- without scores --------------------------------------------------------------------------------------------


def _count_pairs(
    predictions: Sequence[Prediction], named: Sequence[Named], labels: np.ndarray, classes: int
) -> np.ndarray:
    """(K, T) the most pairs of each class at each of IOUS. `labels` are (N,), the classes of all true boxes."""
    partners = [
        find_partners(iou(one.truth, one.answer.boxes) * each.agree(), IOUS)
        for one, each in zip(predictions, named, strict=True)
    ]
    pairs = np.zeros((classes, len(IOUS)))
    np.add.at(pairs, labels, np.hstack(partners).T)
    return pairs


def _f1(pairs: np.ndarray, boxes: int) -> dict[str, float]:
    """Of (T,) pairs among so many true and answered boxes together."""
    f1 = 2 * pairs / boxes
    return {"f1@0.5": float(f1[0]), "f1@0.75": float(f1[5]), "f1@miou": float(f1.mean())}


def _by_class(
    names: Sequence[str], pairs: np.ndarray, true: np.ndarray, said: np.ndarray, precision: np.ndarray
) -> list[ClassScores]:
    """`pairs` are (K,) at IoU 0.5; `true` and `said` are the classes of all boxes, `precision` as above."""
    targets, answered = (np.bincount(labels, minlength=len(names)) for labels in (true, said))
    ap = np.full((2, len(names)), np.nan)
    ap[:, : precision.shape[1]] = precision[:, :, 0].mean(axis=0), precision[0, :, 0]
    columns = [targets, answered, *ap, divide(2 * pairs, targets + answered)]
    columns += [divide(pairs, answered), divide(pairs, targets)]
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    return [ClassScores(*row) for row in sorted(rows)]
