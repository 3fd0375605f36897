"""Habits of a model that no other frame explains: what it repeats, leaves out, makes up or calls by another name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from groundling.dialect.answer import FLAWS
from groundling.evaluation.cases import Case
from groundling.evaluation.diagnosis import Fault, fault_of
from groundling.evaluation.sheet import UNIT, Sheet
from groundling.evaluation.suspect import FEWEST, HIT
from groundling.geometry.boxes import Boxes, iou

_SHARE = 0.03  # of the answers: a habit, not a slip
_LEAST = 3  # answers, likewise
_SAME_BOX = 0.9  # IoU of two boxes that are one
_STRAY, _STRAY_OF_BOX = 0.01, 0.1  # of the frame's sides and of the box's: how far noise brings a box outside
_COPY = 0.7  # IoU of two boxes of one answer for one thing; as far apart as a trained model's noise puts them
_NEAR = 0.5  # IoU of two targets whose boxes noise may bring to that

_OFTEN_NONE = 0.2  # of the questions about something
_OFTEN_INVENTED = 0.5  # of the questions about nothing
_ALWAYS = 0.95
_FEW_CLEAR = 5  # answers of a kind, at least

_REPEATS = 4  # times the same, to be a loop
_UNITS = range(8, 401)  # characters of what is repeated
_STEPS = 8  # boxes, each as far from the last

_MOST_COMPARED = 400  # boxes, each with each
_MODE = 0.5  # of the answers, at that one place
_CONFUSED = 0.2  # of a class's boxes, taken for one other
_BY_CHANCE = 1e-4
_NEARLY_ALL = 0.8  # of the labels that can be told
_SHOWN = 60  # letters of a label in a message

_BETTER_NAMED = ("truncated", "outside")  # flaws that are faults of their own


def find_text_faults(cases: Sequence[Case], *, has_suspect: bool) -> Iterator[Fault]:
    """Loops, copies, cut and unreadable answers, and boxes outside; each answer is counted once, for the first of them.

    Where boxes count in another frame anyway, that they leave their pictures is no news.
    """
    loops, rest = list[Case](), list[Case]()
    for case in cases:
        (loops if is_loop(case) else rest).append(case)
    if _is_habit(loops, cases):
        cut = sum(_is_cut(case) for case in loops)
        until = f", {cut} of them until they are cut" if cut else ""
        message = f"{_share(loops, cases)} repeat themselves{until}{_examples(loops)}"
        yield fault_of("loop", message, len(loops), len(cases))
    truncated = [case for case in rest if _is_cut(case)]
    if _is_habit(truncated, cases):
        message = (
            f"{_share(truncated, cases)} end where their room does, before they are complete{_examples(truncated)}"
        )
        yield fault_of("truncated", message, len(truncated), len(cases))
    copies = [case for case in rest if count_copies(case)]
    if _is_habit(copies, cases):
        number, boxes = sum(count_copies(case) for case in copies), sum(len(case.numbers) for case in cases)
        message = (
            f"{number} of {boxes} boxes overlap another of their own answer by {_COPY:g} or more, "
            f"in {_share(copies, cases)}{_examples(copies)}"
        )
        yield fault_of("duplicates", message, len(copies), len(cases))
    hidden = {"outside", "inverted", "no_area"} if has_suspect else set[str]()
    flawed = [case for case in rest if case.flaw not in {None, *_BETTER_NAMED} | hidden]
    if _is_habit(flawed, cases):
        yield fault_of("unreadable", _tell_flaws(flawed, cases), len(flawed), len(cases))
    outside = [case for case in cases if not has_suspect and _leaves(case)]
    if len(outside) >= _FEW_CLEAR and _is_habit(outside, cases):
        message = f"{_share(outside, cases)} have a box that leaves its picture{_examples(outside)}"
        yield fault_of("outside", message, len(outside), len(cases))


def _is_habit(shown: Sequence[Case], cases: Sequence[Case]) -> bool:
    return len(shown) >= max(_LEAST, _SHARE * len(cases))


def _share(shown: Sequence[Case], cases: Sequence[Case]) -> str:
    return f"{len(shown)} of {len(cases)} answers"


def _examples(shown: Sequence[Case]) -> str:
    names = ", ".join(case.record.id for case in shown[:3])
    return f" (as {names})"


def _tell_flaws(flawed: Sequence[Case], cases: Sequence[Case]) -> str:
    counts = Counter(case.flaw for case in flawed if case.flaw).most_common(3)
    told = "; ".join(f"{count} {flaw}: {FLAWS[flaw]}" for flaw, count in counts)
    return f"{_share(flawed, cases)} have a flaw{_examples(flawed)}: {told}"


def _is_cut(case: Case) -> bool:
    return case.is_full or case.flaw == "truncated"


def _leaves(case: Case) -> bool:
    """Whether a box leaves the frame by more than noise brings it there: a unit, and shares of the sides."""
    if case.flaw == "outside" and not case.is_raw:
        return True  # by more than a unit, and clipped since
    limits = np.array([*case.read.size_wh] * 2, dtype=np.float64)
    own = np.abs(case.numbers[:, 2:] - case.numbers[:, :2])
    slack = 1 + _STRAY * limits + _STRAY_OF_BOX * np.tile(own, 2)
    return bool(((case.numbers < -slack) | (case.numbers > limits + slack)).any())


def is_loop(case: Case) -> bool:
    """Whether an answer goes round.

    A box stands four times in a row; or, up to the end, boxes or a label's words come in turn; or more boxes than can
    be meant stand in an even row. Where the answer is cut such a row is enough, or a text that ends in repeats.
    """
    numbers = case.numbers[:_MOST_COMPARED]
    steps = np.diff(numbers, axis=0)
    is_same = (steps == 0).all(axis=1)
    if len(steps) >= _REPEATS - 1 and _longest_run(is_same) >= _REPEATS - 1:
        return True
    words = [_fold(label).split() for label in set(case.labels)]
    if _ends_in_turn(numbers.tolist(), _REPEATS) or any(_ends_in_turn(label, _STEPS) for label in words):
        return True
    is_even = (np.diff(steps, axis=0) == 0).all(axis=1) if len(steps) > 1 else np.empty(0, dtype=bool)
    is_row = _longest_run(is_even) >= _STEPS - 2
    if is_row and len(numbers) > 2 * len(case.truth):
        return True
    return case.flaw in ("truncated", "too_many", "too_long") and (is_row or _ends_in_repeats(case.text or ""))


def _ends_in_turn(items: list[Any], times: int) -> bool:
    """Whether the last of them are the same ones so many times over."""
    return any(items[-length:] * times == items[-times * length :] for length in range(1, len(items) // times + 1))


def _longest_run(marks: np.ndarray) -> int:
    longest = run = 0
    for mark in marks.tolist():
        run = run + 1 if mark else 0
        longest = max(longest, run)
    return longest


def _ends_in_repeats(text: str) -> bool:
    return any(
        len(text) >= _REPEATS * length and text.endswith(text[-length:] * _REPEATS) and text[-length:].strip()
        for length in _UNITS
    )


def count_copies(case: Case) -> int:
    """Boxes that lie on an earlier one of the same label, beyond those of targets that lie on each other."""
    boxes, labels = Boxes(case.numbers, case.read)[:_MOST_COMPARED], case.labels[:_MOST_COMPARED]
    if len(boxes) < 2:
        return 0
    same = np.array([[_fold(one) == _fold(other) for other in labels] for one in labels])
    found = _count_later((iou(boxes, boxes) >= _COPY) & same)
    truth = case.truth[:_MOST_COMPARED]
    return max(found - _count_later(iou(truth, truth) >= _NEAR), 0) if found else 0


def _count_later(alike: np.ndarray) -> int:
    """Of (B, B) marks, the boxes that are like an earlier one."""
    return int(np.tril(alike, -1).any(axis=1).sum())


def _fold(label: str | None) -> str:
    return " ".join((label or "").casefold().split())


# ---- how many boxes --------------------------------------------------------------------------------------------


def find_count_faults(cases: Sequence[Case]) -> Iterator[Fault]:
    """Nothing where there is something, points in place of boxes, something where there is nothing, one of several."""
    asked = [case for case in cases if case.record.targets]
    none = [case for case in asked if case.flaw is None and not len(case.numbers) and not case.points]
    if len(none) >= max(_FEW_CLEAR, _OFTEN_NONE * len(asked)):
        message = f"{len(none)} of {len(asked)} questions about something are answered with nothing{_examples(none)}"
        yield fault_of("says_none", message, len(none), len(asked))
    for_boxes = [case for case in asked if len(case.truth) == len(case.record.targets)]
    pointed = [case for case in for_boxes if case.points and not len(case.numbers)]
    if _is_habit(pointed, for_boxes):
        message = f"{len(pointed)} of {len(for_boxes)} questions for boxes are answered with points alone"
        yield fault_of("points", f"{message}{_examples(pointed)}", len(pointed), len(for_boxes))
    negatives = [case for case in cases if case.record.is_negative]
    invented = [case for case in negatives if len(case.numbers) or case.points]
    if len(invented) >= max(_FEW_CLEAR, _OFTEN_INVENTED * len(negatives)):
        message = f"{len(invented)} of {len(negatives)} questions about nothing get boxes{_examples(invented)}"
        yield fault_of("invents", message, len(invented), len(negatives))
    several = [case for case in cases if len(case.truth) > 1 and len(case.numbers)]
    single = [case for case in several if len(case.numbers) == 1]
    if len(several) >= FEWEST and len(single) >= _ALWAYS * len(several):
        message = f"{len(single)} of {len(several)} answers to questions with several targets hold one box"
        yield fault_of("one_box", message, len(single), len(several))


# ---- where they lie --------------------------------------------------------------------------------------------


def find_same_answer(sheet: Sheet, placed: np.ndarray) -> Fault | None:
    """One box given to most questions, though their targets lie elsewhere. Answers that go round are no such boxes."""
    straight = np.array([place for place, case in enumerate(sheet.cases) if not is_loop(case)])
    if len(straight) < FEWEST:
        return None
    firsts = placed[np.searchsorted(sheet.owner, np.arange(len(sheet)))]
    targets = sheet.truth[np.searchsorted(sheet.true_owner, np.arange(len(sheet)))]
    chosen = np.random.default_rng(0).permutation(straight)[:_MOST_COMPARED]
    (answered, middle), (true, _) = _mode(firsts[chosen]), _mode(targets[chosen])
    if answered < _MODE or answered < 2 * true + _CONFUSED:
        return None
    count = int((iou(Boxes(firsts[straight], UNIT), Boxes([middle], UNIT)) >= _SAME_BOX).sum())
    left, top, right, bottom = (100 * middle).round().astype(int)
    where = f"{left} to {right} % of the width and {top} to {bottom} % of the height"
    message = f"{count} of {len(sheet)} answers are the same box, {where}; their targets are not"
    return fault_of("same_answer", message, count, len(sheet))


def _mode(boxes: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest share of (N, 4) boxes that are one with any of them, and that one."""
    alike = (iou(Boxes(boxes, UNIT), Boxes(boxes, UNIT)) >= _SAME_BOX).mean(axis=1)
    return float(alike.max()), boxes[int(alike.argmax())]


