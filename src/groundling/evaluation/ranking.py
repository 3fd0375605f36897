"""Before and after in average precision (AP), which is no sum over pictures and so has no place in `change`.

AP ranks the boxes of all pictures together (`detection`). But whether a box is right, and which of two ranks higher,
does not depend on what else is in the set: both are settled once. To draw pictures again is then to count each box as
often as its picture was drawn; to swap before and after within pictures is to count it once or not at all, in one
ranking of the boxes of both. What is left to do for each draw is COCO's accumulation: precision as recall grows, each
as high as the best behind it, read at 101 recalls. Tests hold it against faster-coco-eval and pycocotools.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from groundling.evaluation.change import Change, changes, swaps
from groundling.evaluation.classes import Named
from groundling.evaluation.detection import MAX_BOXES, all_have_scores, hash_question
from groundling.evaluation.matching import find_partners, pair_in_turn
from groundling.evaluation.metrics import IOUS, Marks, Prediction, divide, name_all, percentiles, redraw
from groundling.geometry.boxes import iou

DETECTION: dict[str, str] = {
    "map": "boxes of all classes: COCO's AP, mean over IoU 0.5, 0.55 and so on to 0.95",
    "map50": "boxes of all classes: COCO's AP at IoU 0.5",
    "map75": "boxes of all classes: COCO's AP at IoU 0.75",
    "label_f1@miou": "boxes of all classes: f1@miou of pairs whose labels agree",
}
"""What a comparison says of a detector beside METRICS, in the order in which it is worked out."""

DRAWS = 1000  # of AP, at most: each goes through every box again
_RECALLS = 100  # steps from recall 0 to 1
_NUMBERS_AT_ONCE = 2**16  # boxes times draws: few enough for a processor's cache

_UNMEASURED = Change(np.nan, np.nan, np.nan, (np.nan, np.nan), np.nan)


class DetectionChange(NamedTuple):
    """The change of each of DETECTION, all NaN where nothing is detected."""

    changes: dict[str, Change]
    scored: bool | None  # whether the answers' own scores rank the boxes, not 1.0 for each; None where nothing does


def compare_detection(
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    *,
    use_scores: bool = True,
    as_said: bool = False,
    seed: int = 0,
    draws: int = 10_000,
) -> DetectionChange:
    """How detection changed over the same questions, in the same order; `as_said` and `use_scores` as in `detection`.

    Scores rank the boxes where every box of both has one: a ranking by scores beside one without would compare the
    rankings. Where no question has several boxes and there are no classes, accuracy says it all, and nothing is told.
    """
    places = [place for place, one in enumerate(before) if not one.has_points]
    places.sort(key=lambda place: hash_question(before[place]))
    sides = [[side[place] for place in places] for side in (before, after)]
    named = [name_all(side, as_said=as_said) for side in sides]
    if not _detects(sides[0], named, as_said):
        return DetectionChange(dict.fromkeys(DETECTION, _UNMEASURED), None)
    scored = use_scores and all(all_have_scores([one.answer for one in side]) for side in sides)
    pictures = _number_pictures(sides[0])
    judged = [_judge(side, names, pictures, scored) for side, names in zip(sides, named, strict=True)]
    found = _precision_changes(judged[0], judged[1], int(pictures.max()) + 1, seed, min(draws, DRAWS))
    marks = [_mark_labelled(side, names, pictures) for side, names in zip(sides, named, strict=True)]
    found.append(changes(*marks, seed=seed, draws=draws)[0])
    return DetectionChange(dict(zip(DETECTION, found, strict=True)), scored)


def _detects(truth: Sequence[Prediction], named: Sequence[Sequence[Named]], as_said: bool) -> bool:
    classes = {name for names in named for each in names for name in (*each.true, *each.answered)}
    several = any(len(one.truth) > 1 for one in truth)
    return any(len(one.truth) for one in truth) and (several or len(classes) > 1 or as_said)


def _number_pictures(predictions: Sequence[Prediction]) -> np.ndarray:
    """(N,) the number of each one's picture, 0 upwards."""
    names = [str(one.record.image) for one in predictions]
    return np.unique(names, return_inverse=True)[1]


