"""The grammar of an answer holds what `write_answer` writes, and nothing that `read_answer` could not read."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.dialect.answer import Item, write_answer
from groundling.dialect.family import AnswerForm
from groundling.dialect.grammar import Filled, Fixed, Label, Number, may_begin, skeleton
from groundling.geometry.frame import Frame

FRAME = Frame(100, 50)
END = "<|im_end|>"
FORMS = get_args(AnswerForm)


def walk(text: str, form: AnswerForm, frame: Frame = FRAME) -> list[object]:
    """The numbers and labels in the free places of an answer. AssertionError where the grammar has no such text."""
    places = skeleton(form, frame, END)
    slot, found = next(places), []
    while True:
        start = text
        value = 0
        if isinstance(slot, Number):
            digits = text[: next(place for place, letter in enumerate(text) if not letter.isdecimal())]
            assert digits == "0" or not digits.startswith("0")
            value = int(digits)
            assert slot.least <= value <= slot.most, f"{value} is not in {slot.least}..{slot.most}"
            found.append(value)
            text = text[len(digits) :]
        elif isinstance(slot, Label):
            opening = ' "' if slot.is_quoted else ""
            assert text.startswith(opening)
            text = text[len(opening) :]
            ends = [place for place in range(len(text)) if any(text[place:].startswith(then) for then in slot.then)]
            assert ends, f"nothing closes the label in {text!r}"
            found.append(text[: ends[0]])
            text = text[ends[0] :]
        fits = [branch for branch, then in enumerate(slot.then) if text.startswith(then)]
        assert len(fits) == 1, f"{start!r} goes on as {len(fits)} of {slot.then}"
        text = text[len(slot.then[fits[0]]) :]
        try:
            slot = places.send(Filled(fits[0], value))
        except StopIteration:
            assert not text, f"{text!r} is left"
            return found


def written(items: list[Item], form: AnswerForm, frame: Frame = FRAME) -> str:
    return "".join(piece.text for piece in write_answer(items, form, frame)) + END


# ---- by hand ---------------------------------------------------------------------------------------------------


def test_the_places_of_one_bare_box():
    places = skeleton("bare", FRAME, END)

    assert next(places) == Fixed(("[]<|im_end|>", '{"bbox_2d": [', '{"point_2d": ['))
    assert places.send(Filled(1)) == Number(0, 99, (", ",))
    assert places.send(Filled(0, 90)) == Number(0, 49, (", ",))
    assert places.send(Filled(0, 20)) == Number(91, 100, (", ",))
    assert places.send(Filled(0, 95)) == Number(21, 50, ("]}<|im_end|>", '], "label":'))
    assert places.send(Filled(1, 50)) == Label(('"}<|im_end|>',), is_quoted=True)
    with pytest.raises(StopIteration):
        places.send(Filled(0))


def test_a_list_may_go_on_behind_each_thing():
    places = skeleton("list", FRAME, END)
    next(places)
    for _ in range(3):
        assert places.send(Filled(2, 7)) == Number(0, 100, (", ",))
        texts = ("]}]<|im_end|>", ']}, {"bbox_2d": [', ']}, {"point_2d": [', '], "label":')
        assert places.send(Filled(0, 7)) == Number(0, 50, texts, more=2)


@pytest.mark.parametrize("form", FORMS)
def test_there_may_be_nothing(form: AnswerForm):
    assert walk("[]" + END, form) == []


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [40, 20, 30, 40]}]',  # right before left
        '[{"bbox_2d": [40, 20, 101, 40]}]',  # beyond the frame
        '[{"bbox_2d": [040, 20, 50, 40]}]',  # no JSON number
        '[{"bbox_2d": [40, 20, 50, 40]',
        '[{"bbox_2d": [40, 20, 50, 40], "label": "mug]',
        "There is a mug.",
    ],
)
def test_what_cannot_be_read_is_not_in_it(text: str):
    with pytest.raises((AssertionError, StopIteration)):
        walk(text + END, "list")


# ---- whatever is written ---------------------------------------------------------------------------------------

LABELS = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="<|"), max_size=8))
NUMBERS = st.floats(-10, 110)


def items(form: AnswerForm) -> st.SearchStrategy[list[Item]]:
    box = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS).filter(
        lambda b: max(b[0], 0) < min(b[2], 100) and max(b[1], 0) < min(b[3], 50)
    )
    point = st.tuples(st.floats(0, 99), st.floats(0, 49))
    return st.lists(st.builds(Item, st.one_of(box, point), LABELS), max_size=1 if form == "bare" else 4)


@pytest.mark.parametrize("form", FORMS)
def test_every_right_answer_is_in_it(form: AnswerForm):
    @given(items(form))
    def every(things: list[Item]) -> None:
        found = walk(written(things, form), form)
        assert [each for each in found if isinstance(each, int)] == [
            number for thing in things for number in _whole_numbers(thing, form)
        ]

    every()


def _whole_numbers(thing: Item, form: AnswerForm) -> list[int]:
    return [each for each in walk(written([thing], form), form) if isinstance(each, int)]


# ---- numbers ---------------------------------------------------------------------------------------------------


def test_how_numbers_begin():
    for least, most in combinations_with_replacement(range(0, 130, 7), 2):
        numbers = {str(number) for number in range(least, most + 1)}
        for prefix in range(130):
            begins = any(number.startswith(str(prefix)) for number in numbers) if prefix else "0" in numbers
            assert may_begin(prefix, least, most) == begins, (prefix, least, most)
