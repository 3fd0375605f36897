"""The first box or point of an answer, in whatever words; and none where numbers stand for something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.evaluation.heard import read_numbers

WHOLE = st.integers(0, 4000).map(float)
SHARE = st.integers(0, 1000).map(lambda number: number / 10)
BOX_FORMS = (
    '[{{"bbox_2d": [{}, {}, {}, {}], "label": "it"}}]',
    '```json\n[{{"box_2d": [{}, {}, {}, {}]}}]\n```',
    "[{}, {}, {}, {}]",
    "[[{}, {}, {}, {}]]",
    "{}, {}, {}, {}",
    "{} {} {} {}",
    "The box is [{}, {}, {}, {}].",
    "It is at ({}, {}, {}, {}), left of 2 dogs.",
    "Picture 1: it is between ({}, {}) and ({}, {}).",
    "It runs from ({}, {}) to ({}, {}) in image 3.",
    "The corners are [{}, {}] at the top left and [{}, {}] at the bottom right.",
    "Bounding box: {}, {}, {}, {}.",
    "<box>({},{}),({},{})</box>",
    "<ref>it</ref><box>[[{}, {}, {}, {}]]</box>",
    "<|object_ref_start|>it<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>",
    "<|ref|>it<|/ref|><|det|>[[{}, {}, {}, {}]]<|/det|>",
    "<|begin_of_box|>[[{}, {}, {}, {}]]<|end_of_box|>",
    "<bbox>{} {} {} {}</bbox>",
    "<think>Is it [9, 9, 9, 9]?</think>[{}, {}, {}, {}]",
    '```json\n{{\n  "label": "it",\n  "x1": {},\n  "y1": {},\n  "x2": {},\n  "y2": {}\n}}\n```',
    '{{"box": {{"ymin": {}, "xmin": {}, "ymax": {}, "xmax": {}}}, "score": 0.93}}',
    "{{'x': '{}', 'y': '{}', 'width': '{}', 'height': '{}'}}",
    '<box x_min="{}" y_min="{}" x_max="{}" y_max="{}"/>',
    "**Left**: {}, **Top**: {}, **Right**: {}, **Bottom**: {}",
    "cx={}; cy={}; w={}; h={}",
)
POINT_FORMS = (
    '<point x="{}" y="{}" alt="the mug">the mug</point>',
    '<points x1="{}" y1="{}" x2="1.5" y2="2.5" alt="mugs">mugs</points>',
    'Here: <point alt="(1, 2, 3, 4)" x="{}" y="{}">it</point>',
    '<point x="{}" y="{}" alt="[1, 2, 3, 4]">it</point>',
    '<points coords="1 1 {} {} 2 911 800">it</points>',
    '<points coords="1 1 {} {}">it</points>',
    '[{{"point_2d": [{}, {}], "label": "it"}}]',
    "({}, {})",
    " [{}, {}].",
)


@pytest.mark.parametrize("form", BOX_FORMS)
@given(numbers=st.tuples(WHOLE, WHOLE, WHOLE, WHOLE) | st.tuples(SHARE, SHARE, SHARE, SHARE))
def test_boxes_in_many_words(form: str, numbers: tuple[float, ...]):
    assert read_numbers(form.format(*(f"{number:g}" for number in numbers))) == numbers


@pytest.mark.parametrize("form", POINT_FORMS)
@given(numbers=st.tuples(WHOLE, WHOLE) | st.tuples(SHARE, SHARE))
def test_points_in_many_words(form: str, numbers: tuple[float, ...]):
    assert read_numbers(form.format(*(f"{number:g}" for number in numbers))) == numbers


@pytest.mark.parametrize(
    "form",
    ["<loc{:04d}><loc{:04d}><loc{:04d}><loc{:04d}> it", "it<loc_{}><loc_{}><loc_{}><loc_{}>", "<{}><{}><{}><{}>"],
)
@given(numbers=st.tuples(*[st.integers(0, 1023)] * 4))
def test_boxes_as_tokens(form: str, numbers: tuple[int, ...]):
    assert read_numbers(form.format(*numbers)) == numbers
    assert read_numbers(form.format(*numbers) + " ; " + form.format(1, 2, 3, 4)) == numbers, "the first"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"bbox_2d": [1, 2, 3, 4]}', (1, 2, 3, 4)),
        ('{"box_2d": [4, 3, 2, 1]}', (4, 3, 2, 1)),
        ('[{"point_2d": [7, 8]}, {"bbox_2d": [1, 2, 3, 4]}]', (1, 2, 3, 4)),
        ("The box is\n12, 34, 56, 78\nin pixels.", (12, 34, 56, 78)),
        ("(12.5%, 34%, 56%, 78%)", (12.5, 34, 56, 78)),
        ("[-1, 2, 3, 4]", (-1, 2, 3, 4)),
    ],
)
def test_single_answers(text: str, expected: tuple[float, ...]):
    assert read_numbers(text) == expected


STRAY = (
    "x1: 3, y1: 4, and x2 is 5",
    "Boxes: 3, xy: 4, tops: 5, rights: 6",
    "At left: 10 o'clock, top: 3 points, right: 2 points, bottom: 1 point.",
    "I see 2 dogs in image 1",
    "I see 2 dogs in image 1, 3 cats in image 2 and 4 birds.",
    "In 2019, 2020, 2021 and 2022 it was red.",
    "It won in 2019, 2020, 2021, 2022 and again.",
    "There are 2, perhaps 3, of 4 or 5.",
    "As told [1, 2], it is red.",
    "The picture is 640x480, and the thing 100 by 100.",
    "It is at (12, 34).",
    "1. red\n2. blue\n3. green\n4. grey",
    "left 1, top 2, right 3, bottom 4",
    "version 1.2.3.4",
    "[1, 2, 3]",
    "[1, 2, 3, 4, 5, 6, 7, 8]",
    "1, 2, 3, 4, 5",
    "<loc_1><loc_2><loc_3>",
    '<point x="1">',
    '<points coords="1 1 5">',
    "<think>It is at [1, 2, 3, 4].",
    '{"bbox_2d": [1, 2, 3, 1e9]}',
    "[1, 2, 3, 99999999999999999999999999]",
    "bbox_2d",
    "",
)


@pytest.mark.parametrize("text", STRAY)
def test_numbers_that_are_no_place(text: str):
    assert read_numbers(text) is None


@given(st.lists(st.sampled_from(["the", "dog", "2", "3", "in image", "and", "40", "at", "of 5", ". ", "is 6"])))
def test_counting_words_are_no_place(words: list[str]):
    assert read_numbers("I see " + " ".join(f"{word} thing" for word in words)) is None


@given(st.text(alphabet='0123456789.,;:()[]{}<>|/"= -%\nloc_pintxyk', max_size=200))
def test_no_text_breaks_the_reading(text: str):
    found = read_numbers(text)
    assert found is None or (len(found) in (2, 4) and all(isinstance(number, float) for number in found))


@pytest.mark.parametrize(
    "text",
    [
        *("1" * 1_000_000, "1 " * 500_000, "[" * 500_000, "1" + " " * 500_000 + "x", ":" * 500_000, "(1,2" * 200_000),
        *("<point " * 100_000, '<points coords="' * 50_000, "<1>" * 3 + "<" * 500_000, "(1, 2) " * 100_000),
        *("1, " * 300_000, "(" + " " * 500_000, "[1" + "," * 500_000),
    ],
)
def test_long_answers_are_read_in_time(text: str):
    read_numbers(text)
