"""Labelled things become questions whose answers leave nothing out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.formats.detection import Annotated, Thing
from groundling.data.formats.found import Found
from groundling.data.questions import Asking, Per, ask_about
from groundling.data.record import Rejected
from groundling.errors import SettingsError

CUP, OTHER_CUP, MUG = Thing("cup", (1, 2, 3, 4)), Thing("cup", (5, 6, 7, 8)), Thing("mug", (0, 0, 9, 9))
BROKEN_CUP = Thing("cup", fault="a crowd, not one thing")
CROWD = "thing 1 ('cup'): a crowd, not one thing"


def picture(*things: Thing, looked_for: tuple[str, ...] | None = None, name: str = "a.jpg") -> Annotated:
    return Annotated(Path(name), Path("set.json"), 7, things, looked_for=looked_for, image_name=name, id="a")


def asked(annotated: Annotated, asking: Asking, known: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """Each question, with the number of its targets."""
    return [
        (found.question, len(found.targets))
        for found in ask_about(annotated, asking, known)
        if isinstance(found, Found)
    ]


def reasons(annotated: Annotated, asking: Asking) -> list[str]:
    return [bad.reason for bad in ask_about(annotated, asking) if isinstance(bad, Rejected)]


# ---- one a class, a box, a picture -----------------------------------------------------------------------------


def test_a_question_a_class_with_all_its_boxes():
    first, second = ask_about(picture(CUP, MUG, OTHER_CUP), Asking())

    assert isinstance(first, Found) and isinstance(second, Found)
    assert (first.question, second.question) == ("cup", "mug")
    assert [target.box for target in first.targets] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert [target.label for target in first.targets] == ["cup", "cup"]
    assert (first.id, first.file, first.line, first.image_name) == ("a:cup", Path("set.json"), 7, "a.jpg")


def test_a_question_a_box():
    assert asked(picture(CUP, MUG, OTHER_CUP), Asking("box")) == [("cup", 1), ("mug", 1), ("cup", 1)]


def test_one_question_about_all_classes_also_those_that_are_not_there():
    words = "every instance that belongs to the following categories: 'cup, fork, mug'"

    assert asked(picture(CUP, MUG, OTHER_CUP, looked_for=("cup", "fork", "mug")), Asking("picture")) == [(words, 3)]
    assert asked(picture(), Asking("picture"), known=("cup", "fork", "mug")) == [(words, 0)]


def test_words_of_ones_own():
    assert asked(picture(MUG), Asking(template="each {label}, please")) == [("each mug, please", 1)]
    assert asked(picture(CUP, MUG), Asking("picture", "all of {labels}")) == [("all of cup, mug", 2)]


def test_only_the_labels_that_are_wanted():
    wanted = Asking(labels=("fork", "mug"))

    assert asked(picture(CUP, MUG), wanted) == [("mug", 1)]
    assert reasons(picture(MUG, BROKEN_CUP), wanted) == [], "nobody asked for cups"
    assert asked(picture(CUP, MUG), Asking("picture", labels=("mug", "cup"))) == [
        ("every instance that belongs to the following categories: 'mug, cup'", 2)
    ]


def test_a_point_is_a_target_too():
    (found,) = ask_about(picture(Thing("nose", (3, 4), extra={"visible": 2})), Asking())

    assert isinstance(found, Found)
    assert (found.targets[0].point, found.targets[0].extra) == ((3, 4), {"visible": 2})


# ---- answers leave nothing out ---------------------------------------------------------------------------------


def test_a_class_with_a_thing_that_cannot_be_used_is_not_asked_about():
    spoilt = picture(CUP, BROKEN_CUP, MUG)

    assert asked(spoilt, Asking()) == [("mug", 1)]
    assert reasons(spoilt, Asking()) == [f"a.jpg: {CROWD}"]


def test_nor_is_a_whole_picture():
    spoilt = picture(CUP, BROKEN_CUP, MUG)

    assert asked(spoilt, Asking("picture")) == []
    assert reasons(spoilt, Asking("picture")) == [
        f"a.jpg: {CROWD}",
        "a.jpg: not asked about: the answer would leave out things of cup",
    ]


def test_a_question_a_box_claims_nothing_about_the_others():
    assert asked(picture(CUP, BROKEN_CUP, MUG), Asking("box")) == [("cup", 1), ("mug", 1)]


def test_a_label_with_a_broken_thing_is_never_a_negative():
    spoilt = picture(BROKEN_CUP, looked_for=("cup", "fork"))

    assert asked(spoilt, Asking(negatives=9)) == [("fork", 0)]


def test_a_picture_with_nothing_on_it_is_told():
    assert reasons(picture(), Asking()) == [
        "a.jpg: nothing on this picture is labelled; with --negatives it is asked about what it lacks"
    ]


# ---- negatives -------------------------------------------------------------------------------------------------


def test_negatives_are_labels_that_were_looked_for_and_not_found():
    assert asked(picture(CUP, looked_for=("cup", "fork")), Asking(negatives=1)) == [("cup", 1), ("fork", 0)]
    assert asked(picture(CUP), Asking(negatives=1), known=("cup", "fork")) == [("cup", 1), ("fork", 0)]
    assert asked(picture(CUP, looked_for=("cup",)), Asking(negatives=1), known=("fork",)) == [("cup", 1)]
    assert asked(picture(), Asking(negatives=1), known=("fork",)) == [("fork", 0)]


def test_a_rate_below_one_is_a_chance_and_the_seed_decides():
    def negatives(seed: int) -> list[tuple[str, int]]:
        pictures = (picture(CUP, name=f"{number}.jpg") for number in range(1000))
        asking = Asking(negatives=0.25, seed=seed)
        return [ask for one in pictures for ask in asked(one, asking, known=("cup", "fork", "mug")) if not ask[1]]

    found = Counter(negatives(0))
    assert 200 < found.total() < 300  # 250 expected, standard deviation 14
    assert set(found) == {("fork", 0), ("mug", 0)}
    assert negatives(0) == negatives(0) != negatives(1)


@given(
    st.lists(st.sampled_from([CUP, OTHER_CUP, MUG, BROKEN_CUP]), max_size=6),
    st.sampled_from(["class", "box", "picture"]),
    st.sampled_from([0.0, 0.5, 2.0]),
)
def test_every_sound_thing_is_answered_or_its_absence_told(things: list[Thing], per: Per, rate: float):
    asking = Asking(per, negatives=0 if per == "picture" else rate)
    found = list(ask_about(picture(*things), asking, ("cup", "mug", "fork")))

    answered = sum(len(item.targets) for item in found if isinstance(item, Found))
    if all(not thing.fault for thing in things):
        assert answered == len(things)
    for item in found:
        if isinstance(item, Found) and per == "class":
            assert len(item.targets) == sum(thing.label == item.question for thing in things)


# ---- wrong use -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per": "pixel"}, "one question per 'pixel'; expected class, box, picture"),
        ({"template": "where?"}, r"the question 'where\?' has no \{label\} in it"),
        ({"per": "picture", "template": "{label}"}, r"has no \{labels\} in it"),
        ({"negatives": -1}, "-1 negatives a question; expected 0 or more"),
        ({"per": "picture", "negatives": 1}, "has its negatives in it; leave the rate out"),
    ],
)
def test_wrong_use_is_told(values: dict[str, object], message: str):
    with pytest.raises(SettingsError, match=message):
        Asking(**values)  # type: ignore[arg-type]
