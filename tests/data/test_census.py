"""What record files hold, in numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from clean_set import examine_set

from groundling.data.census import USUAL_BUDGET, BoxSizes, Census, Lengths, Rescue, show_percent, take_census
from groundling.data.check import examine
from groundling.data.check_summary import describe
from groundling.data.judge import Case, judge_boxes
from groundling.data.look import Look
from groundling.data.record import Record, Rejected, Target
from groundling.dialect.family import FAMILIES, Budget
from groundling.geometry.frame import Frame

QUARTER = Budget(FAMILIES["qwen2_5_vl"], min_pixels=28**2, max_pixels=280 * 280)  # 100 tokens; 560x560 shrinks by half
BIG = Frame(560, 560)


def census_of(*records: Record, budget: Budget | None = QUARTER, frame: Frame = BIG) -> Census:
    cases = [Case.of(record, Look(frame, digest=str(record.image)) if record.image else None) for record in records]
    return take_census(cases, judge_boxes(cases).boxes, [Rejected("b.jsonl", 1, "not JSON")], budget)


def boxed(*boxes: tuple[float, ...], label: str | None = None, image: str = "a.jpg") -> Record:
    targets = tuple(Target(box=box, label=label) for box in boxes)  # type: ignore[arg-type]
    return Record("?", Path(image), targets, file=Path("a.jsonl"))


def test_files_are_counted() -> None:
    point = Record("?", Path("b.jpg"), (Target(point=(1, 2)),), file=Path("a.jsonl"))
    text = Record("?", None, answer="yes", file=Path("a.jsonl"))
    first, second = census_of(boxed((0, 0, 9, 9), (9, 9, 20, 20)), boxed(), point, text).files
    assert (second.name, second.records, second.negatives, second.texts) == ("a.jsonl", 4, 1, 1)
    assert (second.boxes, second.points, second.pictures, second.rejected) == (2, 1, 2, 0)
    assert (first.name, first.records, first.rejected) == ("b.jsonl", 0, 1)


def test_box_sizes_are_tokens_of_the_resized_picture() -> None:
    """A box of 56x56 in 560x560 is 28x28 in 280x280: one token, which is not under one."""
    sizes = census_of(boxed((0, 0, 56, 56), (0, 0, 28, 28), (100, 100, 212, 212), (3, 3, 17, 17))).box_sizes
    assert sizes is not None and not sizes.is_usual
    # 1, 1/4, 4 and 1/16 of a token; a bin holds its lower edge
    assert sizes.bins == (0, 1, 1, 1, 1, 0, 0, 0)
    assert (sizes.count, sizes.small) == (4, 0.5)
    # 200 tokens double the area, 400 give the picture at its own size, where more changes nothing
    assert sizes.rescues == (Rescue(200, 0.5), Rescue(400, 0.25))
    assert sizes.advice == (
        "50 % of targets are under 1 token at images.max_tokens=100; images.max_tokens=400 would bring it to 25 %"
    )


@pytest.mark.parametrize(
    ("small", "rescues", "advice"),
    [
        (0.005, (), None),
        (0.2, (), "20 % of targets are under 1 token at images.max_tokens=100, and no larger budget helps: "),
        (
            0.2,
            (Rescue(200, 0.19),),
            "at images.max_tokens=100, and larger budgets hardly help: 19 % are at 200",
        ),
        (0.2, (Rescue(200, 0.1), Rescue(400, 0.0)), "images.max_tokens=200 would bring it to 10 %"),
    ],
)
def test_a_larger_budget_is_advised_where_it_halves_the_small_ones(
    small: float, rescues: tuple[Rescue, ...], advice: str | None
) -> None:
    found = BoxSizes(QUARTER, False, 100, (0,) * 8, small, rescues).advice
    assert found is None if advice is None else found is not None and advice in found


def test_without_a_budget_the_usual_one_is_told() -> None:
    sizes = census_of(boxed((0, 0, 56, 56)), budget=None).box_sizes
    assert sizes is not None and sizes.is_usual and sizes.budget == USUAL_BUDGET and sizes.budget.max_tokens == 1280


def test_the_usual_budget_is_that_of_a_base_model() -> None:
    from groundling.model.contract import DEFAULT_MAX_TOKENS

    assert USUAL_BUDGET.max_tokens == DEFAULT_MAX_TOKENS


def test_pictures_are_counted_once_and_by_area() -> None:
    looks = {"a": Frame(100, 100), "b": Frame(1000, 10), "c": Frame(600, 600)}
    cases = [Case.of(Record("?", Path(name)), Look(looks[name])) for name in "aabca"]
    sizes = take_census(cases, [], [], QUARTER).picture_sizes
    assert sizes is not None and sizes.count == 3
    assert (sizes.smallest, sizes.median, sizes.largest) == (Frame(100, 100), Frame(1000, 10), Frame(600, 600))
    assert sizes.shrunk == pytest.approx(1 / 3)


def test_labels_are_classes_where_they_repeat() -> None:
    cups, forks = [boxed((0, 0, 9, 9), label="cup")] * 7, [boxed((0, 0, 9, 9), label="fork")] * 3
    census = census_of(*cups, *forks)
    assert census.has_classes and [tuple(count) for count in census.classes] == [("cup", 7, 7), ("fork", 3, 3)]
    phrases = [boxed((0, 0, 9, 9), label=f"the cup number {number}") for number in range(10)]
    assert not census_of(*phrases).has_classes
    assert not census_of(*cups).has_classes, "one label says nothing of balance"


def test_nothing_holds_nothing() -> None:
    census = take_census([], [], [], None)
    assert (census.files, census.classes, census.box_sizes, census.picture_sizes) == ((), (), None, None)
    assert census.advice == []
    assert describe(examine([])).strip() == "errors: 0, warnings: 0, notes: 0"


def test_lengths_advise_what_to_set() -> None:
    fits = Lengths(100, 50, 90, limit=100, too_long=0, longest_answer=20, max_new_tokens=64)
    assert fits.advice is None
    long = fits._replace(longest=120, too_long=3)
    assert long.advice == "3 % of samples have more than the 100 tokens of the recipe, up to 120"
    talkative = fits._replace(longest_answer=70)
    assert talkative.advice is not None and talkative.advice.endswith("set evaluate.max_new_tokens=70")


@pytest.mark.parametrize(("share", "words"), [(0, "0 %"), (0.004, "< 1 %"), (0.124, "12 %"), (1, "100 %")])
def test_shares_in_words(share: float, words: str) -> None:
    assert show_percent(share) == words


def test_the_summary_tells_the_census_first(drawn: Path) -> None:
    lines = describe(examine_set(drawn)).splitlines()
    assert lines[0] == f"{drawn}/train.jsonl: 72 records, 24 pictures, 72 boxes"
    assert lines[1] == f"{drawn}/test.jsonl: 24 records, 8 pictures, 24 boxes"
    assert lines[2].startswith("32 pictures that can be read: 240x320 to 352x352, the middle one ")
    assert lines[3].startswith("4 classes: ")
    assert lines[4] == "96 boxes in visual tokens of 28x28 pixels at images.max_tokens=1280"
    assert lines[-1] == "errors: 0, warnings: 0, notes: 0"
