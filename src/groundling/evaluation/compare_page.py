"""A comparison on disk: `comparison.json`, one self-contained page with pictures, and the same as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from groundling.evaluation.change import Change
from groundling.evaluation.compare import Comparison, Pair, comparison_to_json
from groundling.evaluation.groups import LEAST_PICTURES, Groups
from groundling.evaluation.guard import GuardChange
from groundling.evaluation.metrics import METRICS, Marks, accuracy_curve
from groundling.evaluation.plot import AXES, Line, trace
from groundling.evaluation.ranking import DETECTION, DRAWS
from groundling.evaluation.report import write_json
from groundling.geometry.boxes import Boxes
from groundling.page.markdown import escape, public_name, table
from groundling.page.page import (
    View,
    around,
    embed,
    layer,
    open_or_none,
    show_change,
    show_p,
    show_share,
    write_page,
)

_ALIKE = 0.05  # a change of standing below this is much the same; shown galleries only, no number depends on it
_SHOWN = 16  # pictures of each gallery
_LISTED = 5  # questions of each gallery, in Markdown
_LEAST_VIEW = 1 / 3  # of each side of the picture, shown around the boxes
_VIEW_ASPECT = 1.3  # of one of the two views on a card, as the page's style has it
_NAMED = 30  # classes that were not looked at, by name

SIZES_TOLD = "Its area over the picture's: small below 0.005, large from 0.05."


def write_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write comparison.json, comparison.html and comparison.md into a folder, made where it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(comparison_to_json(comparison), folder / "comparison.json")
    before, after = _distinct_names(comparison)
    pictures = len(set(comparison.marks[0].pictures.tolist()))
    write_page(
        folder / "comparison.html",
        Path(__file__).with_name("compare.html.j2"),
        comparison=comparison,
        words=METRICS | DETECTION,
        metrics=comparison.shown,
        told=_told(comparison),
        reach=_reach(comparison),
        pictures=pictures,
        parts_of_all=_parts_of_all(comparison),
        before=before,
        after=after,
        names=(public_name(comparison.before), public_name(comparison.after)),
        standing_told=_standing_told(comparison),
        lines=_curves(comparison, before, after),
        axes=AXES,
        parts=_gallery(comparison),
    )
    text = comparison_to_markdown(comparison, pictures)
    (folder / "comparison.md").write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _told(comparison: Comparison) -> str:
    """What interval and p value are, and how boxes were ranked."""
    text = (
        "The interval is that of the difference, 95 %, drawn by picture; p is the share of random swaps of before and "
        "after that give a difference at least as large, not corrected for how many metrics there are."
    )
    if comparison.scored is None:
        return text
    ranked = "by the answers' scores" if comparison.scored else "at 1.0 each, in the order of a hash of their question"
    return f"{text} AP ranks boxes {ranked}, and its intervals and p values are of {DRAWS} draws."


def _distinct_names(comparison: Comparison) -> tuple[str, str]:
    """What curves are called: the models' names, and which report is meant where they are one."""
    before, after = public_name(comparison.before), public_name(comparison.after)
    return (f"{before} (before)", f"{after} (after)") if before == after else (before, after)


def _curves(comparison: Comparison, before: str, after: str) -> list[Line]:
    """How exact the boxes are, by these names; none where points are judged."""
    if comparison.is_of_points:
        return []
    old, new = comparison.marks
    lines = [trace(accuracy_curve(old), before, "before"), trace(accuracy_curve(new), after, "after")]
    return [line for line in lines if line]


def _reach(comparison: Comparison) -> float:
    """How far from 0 the axis of differences goes: the furthest end of an interval, in steps of 0.05."""
    groups = [*comparison.by_size.groups, *comparison.by_class.groups]
    found = [*comparison.shown.values(), *(group.change for group in groups)]
    ends = [abs(end) for change in found for end in (*change.ci95, change.difference) if not math.isnan(end)]
    return max(math.ceil(max(ends, default=0) * 20) / 20, 0.05)


