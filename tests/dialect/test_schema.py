"""Guides for servers allow what the grammar writes, and only what `read_answer` can read, but for turned corners."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.dialect.answer import Item, read_answer, write_answer
from groundling.dialect.family import AnswerForm
from groundling.dialect.grammar import Filled, Label, Number, skeleton
from groundling.dialect.schema import answer_regex, answer_schema, number_regex
from groundling.errors import SettingsError
from groundling.geometry.frame import THOUSANDTHS, Frame

FRAMES = [Frame(28, 1036), Frame(1036, 756), Frame(100, 9), Frame(1, 1), THOUSANDTHS]
FORMS = get_args(AnswerForm)
JSON_FORMS = [form for form in FORMS if form != "tokens"]
END = "<|im_end|>"
FAMILY = {"tokens": "qwen2_vl", "list": "qwen2_5_vl", "fenced": "qwen2_5_vl", "bare": "qwen2_5_vl"}

LETTERS = "abc 0\u00e9\u6f22\U0001f600\x7f{}[],:'|>/"
QUOTED = st.lists(
    st.sampled_from([*LETTERS, "<", r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t"]), max_size=100
).map("".join)
WORDS = st.text(st.sampled_from(LETTERS + '"\\\n'), max_size=100)


def draw_answer(data: st.DataObject, form: AnswerForm, frame: Frame, most: int) -> str:
    """A text that the skeleton writes, every place filled as it comes; without the end token."""
    places = skeleton(form, frame, END)
    slot, text, value, things = next(places), "", 0, 1
    while True:
        if isinstance(slot, Number):
            value = data.draw(st.integers(slot.least, slot.most))
            text += str(value)
        elif isinstance(slot, Label):
            text += f' "{data.draw(QUOTED)}' if slot.is_quoted else data.draw(WORDS)
        more = range(1, 1 + slot.more)
        allowed = [branch for branch in range(len(slot.then)) if things < most or branch not in more]
        branch = data.draw(st.sampled_from(allowed))
        things += branch in more
        text += slot.then[branch]
        try:
            slot = places.send(Filled(branch, value))
        except StopIteration:
            return text.removesuffix(END)


# ---- by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0, 0, "(0)"),
        (1, 1, "(1)"),
        (0, 7, "(0|[1-6]|7)"),
        (1, 1000, "([1-9][0-9]{0,2}|1000)"),
        (0, 756, "(0|[1-9][0-9]{0,1}|[1-6][0-9]{2,2}|7[0-4][0-9]|75[0-5]|756)"),
    ],
)
def test_numbers_by_hand(least: int, most: int, expected: str):
    assert number_regex(least, most) == expected


@pytest.mark.parametrize("most", [1, 2, 9, 10, 11, 99, 100, 101, 109, 110, 190, 199, 200, 999, 1000, 1023])
def test_numbers_are_those_up_to_the_most_and_no_others(most: int):
    for least in (0, 1):
        found = {number for number in range(1200) if re.fullmatch(number_regex(least, most), str(number))}
        assert found == set(range(least, most + 1))
        assert not any(re.fullmatch(number_regex(least, most), text) for text in ("", "00", "01", "-1", "1.0", " 1"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("numbers", "is_inside"),
    [
        ((0, 0, 1, 1), True),
        ((1035, 755, 1036, 756), True),
        ((1036, 755, 1036, 756), False),  # a left edge on the right border
        ((1035, 756, 1036, 756), False),
        ((1035, 755, 1037, 756), False),
        ((1035, 755, 1036, 757), False),
        ((0, 0, 0, 1), False),
        ((0, 0, 1, 0), False),
    ],
)
def test_numbers_just_outside_the_frame_are_refused(form: AnswerForm, numbers: tuple[int, ...], is_inside: bool):
    """Written in a frame with room for all of them."""
    text = "".join(piece.text for piece in write_answer([Item((1, 2, 3, 4), "mug")], form, Frame(9, 9)))
    for old, new in zip("1234", numbers, strict=True):
        text = re.sub(rf"(?<=[ \[(,]){old}(?=[,\])])(?!_)", f"<{new}>", text, count=1)
    text = re.sub(r"<(\d+)>", r"\1", text)

    assert bool(re.fullmatch(answer_regex(form, Frame(1036, 756)), text)) == is_inside


@pytest.mark.parametrize("form", FORMS)
def test_it_stays_small_and_in_the_syntax_that_engines_share(form: AnswerForm):
    found = answer_regex(form, Frame(16_384, 16_383))
    assert len(found) < 1300
    assert "(?" not in found and not re.search(r"\\[dwsDWSbBAZ]", found.replace(r"\\/bfnrt", ""))
    assert found.isascii() and found.isprintable()


def test_letters_of_a_label_are_those_of_a_json_string():
    guide = re.compile(answer_regex("bare", Frame(9, 9)))
    codes = [*range(0x3000), 0xFFFD, 0x1F600, 0x10FFFF]
    refused = {code for code in codes if not guide.fullmatch(f'{{"bbox_2d": [1, 2, 3, 4], "label": "{chr(code)}"}}')}
    assert refused == {*range(0x20), ord('"'), ord("\\")}


@pytest.mark.parametrize("form", ["fenced", "list", "tokens"])
def test_a_list_and_a_label_have_an_end(form: AnswerForm):
    guide = answer_regex(form, THOUSANDTHS, most_things=3, most_letters=4)

    def fits(things: int, label: str) -> bool:
        pieces = write_answer([Item((1, 2, 3, 4), label)] * things, form, THOUSANDTHS)
        return re.fullmatch(guide, "".join(piece.text for piece in pieces)) is not None

    assert fits(1, "") and fits(3, "mugs") and not fits(4, "mugs") and not fits(1, "a mug")


def test_limits_start_at_one():
    with pytest.raises(SettingsError, match="most_things is 0 and most_letters 100; both start at 1"):
        answer_regex("list", THOUSANDTHS, most_things=0)


# ---- whatever the grammar writes -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_answer_of_the_grammar_is_allowed(form: AnswerForm):
    @given(st.sampled_from(FRAMES), st.data())
    def every(frame: Frame, data: st.DataObject) -> None:
        text = draw_answer(data, form, frame, most=5)
        assert re.fullmatch(answer_regex(form, frame), text), text

    every()


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_everything_allowed_is_read_without_a_flaw_but_turned_corners(form: AnswerForm, frame: Frame):
    guide = answer_regex(form, frame, most_things=4, most_letters=6)

    @settings(max_examples=30)
    @given(st.from_regex(guide, fullmatch=True))
    def every(text: str) -> None:
        answer = read_answer(text, family="qwen2_5_vl", seen=frame)
        assert answer.flaw in (None, "inverted", "no_area"), text
        if answer.flaw != "no_area":
            assert len(answer.boxes) + len(answer.points) == text.count('_2d":') + text.count("<|box_start|>")

    every()


# ---- the schema ------------------------------------------------------------------------------------------------


def holds(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is one of the schema's, by the keywords that ours use (JSON schema 2020-12)."""
    known = {"anyOf", "type", "maxItems", "minItems", "items", "prefixItems", "minimum", "maximum", "maxLength"}
    assert schema.keys() <= known | {"properties", "required", "additionalProperties"}
    if "anyOf" in schema:
        return any(holds(each, value) for each in schema["anyOf"])
    if schema["type"] == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    if schema["type"] == "array":
        if not isinstance(value, list) or not schema.get("minItems", 0) <= len(value) <= schema["maxItems"]:
            return False
        each = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
        return all(holds(inner, item) for inner, item in zip(each, value, strict=True))
    assert schema["type"] == "object" and schema["additionalProperties"] is False
    if not isinstance(value, dict) or not set(schema["required"]) <= value.keys() <= schema["properties"].keys():
        return False
    return all(holds(schema["properties"][key], inner) for key, inner in value.items())