def _mark_labelled(predictions: Sequence[Prediction], named: Sequence[Named], pictures: np.ndarray) -> Marks:
    """What each earned of `label_f1@miou`."""
    earned = [
        2 * find_partners(iou(one.truth, one.answer.boxes) * each.agree(), IOUS).sum(axis=1).mean()
        for one, each in zip(predictions, named, strict=True)
    ]
    possible = [len(one.truth) + len(one.answer.boxes) for one in predictions]
    return Marks(np.array(earned)[:, None], np.array(possible, dtype=np.float64)[:, None], pictures)


# ---- what is settled once --------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """The M boxes of one class that were answered to one question, the surest first, and how many there are to find."""

    question: int  # its rank among the questions
    picture: int
    scores: np.ndarray  # (M,)
    right: np.ndarray  # (T, M) whether each has a target to itself, at each of IOUS
    targets: int


def _judge(
    predictions: Sequence[Prediction], named: Sequence[Named], pictures: np.ndarray, scored: bool
) -> dict[str, list[Judged]]:
    """By class with a target. COCO pairs boxes and targets within a picture, here a question, and a class."""
    found: defaultdict[str, list[Judged]] = defaultdict(list)
    for question, (one, names) in enumerate(zip(predictions, named, strict=True)):
        boxes = one.answer.boxes
        overlaps = iou(one.truth, boxes)
        known = one.answer.scores if scored and one.answer.scores is not None else np.ones(len(boxes))
        true, answered = np.array(names.true, dtype=object), np.array(names.answered, dtype=object)
        for label in dict.fromkeys((*names.true, *names.answered)):
            own = np.flatnonzero(answered == label)
            own = own[np.argsort(-known[own], kind="stable")][:MAX_BOXES]
            right = pair_in_turn(overlaps[true == label][:, own], IOUS)
            found[label].append(
                Judged(question, int(pictures[question]), known[own], right, int((true == label).sum()))
            )
    return {label: judged for label, judged in found.items() if any(one.targets for one in judged)}


class Ranked(NamedTuple):
    """The N boxes of one class that were answered in a set of P pictures, from sure to unsure."""

    pictures: np.ndarray  # (N,) the number of each one's picture
    right: np.ndarray  # (T, N) whether each has a target to itself, at each of IOUS
    targets: np.ndarray  # (P,) how many each picture holds


def _rank(judged: Sequence[Judged], pictures: int) -> Ranked:
    """Boxes of equal scores in the order of their questions, and of one question as they come."""
    counts = [len(one.scores) for one in judged]
    scores = np.concatenate([one.scores for one in judged])
    questions = np.repeat([one.question for one in judged], counts)
    order = np.lexsort((questions, -scores))
    targets = np.zeros(pictures)
    np.add.at(targets, [one.picture for one in judged], [one.targets for one in judged])
    return Ranked(
        pictures=np.repeat([one.picture for one in judged], counts)[order],
        right=np.concatenate([one.right for one in judged], axis=1)[:, order],
        targets=targets,
    )


# ---- what each draw takes --------------------------------------------------------------------------------------


def average_precision(ranked: Ranked, weights: np.ndarray) -> np.ndarray:
    """(R, T) AP of one class at each of IOUS, in R draws; NaN in a draw without a target.

    `weights` are (R, P): how often each picture was drawn.
    """
    found = np.full((len(weights), len(ranked.right)), np.nan)
    targets = weights @ ranked.targets
    drawn = np.flatnonzero(targets)
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, len(ranked.pictures)))
    for start in range(0, len(drawn), at_once):
        rows = drawn[start : start + at_once]
        found[rows] = _accumulate(ranked, weights[rows], targets[rows, None])
    return found