# ---- what they are called --------------------------------------------------------------------------------------


class _Taken(NamedTuple):
    true: str
    named: str


def find_label_faults(sheet: Sheet, placed: np.ndarray) -> Iterator[Fault]:
    """Labels that the records do not know; else each class that is often taken for one other.

    A class is told by the label of a box that is right, or by what a box lies on.
    """
    others = _targets_by_picture(sheet)
    starts = np.searchsorted(sheet.owner, np.arange(len(sheet) + 1))
    named: list[_Taken] = []
    asked: list[_Taken] = []
    for place, case in enumerate(sheet.cases):
        boxes = Boxes(placed[starts[place] : starts[place + 1]], UNIT)
        if not is_loop(case):
            named += _named(case, boxes)
            asked += _asked(case, boxes, others)
    fault = _find_other_labels(sheet, named)
    if fault is not None:
        yield fault
    yield from _find_confusions(asked if fault else [*named, *asked])


def _short(label: str) -> str:
    return shorten(label, _SHOWN, placeholder=" ...")


def _find_other_labels(sheet: Sheet, named: Sequence[_Taken]) -> Fault | None:
    """Whether nearly all labels of right boxes are neither one of the records' nor a question itself."""
    known = {_fold(label) for case in sheet.cases for label in [*case.true_labels, case.record.question]}
    foreign = Counter(pair for pair in named if pair.named not in known)
    count = sum(foreign.values())
    if count < FEWEST or count < _NEARLY_ALL * len(named):
        return None
    examples = ", ".join(f"{_short(named)!r} for {_short(true)!r}" for (true, named), _ in foreign.most_common(3))
    message = f"{count} of {len(named)} labels of boxes that are right are none of the records' own (as {examples})"
    return fault_of("other_labels", message, count, len(named))