@pytest.mark.parametrize("form", JSON_FORMS)
def test_every_answer_of_the_grammar_is_in_the_schema(form: AnswerForm):
    @settings(max_examples=50)
    @given(st.sampled_from(FRAMES), st.data())
    def every(frame: Frame, data: st.DataObject) -> None:
        text = draw_answer(data, form, frame, most=5).removeprefix("```json").removesuffix("```")
        assert holds(answer_schema(form, frame), json.loads(text)), text

    every()


@pytest.mark.parametrize(
    "value",
    [
        [{"bbox_2d": [0, 0, 101, 50]}],
        [{"bbox_2d": [100, 0, 100, 50]}],
        [{"bbox_2d": [0, 0, 10.5, 50]}],
        [{"bbox_2d": [0, 0, 10]}],
        [{"bbox_2d": [0, 0, 10, 20], "score": 1}],
        [{"bbox_2d": [0, 0, 10, 20], "label": 1}],
        [{"label": "mug"}],
        {"bbox_2d": [0, 0, 10, 20]},
        [[0, 0, 10, 20]],
        "[]",
    ],
)
def test_what_is_not_in_the_schema_of_a_list(value: Any):
    assert not holds(answer_schema("list", Frame(100, 50)), value)


def test_bare_is_one_thing_or_the_empty_list():
    schema = answer_schema("bare", Frame(100, 50))
    assert holds(schema, {"bbox_2d": [0, 0, 100, 50]}) and holds(schema, [])
    assert not holds(schema, [{"bbox_2d": [0, 0, 100, 50]}])


def test_no_schema_holds_box_tokens():
    with pytest.raises(SettingsError, match="'tokens' are no JSON, so no schema holds them; use answer_regex"):
        answer_schema("tokens", THOUSANDTHS)