class PartOfAll(NamedTuple):
    """A table of groups, and what is to be said about it."""

    title: str
    name: str  # of one group
    note: str
    found: Groups


def _parts_of_all(comparison: Comparison) -> list[PartOfAll]:
    size, label = comparison.by_size, comparison.by_class
    parts = [
        PartOfAll("By size of the target", "size", f"{SIZES_TOLD} {_looked_at(size)}", size),
        PartOfAll("By class", "class", f"{_looked_at(label)} {_left_out(label)}".strip(), label),
    ]
    return [part for part in parts if part.found.groups]


def _looked_at(found: Groups) -> str:
    differing = sum(group.differs for group in found.groups)
    return (
        f"{found.metric}; {len(found.groups)} looked at, {differing} of them different. "
        "p is corrected for how many were looked at (Holm), and none counts as different where that is 0.05 or more."
    )


def _left_out(found: Groups) -> str:
    """The classes with fewer questions, by name as far as there is room."""
    if not found.left_out:
        return ""
    names = [f"{name} ({count})" for name, count in list(found.left_out.items())[:_NAMED]]
    more = f", and {len(found.left_out) - _NAMED} more" if len(found.left_out) > _NAMED else ""
    return f"Not looked at, with fewer questions or under {LEAST_PICTURES} pictures: {', '.join(names)}{more}."


# ---- closer and further -------------------------------------------------------------------------------------------