def _accumulate(ranked: Ranked, weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The same; `targets` are (R, 1), none of them 0.

    Only right boxes are looked at: behind a wrong one precision is lower, and recall the same. Each recall is read at
    the best precision at it or beyond, so AP is the sum of how far that best falls behind a box, times how many recalls
    were reached there. Arrays are used again in place, which halves the time.
    """
    found = np.empty((len(weights), len(ranked.right)))
    answered = np.maximum(np.take(weights, ranked.pictures, axis=1).cumsum(axis=1), 1)
    for at, right in enumerate(ranked.right):
        places = np.flatnonzero(right)
        hits = np.take(weights, ranked.pictures[places], axis=1).cumsum(axis=1)
        best = np.take(answered, places, axis=1)
        np.divide(hits, best, out=best)
        np.maximum.accumulate(best[:, ::-1], axis=1, out=best[:, ::-1])
        best[:, :-1] -= best[:, 1:]
        hits /= targets
        found[:, at] = np.einsum("rn,rn->r", _count_recalls(hits), best) / (_RECALLS + 1)
    return found


def _count_recalls(recall: np.ndarray) -> np.ndarray:
    """How many of the recalls 0, 0.01 to 1 are reached, as whole floats; as COCO has them, 57 x 0.01 is above 0.57."""
    nearest = recall * _RECALLS
    np.rint(nearest, out=nearest)
    nearest += recall >= nearest * (1 / _RECALLS)
    return nearest


def _mean_precision(classes: Sequence[Ranked], weights: np.ndarray) -> np.ndarray:
    """(R, 3) map, map50 and map75 in R draws, shared out among the processor's cores."""
    cores = min(len(weights), os.cpu_count() or 1)
    with ThreadPoolExecutor(cores) as pool:
        return np.concatenate(list(pool.map(partial(_mean_of_classes, classes), np.array_split(weights, cores))))


def _mean_of_classes(classes: Sequence[Ranked], weights: np.ndarray) -> np.ndarray:
    """(R, 3) means over the classes that a target was drawn of; NaN where none was."""
    sums, counts = np.zeros((len(weights), 3)), np.zeros((len(weights), 1))
    for ranked in classes:
        found = average_precision(ranked, weights)
        is_drawn = ~np.isnan(found[:, :1])
        sums += np.where(is_drawn, np.stack([found.mean(axis=1), found[:, 0], found[:, 5]], axis=1), 0)
        counts += is_drawn
    return divide(sums, np.broadcast_to(counts, sums.shape))


# ---- the change ------------------------------------------------------------------------------------------------


def _precision_changes(
    old: Mapping[str, list[Judged]], new: Mapping[str, list[Judged]], pictures: int, seed: int, draws: int
) -> list[Change]:
    """Of map, map50 and map75: interval and p value as in `change`."""
    first, second = ([_rank(judged, pictures) for judged in side.values()] for side in (old, new))
    whole = np.ones((1, pictures))
    before, after = _mean_precision(first, whole)[0], _mean_precision(second, whole)[0]
    differences = [
        _mean_precision(second, weights) - _mean_precision(first, weights) for weights in redraw(pictures, draws, seed)
    ]
    with_target = np.any([each.targets > 0 for each in first], axis=0).sum()
    low, high = percentiles(differences, np.full(3, with_target))
    p = _swap_p(_rank_together(old, new, pictures), pictures, np.abs(after - before), seed, draws)
    columns = (before, after, after - before, low, high, p)
    return [
        Change(old, new, difference, (start, end), share)
        for old, new, difference, start, end, share in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _rank_together(old: Mapping[str, list[Judged]], new: Mapping[str, list[Judged]], pictures: int) -> list[Ranked]:
    """The boxes of both in one ranking of each class, over 2 P pictures: those of before, then those of after."""
    shifted = {label: [one._replace(picture=one.picture + pictures) for one in judged] for label, judged in new.items()}
    labels = dict.fromkeys([*old, *new])
    return [_rank([*old.get(label, []), *shifted.get(label, [])], 2 * pictures) for label in labels]


def _swap_p(both: Sequence[Ranked], pictures: int, real: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """(3,) two-sided p values: the share of swappings, the real one counted, with a difference at least as large."""
    as_large = np.ones(len(real))
    for swapped in swaps(pictures, draws, seed):
        as_large += (np.abs(_swap(both, swapped)) >= real - 1e-12).sum(axis=0)
    return np.where(np.isnan(real), np.nan, as_large / (draws + 1))


def _swap(both: Sequence[Ranked], swapped: np.ndarray) -> np.ndarray:
    """(R, 3) after less before where before and after of the pictures that are 1 in `swapped`, (R, P), change places.

    Each picture is once in either: with its answers of before in the one, with those of after in the other.
    """
    stays = 1 - swapped
    return _mean_precision(both, np.hstack([swapped, stays])) - _mean_precision(both, np.hstack([stays, swapped]))