def _find_confusions(pairs: Sequence[_Taken]) -> Iterator[Fault]:
    met = Counter(pair.true for pair in pairs)
    taken = Counter(pair for pair in pairs if pair.true != pair.named)
    errors, total = sum(taken.values()), sum(met.values())
    for pair, count in taken.most_common():
        by_chance = errors / max(total, 1) / max(len(met) - 1, 1)
        is_most = count >= _MODE * met[pair.true]
        if count < _FEW_CLEAR or count < _CONFUSED * met[pair.true]:
            continue
        if is_most or float(binom.sf(count - 1, met[pair.true], by_chance)) < _BY_CHANCE:
            message = f"{_short(pair.true)!r} is taken for {_short(pair.named)!r} in {count} of {met[pair.true]} cases"
            yield fault_of("confused_classes", message, count, met[pair.true])


def _named(case: Case, boxes: Boxes) -> Iterator[_Taken]:
    """The labels of true boxes and of those answered boxes that are right."""
    found = iou(case.truth.to(UNIT), boxes)
    for true, answered in zip(*linear_sum_assignment(-found), strict=True):
        old, new = case.true_labels[true], case.labels[answered]
        if found[true, answered] >= HIT and old and new:
            yield _Taken(_fold(old), _fold(new))


Targets = dict[str, list[tuple[str, Boxes]]]


