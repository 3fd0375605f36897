"""Before against after: the same questions answered twice, and what can be said about the difference (`change`)."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from groundling.data.record import Target
from groundling.errors import RecordError
from groundling.evaluation.change import Change, changes, holm
from groundling.evaluation.groups import Groups, Marked, change_by_class, change_by_size
from groundling.evaluation.guard import GuardChange, compare_guards, guard_change_to_json, why_not_compared
from groundling.evaluation.metrics import (
    METRICS,
    Marks,
    Prediction,
    count_pointed,
    have_one_box,
    is_of_points,
    mark,
    worth_showing,
)
from groundling.evaluation.protocols import Protocol, find_protocol
from groundling.evaluation.ranking import DETECTION, compare_detection
from groundling.evaluation.report import ONLY_POINTS, Report, without_nan
from groundling.page.markdown import flatten
from groundling.page.page import show_change, show_p

HEADLINES = ("acc@0.5", "f1@0.5", "point_f1", "none_recall", "parse_rate")
"""The first that was measured gives the verdict: accuracy where it is of all boxes, F1 where there are boxes to find,
F1 of points where there are any. A protocol's own comes before them, F1 of points where most of what is asked is."""

_LABELS = 5  # that two reports have otherwise are named

_OWN = (
    "version",
    "family",
    "coordinates",
    "patch",
    "merge",
    "trained_on",
    "made_with",
)  # of a contract: the model's own
_MOST_TOLD = 60  # characters of a value in the line that tells of it; of a longer one, a prompt, the name alone