def _standings(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,) what pairs are sorted by, before and after."""
    of_points = comparison.headline if comparison.is_of_points else None
    old, new = comparison.marks
    return _standing(old, of_points), _standing(new, of_points)


def _standing(marks: Marks, of_points: str | None) -> np.ndarray:
    """(N,) by the metric of points, or that of boxes; by F1 of points where it does not apply."""
    standing = marks.column(of_points) if of_points else marks.standing
    return np.where(np.isnan(standing), marks.column("point_f1"), standing)


def _standing_told(comparison: Comparison) -> str:
    if comparison.is_of_points:
        return f"By {comparison.headline} of each question."
    places = "Whatever things are called, by" if comparison.headline == "map" else "By"
    return (
        f"{places} IoU, of several boxes by F1 at IoU 0.5, of points by their F1, and 1 or 0 where there is nothing to "
        "find. An answer that came closer may be a miss as before: the metrics tell how many are hits."
    )


def sort_pairs(old: np.ndarray, new: np.ndarray) -> dict[str, list[int]]:
    """Places of the pairs by the change of their standing, the greatest first."""
    change = (new - old).tolist()
    order = np.argsort(-np.abs(new - old), kind="stable").tolist()
    return {
        "Closer to the truth": [index for index in order if change[index] >= _ALIKE],
        "Further from the truth": [index for index in order if change[index] <= -_ALIKE],
        "Much the same": [index for index in reversed(order) if abs(change[index]) < _ALIKE],
    }


class Card(NamedTuple):
    """One picture, its question and both answers."""

    before: View
    after: View
    before_standing: float
    after_standing: float
    pair: Pair


class Part(NamedTuple):
    """Answers that came closer, went further, or neither: how many there are, and some of them."""

    title: str
    questions: int
    cards: list[Card]


def _gallery(comparison: Comparison) -> list[Part]:
    old, new = _standings(comparison)

    def show(index: int) -> Card:
        return _card(comparison.pairs[index], float(old[index]), float(new[index]), index)

    return [
        Part(title, len(indices), [show(index) for index in indices[:_SHOWN]])
        for title, indices in sort_pairs(old, new).items()
        if indices
    ]


def _card(pair: Pair, old: float, new: float, number: int) -> Card:
    original = pair.before.original
    image = open_or_none(pair.before.record.image) or open_or_none(pair.after.record.image)
    before, after, truth = pair.before.answer, pair.after.answer, pair.before.truth
    true_points = pair.before.record.true_points(original)
    spots = [Boxes(np.tile(each.xy, 2), original) for each in (before.points, after.points, true_points)]
    region = around([before.boxes, after.boxes, truth, *spots], original, least=_LEAST_VIEW, aspect=_VIEW_ASPECT)
    true_layer = layer("truth", truth, true_points)
    before_layer, after_layer = layer("before", before.boxes, before.points), layer("after", after.boxes, after.points)
    name = f"p{number}"
    return Card(
        before=View(name, region, embed(image, region, original), [before_layer, true_layer]),
        after=View(f"{name}-after", region, None, [after_layer, true_layer], same_as=name),
        before_standing=old,
        after_standing=new,
        pair=pair,
    )


# ---- Markdown --------------------------------------------------------------------------------------------------


def comparison_to_markdown(comparison: Comparison, pictures: int) -> str:
    """The page without its pictures, for a model card or a pull request; no absolute path is in it."""
    return "\n\n".join(_sections(comparison, pictures)) + "\n"


def _sections(comparison: Comparison, pictures: int) -> Iterator[str]:
    verdict = comparison.verdict
    yield f"# {escape(verdict[0].upper() + verdict[1:])}"
    before, after = (escape(public_name(name)) for name in (comparison.before, comparison.after))
    yield (
        f"{len(comparison.pairs)} questions about {pictures} pictures, answered by **{before}** (before) and "
        f"**{after}** (after)."
    )
    yield from (f"> {escape(warning, 1000)}." for warning in comparison.warnings)
    yield change_table("metric", comparison.shown)
    yield _told(comparison)
    for part in _parts_of_all(comparison):
        yield f"## {part.title}"
        yield escape(part.note, 2000)
        yield _group_table(part)
    if comparison.guard:
        yield from guard_to_markdown(comparison.guard)
    elif comparison.no_guard:
        yield f"Other abilities: {escape(comparison.no_guard, 400)}."
    yield from _closer_and_further(comparison)


def change_table(what: str, found: Mapping[str, Change]) -> str:
    """Changes by name, one a line."""
    header = [what, "before", "after", "difference", "95 %", "p"]
    return table(header, [[escape(name), *_cells(change), show_p(change.p)] for name, change in found.items()])


def _group_table(part: PartOfAll) -> str:
    header = [part.name, "questions", "before", "after", "difference", "95 %", "p (Holm)"]
    rows = [
        [
            f"**{escape(group.name)}**" if group.differs else escape(group.name),
            str(group.questions),
            *_cells(group.change),
            show_p(group.p_holm),
        ]
        for group in part.found.groups
    ]
    return table(header, rows)


def _cells(change: Change) -> list[str]:
    low, high = change.ci95
    interval = "" if math.isnan(low) else f"{show_change(low)} to {show_change(high)}"
    return [show_share(change.before), show_share(change.after), show_change(change.difference), interval]


def guard_to_markdown(found: GuardChange, heading: str = "##") -> Iterator[str]:
    """What became of other abilities."""
    yield f"{heading} Other abilities"
    yield (
        f"{found.questions} questions that are not grounding ({escape(found.name)}), log-likelihood per token of the "
        f"right answer: {found.verdict}."
    )
    yield change_table("answers", {"log-likelihood": found.change})
    if found.is_worse:
        yield "How likely each token of the right answer was, where it fell most:"
        rows = [
            [escape(fall.question), escape(fall.answer), show_share(fall.before), show_share(fall.after)]
            for fall in found.falls
        ]
        yield table(["question", "right answer", "before", "after"], rows)


def _closer_and_further(comparison: Comparison) -> Iterator[str]:
    """How many answers came closer to the truth and went further from it, and the clearest of each."""
    old, new = _standings(comparison)
    sorted_pairs = sort_pairs(old, new)
    yield "## Question by question"
    yield escape(_standing_told(comparison), 400)
    yield ", ".join(f"{name.lower()}: {len(places)}" for name, places in sorted_pairs.items())
    questions = [escape(pair.before.record.question) for pair in comparison.pairs]
    rows = [
        [questions[place], show_share(old[place], 2), show_share(new[place], 2)]
        for name in ("Closer to the truth", "Further from the truth")
        for place in sorted_pairs[name][:_LISTED]
    ]
    if rows:
        yield table(["question", "before", "after"], rows)
