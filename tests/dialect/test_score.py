"""Scores of boxes, worked out on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from pytest import approx

from groundling.dialect.answer import Answer, read_answer
from groundling.dialect.score import NEAR, Chance, Written
from groundling.geometry.frame import Frame

SEEN = Frame(1000, 800)
SURE = [1.0, *[0.0] * 9]
ONE_BOX = '[{"bbox_2d": [40, 10, 60, 34], "label": "mug"}]'


def spell(text: str, chances: Mapping[str, float | Sequence[float]]) -> list[Written]:
    """The text as tokens, a letter each but for those that `chances` names by what stands there.

    A number is the probability of all that in one token; several are those of the ten digits, where the first stands.
    """
    tokens: list[Written] = []
    place = 0
    while place < len(text):
        known = max((start for start in chances if text.startswith(start, place)), key=len, default="")
        chance = chances.get(known)
        if isinstance(chance, float):
            tokens.append(Written(known, Chance(chance, SURE)))
        else:
            tokens.append(Written(text[place], chance and Chance(chance[int(text[place])], chance)))
        place += len(tokens[-1].text)
    return tokens


def digits(**chances: float) -> list[float]:
    """`digits(d4=0.6)`: ten probabilities, 0 where none is given."""
    return [chances.get(f"d{digit}", 0.0) for digit in range(10)]


def read(text: str, chances: Mapping[str, float | Sequence[float]], family: str = "qwen2_5_vl") -> Answer:
    return read_answer(text, family=family, seen=SEEN, written=spell(text, chances))


def scores(text: str, chances: Mapping[str, float | Sequence[float]], family: str = "qwen2_5_vl") -> list[float]:
    found = read(text, chances, family).scores
    assert found is not None
    return found.tolist()


def test_what_the_model_was_not_asked_for_is_certain():
    assert scores(ONE_BOX, {}) == [1.0]


def test_a_number_counts_wherever_it_is_near():
    """The box is 20 wide, so 38 to 42 are near 40. A first digit 3 may begin 38; 5 begins nothing that near."""
    chances = {"40": digits(d3=0.3, d4=0.6, d5=0.1), "0, 10": digits(d0=0.5, d1=0.2, d2=0.1, d3=0.2)}

    assert NEAR * 20 == 2.5
    assert scores(ONE_BOX, chances) == [approx(0.3 + 0.6 * (0.5 + 0.2 + 0.1))]


def test_the_border_of_near_is_a_whole_number():
    """38 is the last number that is near 40; of those before 42 it is 40, so a first digit 3 begins none."""
    tens = digits(d3=0.3, d4=0.7)

    assert scores('[{"bbox_2d": [41, 10, 61, 34]}]', {"41": tens}) == [approx(1.0)]
    assert scores('[{"bbox_2d": [42, 10, 62, 34]}]', {"42": tens}) == [approx(0.7)]
    assert scores('[{"bbox_2d": [57, 10, 77, 34]}]', {"57": digits(d5=0.7, d6=0.3)}) == [approx(0.7)], "60 is 3 away"
    assert scores('[{"bbox_2d": [58, 10, 78, 34]}]', {"58": digits(d5=0.7, d6=0.3)}) == [approx(1.0)]


def test_each_number_is_measured_by_its_own_side():
    """24 high: 3 units are near. 20 wide: they are not."""
    spread = digits(d0=0.6, d3=0.4)

    assert scores(ONE_BOX, {"0, 60": spread}) == [approx(1.0)]
    assert scores(ONE_BOX, {"0, 10": spread}) == [approx(0.6)]


def test_a_digit_of_large_place_is_near_only_where_the_border_is():
    """40 wide: 5 units. 397 is near 400, and far from 412."""
    hundreds = digits(d3=0.4, d4=0.6)

    assert scores('[{"bbox_2d": [400, 10, 440, 34]}]', {"400": hundreds}) == [approx(1.0)]
    assert scores('[{"bbox_2d": [412, 10, 452, 34]}]', {"412": hundreds}) == [approx(0.6)]


def test_everything_chosen_for_a_box_counts():
    """That there is something, that a number ends where it does, the label."""
    chances = {'[{"': 0.9, "0, 10": digits(d0=0.8, d9=0.2), ", 10": 0.5, "mug": 0.25}

    assert scores(ONE_BOX, {'[{"': 0.9}) == [approx(0.9)]
    assert scores(ONE_BOX, {'[{"': 0.9, ", ": 0.5}) == [approx(0.9 * 0.5**4)], "three commas between, one behind"
    assert scores(ONE_BOX, chances) == [approx(0.9 * 0.8 * 0.5 * 0.25)]


TWO = '[{"bbox_2d": [40, 10, 60, 34], "label": "mug"}, {"bbox_2d": [140, 10, 160, 34], "label": "cup"}]'


def test_a_token_belongs_to_where_its_last_letter_stands():
    """`"}, {` ends the first label, and tells that a second box comes; `"}]` tells that no third one does."""
    assert scores(TWO, {"mug": 0.5, '"}, {': 0.3, "cup": 0.7, '"}]': 0.1}) == [approx(0.5), approx(0.3 * 0.7)]
    assert scores(TWO, {'"}': 0.3}) == [approx(0.3), approx(0.3)]


def test_scores_stay_with_their_boxes():
    """Points have none; a box that is left out takes its own along."""
    text = (
        '[{"point_2d": [1, 2], "label": "a"}, {"bbox_2d": [5, 5, 5, 9], "label": "b"}, '
        '{"bbox_2d": [40, 10, 60, 34], "label": "c"}, {"point_2d": [3, 4], "label": "d"}]'
    )
    answer = read(text, {'"a"': 0.1, '"b"': 0.2, '"c"': 0.3, '"d"': 0.4})

    assert answer.labels == ["c", "a", "d"]
    assert answer.scores is not None
    assert answer.scores.tolist() == [approx(0.3)]


def test_box_tokens():
    """The label stands before its box."""
    text = (
        "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(40,10),(60,34)<|box_end|>"
        "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(140,10),(160,34)<|box_end|>"
    )
    chances = {"mug": 0.5, "cup": 0.7, "40,10),(60": digits(d1=0.2, d4=0.8)}

    assert scores(text, chances, "qwen2_vl") == [approx(0.5 * 0.8), approx(0.7)]


def test_fenced_and_bare():
    assert scores('```json\n[\n\t{"bbox_2d": [40, 10, 60, 34]}\n]\n```', {"```json": 0.6, "\n]": 0.1}) == [approx(0.6)]
    assert scores('{"bbox_2d": [40, 10, 60, 34]}', {'{"bbox': 0.6}) == [approx(0.6)]
    assert scores("[[40, 10, 60, 34], [1, 2, 30, 45]]", {"40": digits(d4=0.6), "], [": 0.5}) == [
        approx(0.6),
        approx(0.5),
    ]


@pytest.mark.parametrize("before", ["<think>[{maybe}]</think>", "Sure, here: ", "<think>It is 40.</think> Found it: "])
def test_words_and_thoughts_before_an_answer_do_not_count(before: str):
    chances = {"i": 0.5, "e": 0.5, "40": digits(d4=0.6)}

    assert scores(before + "[[40, 10, 60, 34]]", chances) == [approx(0.6)]


@pytest.mark.parametrize("text", ["[[40.5, 10, 60, 34]]", "[[4e1, 10, 60, 34]]", "[[-40, 10, 60, 34]]"])
def test_numbers_in_another_way_of_writing_have_a_score_too(text: str):
    """A fraction is near its whole; of what is no number digit by digit every token counts."""
    (score,) = scores(text, {"40": digits(d4=0.6), "4e1": digits(d4=0.6)})

    assert score == approx(0.6)


def test_a_token_of_two_digits_counts_as_it_is():
    text = "[[40, 10, 60, 34]]"
    written = [Written("[[", None), Written("40", Chance(0.6, SURE)), Written(text[4:], None)]

    answer = read_answer(text, family="qwen2_5_vl", seen=SEEN, written=written)

    assert answer.scores is not None
    assert answer.scores.tolist() == [approx(0.6)]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("[]", 0.7),
        ("```json\n[]\n```", 0.7),
        ("Nothing here: []", 0.7),
        (ONE_BOX, None),
        ("[", None),
        ("", None),
        ("I see no mug", None),
        ("[[5, 5, 5, 9]]", None),
    ],
)
def test_that_there_is_nothing_has_a_score_where_it_is_said(text: str, score: float | None):
    found = read(text, {"[]": 0.7, "i": 0.5})

    assert found.none_score == (score and approx(score))
    assert read_answer(text, family="qwen2_5_vl", seen=SEEN).none_score is None