class Pair(NamedTuple):
    """One question, answered twice."""

    before: Prediction
    after: Prediction


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` returns. `metrics` are over the pairs alone, hence may differ from either report's own."""

    metrics: dict[str, Change]  # of METRICS and DETECTION
    headline: str | None  # the metric of the verdict; None where nothing was measured
    scored: bool | None  # whether AP ranks boxes by the answers' scores, not at 1.0 each; None without AP
    by_size: Groups
    by_class: Groups
    guard: GuardChange | None  # None unless both reports hold the same questions that are not grounding
    no_guard: str | None  # why there is none, though one of the reports has a guard
    otherwise: dict[str, tuple[Any, Any]]  # what the reports tell differently of how they were made, by its name
    pairs: list[Pair] = field(repr=False)
    marks: tuple[Marks, Marks] = field(repr=False)  # what the answers of the pairs earned, before and after
    unmatched_before: int  # questions that only the first report holds
    unmatched_after: int
    verdict: str
    warning: str | None  # why the comparison may be less than it seems
    before: str  # the reports' names
    after: str

    @property
    def made_otherwise(self) -> str | None:
        """How the two were asked differently, in one line; None where they were asked alike, as far as is known."""
        if not self.otherwise:
            return None
        told = [_tell_both(name, *values) for name, values in self.otherwise.items()]
        return f"the two reports were not made alike: {', '.join(told)} (before / after)"

    @property
    def full(self) -> tuple[int, int]:
        """How many answers of the pairs would have gone on, had there been room, before and after."""
        before, after = (sum(one.answer.is_full for one in side) for side in zip(*self.pairs, strict=True))
        return before, after

    @property
    def no_room(self) -> str | None:
        """How many answers were cut for want of room, in one line; None where none was."""
        told = self._tell_counts(self.full)
        return told and (
            f"{told} would have gone on, had there been room, so recall cannot be compared: "
            "raise --max-new-tokens (in a recipe evaluate.max_new_tokens)"
        )

    @property
    def pointed(self) -> tuple[int, int]:
        """How many questions for boxes are answered with points alone, before and after."""
        before, after = (count_pointed(side) for side in zip(*self.pairs, strict=True))
        return before, after

    @property
    def only_points(self) -> str | None:
        """How many answers are points in place of boxes, in one line; None where none is, or points are judged."""
        told = None if self.is_of_points else self._tell_counts(self.pointed)
        return told and f"{told} {ONLY_POINTS}"

    def _tell_counts(self, counts: tuple[int, int]) -> str | None:
        """So many answers of the one and of the other; None where both are 0."""
        named = zip(("the first report", "the second"), counts, strict=True)
        told = [f"{count} of {len(self.pairs)} answers of {name}" for name, count in named if count]
        return " and ".join(told) or None

    @property
    def warnings(self) -> list[str]:
        """Why the comparison may be less than it seems."""
        return [line for line in (self.warning, self.made_otherwise, self.no_room, self.only_points) if line]

    @property
    def is_of_points(self) -> bool:
        """Whether the verdict is on points."""
        return self.headline is not None and is_of_points(self.headline)

    @property
    def shown(self) -> dict[str, Change]:
        """The metrics that were measured and tell something: of points only where there is one, and the headline."""
        names = [*_worth_showing(self.pairs), self.headline, *DETECTION]
        return {
            name: change for name, change in self.metrics.items() if name in names and not math.isnan(change.difference)
        }


def compare(before: Report, after: Report, *, seed: int = 0, draws: int = 10_000) -> Comparison:
    """How much better or worse `after` answered the questions that both reports hold.

    Questions pair by id, wording and true places, so that line numbers of two files are not taken for one another.
    RecordError where no question pairs; where only some do, the rest are counted and a warning says so.
    """
    pairs = _pair(before, after)
    otherwise = _find_otherwise(before, after) | _find_relabelled(pairs)
    pairs = _hold_against_one_truth(pairs)
    asked, answered = [pair.before for pair in pairs], [pair.after for pair in pairs]
    old, new = Marked(asked, mark(asked)), Marked(answered, mark(answered))
    drawn = {"seed": seed, "draws": draws}
    rules = _find_rules(before, after)
    as_said = rules is not None and rules.as_said
    use_scores = rules is None or rules.use_scores
    detection = compare_detection(asked, answered, use_scores=use_scores, as_said=as_said, **drawn)
    metrics = dict(zip(METRICS, changes(old.marks, new.marks, **drawn), strict=True)) | detection.changes
    headlines = [name for name in _order_headlines(pairs, rules) if not math.isnan(metrics[name].difference)]
    headline = headlines[0] if headlines else None
    of_points = headline is not None and is_of_points(headline)
    return Comparison(
        metrics=metrics,
        headline=headline,
        scored=detection.scored,
        by_size=change_by_size(old, new, of_points=of_points, **drawn),
        by_class=change_by_class(old, new, of_points=of_points, as_said=as_said, **drawn),
        guard=compare_guards(before.guard, after.guard, **drawn),
        no_guard=why_not_compared(before.guard, after.guard),
        otherwise=otherwise,
        pairs=pairs,
        marks=(old.marks, new.marks),
        unmatched_before=len(before.predictions) - len(pairs),
        unmatched_after=len(after.predictions) - len(pairs),
        verdict=_verdict(metrics, pairs, headlines, [old.marks, new.marks]),
        warning=_warning(before, after, len(pairs)),
        before=before.name or "before",
        after=after.name or "after",
    )


def _find_rules(before: Report, after: Report) -> Protocol | None:
    """The protocol that both are under, if it is one."""
    return find_protocol(before.protocol) if before.protocol and before.protocol == after.protocol else None


def _order_headlines(pairs: Sequence[Pair], rules: Protocol | None) -> list[str]:
    """The metrics that apply, the one that gives the verdict first."""
    asked = [pair.before for pair in pairs]
    is_one = {
        "acc@0.5": have_one_box(asked),
        "f1@0.5": any(one.asks_for_boxes for one in asked),
        "point_f1": "point_f1" in _worth_showing(pairs) and any(one.record.targets for one in asked),
    }
    own = [rules.headline] if rules else []
    of_points = ["point_f1"] if is_one["point_f1"] and (_ask_for_points(asked) or _answer_points(pairs)) else []
    return list(dict.fromkeys([*own, *of_points, *(name for name in HEADLINES if is_one.get(name, True))]))


def _ask_for_points(asked: Sequence[Prediction]) -> bool:
    """Whether more questions have a point to find than boxes alone."""
    return sum(one.has_points for one in asked) > sum(one.asks_for_boxes for one in asked)


def _answer_points(pairs: Sequence[Pair]) -> bool:
    """Whether more questions for boxes are answered with points alone than with boxes, where any is, in each report."""
    sides = [[one for one in side if one.asks_for_boxes] for side in zip(*pairs, strict=True)]
    points = [count_pointed(side) for side in sides]
    boxes = [sum(len(one.answer.boxes) > 0 for one in side) for side in sides]
    return any(points) and all(
        boxed < pointed or boxed + pointed == 0 for boxed, pointed in zip(boxes, points, strict=True)
    )


def _worth_showing(pairs: Sequence[Pair]) -> list[str]:
    return worth_showing([each for pair in pairs for each in pair])


def _short(report: Report) -> str:
    return report.records_sha256[:12]


# ---- pairing ---------------------------------------------------------------------------------------------------


def _pair(before: Report, after: Report) -> list[Pair]:
    """Predictions of one and the same question, in the order of `before`; exact repeats pair in order."""
    waiting: defaultdict[tuple[object, ...], list[Prediction]] = defaultdict(list)
    for prediction in reversed(after.predictions):
        waiting[_identity(prediction)].append(prediction)
    pairs = [Pair(one, waiting[_identity(one)].pop()) for one in before.predictions if waiting[_identity(one)]]
    if not pairs:
        raise RecordError(
            f"the two reports share no question: records {_short(before)} (first) and {_short(after)} (second); "
            "evaluate both models on one record file"
        )
    return pairs


def _identity(prediction: Prediction) -> tuple[object, ...]:
    record = prediction.record
    places = sorted(tuple(map(float, target.numbers)) for target in record.targets)
    return record.id, record.question, prediction.original, tuple(places)


def _find_relabelled(pairs: Sequence[Pair]) -> dict[str, tuple[str, str]]:
    """The labels that targets have in the first report, and what the second calls these; none where one has none."""
    found: dict[tuple[str, str], None] = {}
    for pair in pairs:
        old, new = (sorted(one.record.targets, key=_tell_apart) for one in pair)
        labels = [(target.label, other.label) for target, other in zip(old, new, strict=True)]
        found |= {(label, other): None for label, other in labels if label and other and label != other}
    if not found:
        return {}
    more = f" and {len(found) - _LABELS} more" if len(found) > _LABELS else ""
    old, new = (", ".join(names[:_LABELS]) + more for names in zip(*found, strict=True))
    return {"labels": (old, new)}


def _tell_apart(target: Target) -> tuple[Sequence[float], str]:
    return target.numbers, target.label or ""


def _hold_against_one_truth(pairs: Sequence[Pair]) -> list[Pair]:
    """Both with the targets of the report that names more of them, the first where both do: AP is of classes.

    Reports of an older groundling hold no labels, and records may have been labelled anew. No pair takes the other
    report's labels, for one class may have a name in each.
    """
    old, new = zip(*pairs, strict=True)
    truths = [one.record.targets for one in (new if _count_named(new) > _count_named(old) else old)]
    return [
        Pair(*(replace(one, record=replace(one.record, targets=targets)) for one in pair))
        for pair, targets in zip(pairs, truths, strict=True)
    ]


def _count_named(predictions: Sequence[Prediction]) -> int:
    return sum(bool(target.label) for one in predictions for target in one.record.targets)


def _warning(before: Report, after: Report, paired: int) -> str | None:
    if paired == len(before.predictions) == len(after.predictions):
        return None
    records = f"the reports were made on different records ({_short(before)} and {_short(after)}): "
    alone = [len(report.predictions) - paired for report in (before, after)]
    return (
        f"{records}only the {_count(paired, 'question')} that both hold can be compared; "
        f"{alone[0]} of the first report and {alone[1]} of the second have no partner"
    )


# ---- how they were made ----------------------------------------------------------------------------------------


def _find_otherwise(before: Report, after: Report) -> dict[str, tuple[Any, Any]]:
    """What contracts and options say differently of how it was asked; what one report does not tell is left out."""
    old, new = (
        {**report.contract, **(report.options or {}), "protocol": report.protocol or "none"}
        for report in (before, after)
    )
    return {name: (old[name], new[name]) for name in old if name in new and old[name] != new[name] and name not in _OWN}


def _tell_both(name: str, before: Any, after: Any) -> str:
    old, new = (flatten(value) if isinstance(value, str) else json.dumps(value) for value in (before, after))
    return name if max(len(old), len(new)) > _MOST_TOLD else f"{name} {old} / {new}"


# ---- in words and numbers --------------------------------------------------------------------------------------


def _verdict(metrics: dict[str, Change], pairs: Sequence[Pair], names: Sequence[str], marks: Sequence[Marks]) -> str:
    """One sentence on the first of the metrics, and which others say something else.

    It is a difference only where the interval and the p value both say so. `marks` are those of both reports.
    """
    if not names:
        return "nothing was measured in both reports"
    name = names[0]
    change = metrics[name]
    low, high = change.ci95
    interval = "" if math.isnan(low) else f" [{show_change(low, 2)}, {show_change(high, 2)}]"
    p = show_p(change.p)
    numbers = f"{name} {show_change(change.difference, 2)}{interval}, p {p if p.startswith('<') else '= ' + p}"
    telling = _worth_showing(pairs)
    others = [other for other in names[1:] if other in telling]
    detecting = [other for other in ("map", "label_f1@miou") if not math.isnan(metrics[other].difference)]
    but = _tell_others(metrics, change, [*others, *(other for other in detecting if other != name)])
    if change.is_seen():
        return f"{'better' if change.difference > 0 else 'worse'}: {numbers}{but}"
    counted = _counted(name, pairs, marks)
    pictures = len({pair.after.record.image for pair in counted})
    asked = f"{_count(len(counted), 'question')} about {_count(pictures, 'picture')}"
    return f"no difference that {asked} can show: {numbers}{but}"


def _counted(name: str, pairs: Sequence[Pair], marks: Sequence[Marks]) -> list[Pair]:
    """Those that count in a metric, in either report."""
    if name in DETECTION:
        return [pair for pair in pairs if not pair.before.has_points]
    counts = np.any([each.applies(name) for each in marks], axis=0)
    return [pair for pair, is_one in zip(pairs, counts, strict=True) if is_one]


def _tell_others(metrics: dict[str, Change], head: Change, names: Sequence[str]) -> str:
    """Those of other metrics that are seen to differ, and not the way of the first; corrected for their number."""
    corrected = holm([metrics[name].p for name in names])
    seen = [metrics[name].is_seen(p) for name, p in zip(names, corrected, strict=True)]
    way = math.copysign(1, head.difference) if head.is_seen() else 0
    told = [
        f"{name} {show_change(metrics[name].difference, 2)}"
        for name, is_seen in zip(names, seen, strict=True)
        if is_seen and metrics[name].difference * way <= 0
    ]
    return f"; but {', '.join(told)}" if told else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """`{metric: {before, after, difference, ci95, p}}`, and beside the metrics what was compared and what it says."""
    value = {name: change._asdict() for name, change in comparison.metrics.items()} | {
        "scores": None if comparison.scored is None else "answers" if comparison.scored else "1.0",
        "by_size": _groups_to_json(comparison.by_size),
        "by_class": _groups_to_json(comparison.by_class),
        "guard": guard_change_to_json(comparison.guard),
        "no_guard": comparison.no_guard,
        "made_otherwise": comparison.otherwise,
        "matched": len(comparison.pairs),
        "unmatched": {"before": comparison.unmatched_before, "after": comparison.unmatched_after},
        "full": dict(zip(("before", "after"), comparison.full, strict=True)),
        "pointed": dict(zip(("before", "after"), comparison.pointed, strict=True)),
        "verdict": comparison.verdict,
        "warning": comparison.warning,
    }
    return without_nan(value)


def _groups_to_json(found: Groups) -> dict[str, Any]:
    """`looked_at` is the number of groups that `p_holm` is corrected for."""
    groups = {
        group.name: {"questions": group.questions, "pictures": group.pictures}
        | group.change._asdict()
        | {"p_holm": group.p_holm, "differs": group.differs}
        for group in found.groups
    }
    return {
        "metric": found.metric,
        "looked_at": len(found.groups),
        "groups": groups,
        "left_out": found.left_out,
    }