def _targets_by_picture(sheet: Sheet) -> Targets:
    """What is asked for on each picture, and where it lies."""
    targets: defaultdict[str, list[tuple[str, Boxes]]] = defaultdict(list)
    for case in sheet.cases:
        if case.record.image is not None:
            targets[str(case.record.image)].append((class_of(case), case.truth.to(UNIT)))
    return targets


def class_of(case: Case) -> str:
    """The one label of the targets, or else what was asked; folded."""
    labels = {_fold(label) for label in case.true_labels}
    return labels.pop() if len(labels) == 1 and labels != {""} else _fold(case.record.question)


def _asked(case: Case, boxes: Boxes, others: Targets) -> Iterator[_Taken]:
    """What was asked for, and what else of the picture the first answered box lies on."""
    if case.record.image is None or not len(boxes) or len({_fold(label) for label in case.true_labels}) > 1:
        return
    name, first = class_of(case), boxes[:1]
    there = [(other, float(iou(truth, first).max())) for other, truth in others[str(case.record.image)]]
    right = max((overlap for other, overlap in there if other == name), default=0.0)
    wrong = max(((overlap, other) for other, overlap in there if other != name), default=(0.0, ""))
    if right < HIT <= wrong[0]:
        yield _Taken(name, wrong[1])
    elif not any(case.labels):
        yield _Taken(name, name)
