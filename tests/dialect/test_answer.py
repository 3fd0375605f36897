"""Answers written and read back: a corpus of what models say, the way there and back, and what may never happen."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.dialect.answer import FLAWS, MAX_BOXES, MAX_CHARACTERS, Answer, Item, read_answer, write_answer
from groundling.dialect.family import FAMILIES, AnswerForm
from groundling.dialect.score import Chance, Written
from groundling.errors import SettingsError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import THOUSANDTHS, Frame

SEEN = Frame(1000, 800)
FORMS: list[AnswerForm] = ["fenced", "list", "bare", "tokens"]
BOX, OTHER = [10, 20, 30, 40], [50, 60, 70, 80]


class Case(NamedTuple):
    """A text, and what Qwen2.5-VL means by it on a picture seen as 1000x800."""

    name: str
    text: str
    boxes: Sequence[Sequence[float]] = ()
    labels: Sequence[str | None] = ()
    flaw: str | None = None
    points: Sequence[Sequence[float]] = ()


CASES = [
    # what was asked for
    Case("bare", '{"bbox_2d": [10, 20, 30, 40]}', [BOX], [None]),
    Case("bare over lines", '{\n"bbox_2d": [10, 20, 30, 40]\n}', [BOX], [None]),
    Case("bare with label", '{"bbox_2d": [10, 20, 30, 40], "label": "mug"}', [BOX], ["mug"]),
    Case("label first", '{"label": "mug", "bbox_2d": [10, 20, 30, 40]}', [BOX], ["mug"]),
    Case("compact", '{"bbox_2d":[10,20,30,40],"label":"mug"}', [BOX], ["mug"]),
    Case("list", '[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60, 70, 80]}]', [BOX, OTHER], [None, None]),
    Case("fenced", '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "mug"}\n]\n```', [BOX], ["mug"]),
    Case("closing token", '{"bbox_2d": [10, 20, 30, 40]}<|im_end|>', [BOX], [None]),
    Case("point", '[{"point_2d": [10, 20], "label": "tip"}]', points=[[10, 20]], labels=["tip"]),
    Case(
        "box after point",
        '[{"point_2d": [1, 2], "label": "p"}, {"bbox_2d": [10, 20, 30, 40], "label": "b"}]',
        [BOX],
        ["b", "p"],
        points=[[1, 2]],
    ),
    Case("none", "[]"),
    Case("fenced none", "```json\n[]\n```"),
    Case("none under a key", '{"objects": []}'),
    # other ways to say it
    Case("single quotes", "[{'bbox_2d': [10, 20, 30, 40], 'label': 'mug'}]", [BOX], ["mug"]),
    Case("single quotes in turn", """[{'bbox_2d': [10, 20, 30, 40], 'label': "dog's"}]""", [BOX], ["dog's"]),
    Case("escaped single quote", r"{'bbox_2d': [10, 20, 30, 40], 'label': 'dog\'s \"mug\"'}", [BOX], ['dog\'s "mug"']),
    Case("Python's None", "{'bbox_2d': [10, 20, 30, 40], 'label': None}", [BOX], [None]),
    Case("label is a number", '{"bbox_2d": [10, 20, 30, 40], "label": 7}', [BOX], [None]),
    Case("key bbox", '{"bbox": [10, 20, 30, 40], "label": "mug"}', [BOX], ["mug"]),
    Case("key point", '{"point": [10, 20]}', points=[[10, 20]], labels=[None]),
    Case("nested", '{"objects": [{"bbox_2d": [10, 20, 30, 40], "label": "mug"}]}', [BOX], ["mug"]),
    Case(
        "parts", '{"bbox_2d": [10, 20, 30, 40], "parts": [{"bbox_2d": [50, 60, 70, 80]}]}', [BOX, OTHER], [None, None]
    ),
    Case("bare row", "[10, 20, 30, 40]", [BOX], [None]),
    Case("rows", "[[10, 20, 30, 40], [50, 60, 70, 80]]", [BOX, OTHER], [None, None]),
    Case("rows under a key", '{"boxes": [[10, 20, 30, 40]]}', [BOX], [None]),
    Case("bare point", "[12, 34]", points=[[12, 34]], labels=[None]),
    Case("rows of points", "```\n[[12, 34], [56, 78]]\n```", points=[[12, 34], [56, 78]], labels=[None, None]),
    Case("GLM's tokens", "<|begin_of_box|>[[10, 20, 30, 40]]<|end_of_box|>", [BOX], [None]),
    Case(
        "two fences",
        '```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```\nand\n```json\n[{"bbox_2d": [50, 60, 70, 80]}]\n```',
        [BOX, OTHER],
        [None, None],
    ),
    Case("JSON lines", '{"bbox_2d": [10, 20, 30, 40]}\n{"bbox_2d": [50, 60, 70, 80]}\n', [BOX, OTHER], [None, None]),
    Case("many JSON lines", '{"bbox_2d": [10, 20, 30, 40]}\n' * 500, [BOX] * 500, [None] * 500),
    Case("trailing commas", '[{"bbox_2d": [10, 20, 30, 40,],},]', [BOX], [None]),
    Case("floats", '{"bbox_2d": [10.25, 2e1, 30.0, +40]}', [[10.25, 20, 30, 40]], [None]),
    # words around it
    Case(
        "prose",
        'Here\'s the dog\'s mug [see below]: {"bbox_2d": [10, 20, 30, 40]} It\'s the "big" one {really}.',
        [BOX],
        [None],
    ),
    Case(
        "prose with a bracket open",
        'The mug :[ it\'s "here": {"bbox_2d": [10, 20, 30, 40]}',
        [BOX],
        [None],
        "truncated",
    ),
    Case("reference marks", 'I see two [1, 2] mugs: {"bbox_2d": [10, 20, 30, 40]}', [BOX], [None]),
    Case("reference marks alone", "I see two mugs [1, 2].", flaw="no_boxes"),
    Case(
        "thought over",
        '<think>Perhaps {"bbox_2d": [1, 2, 3, 4]}? No.</think>\n[{"bbox_2d": [10, 20, 30, 40]}]',
        [BOX],
        [None],
    ),
    Case(
        "thought over, opened by the prompt",
        'Perhaps [1, 2, 3, 4]? No.</think>{"bbox_2d": [10, 20, 30, 40]}',
        [BOX],
        [None],
    ),
    Case("still thinking", '<think>Perhaps {"bbox_2d": [1, 2, 3, 4]}? Then', flaw="truncated"),
    # labels of all kinds
    Case(
        "label with brackets",
        '{"bbox_2d": [10, 20, 30, 40], "label": "a } ] [1, 2, 3, 4] {"}',
        [BOX],
        ["a } ] [1, 2, 3, 4] {"],
    ),
    Case(
        "label with escapes",
        r'{"bbox_2d": [10, 20, 30, 40], "label": "\"a\" \\ \n \u00e9 \ud83d\ude00 b\\"}',
        [BOX],
        ['"a" \\ \n \u00e9 \U0001f600 b\\'],
    ),
    Case("label with an unknown escape", r'{"bbox_2d": [10, 20, 30, 40], "label": "C:\new\x"}', [BOX], [r"C:\new\x"]),
    Case("label with a line end", '{"bbox_2d": [10, 20, 30, 40], "label": "a\nb"}', [BOX], ["a\nb"]),
    Case("label with half a pair", r'{"bbox_2d": [10, 20, 30, 40], "label": "a\ud800"}', [BOX], ["a?"]),
    Case("label with NUL", '{"bbox_2d": [10, 20, 30, 40], "label": "a\0b"}', [BOX], ["a\0b"]),
    Case(
        "label with script",
        '{"bbox_2d": [10, 20, 30, 40], "label": "</script><img onerror=x>"}',
        [BOX],
        ["</script><img onerror=x>"],
    ),
    Case(
        "label with control tokens",
        '[{"bbox_2d": [10, 20, 30, 40], "label": "<|box_start|>(1,2),(3,4)<|box_end|><|im_end|>"}]',
        [BOX],
        ["<|box_start|>(1,2),(3,4)<|box_end|><|im_end|>"],
    ),
    Case(
        "label with thoughts",
        '[{"bbox_2d": [10, 20, 30, 40], "label": "<think>a</think>"}]',
        [BOX],
        ["<think>a</think>"],
    ),
    Case("label with raw quotes", '{"bbox_2d": [10, 20, 30, 40], "label": "5" mug"}', [BOX], ["5"]),
    # Qwen2-VL's tokens; on this page they count pixels, the family says so
    Case("tokens", "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>", [BOX], ["mug"]),
    Case("tokens without label", "<|box_start|>(10, 20), (30, 40)<|box_end|>", [BOX], [None]),
    Case(
        "tokens, two boxes of one label",
        "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>"
        "<|box_start|>(50,60),(70,80)<|box_end|>",
        [BOX, OTHER],
        ["mug", "mug"],
    ),
    Case("tokens, point", "<|box_start|>(10,20)<|box_end|>", points=[[10, 20]], labels=[None]),
    Case("tokens after prose", "The mug [big]: <|box_start|>(10,20),(30,40)<|box_end|><|im_end|>", [BOX], [None]),
    Case(
        "tokens, label with brackets",
        "<|object_ref_start|>[1, 2, 3, 4]<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
        [BOX],
        ["[1, 2, 3, 4]"],
    ),
    Case(
        "tokens, cut in a number",
        "<|box_start|>(10,20),(30,40)<|box_end|><|box_start|>(50,60),(7",
        [BOX],
        [None],
        "truncated",
    ),
    Case(
        "tokens, cut in a label",
        "<|box_start|>(10,20),(30,40)<|box_end|><|object_ref_start|>mu",
        [BOX],
        [None],
        "truncated",
    ),
    Case("tokens, words", "<|box_start|>(ten,20),(30,40)<|box_end|>", flaw="bad_number"),
    Case("tokens, quad", "<|quad_start|>(1,2),(3,4),(5,6),(7,8)<|quad_end|>", flaw="quad"),
    Case("tokens, three numbers", "<|box_start|>(1,2),(3)<|box_end|>", flaw="wrong_length"),
    # cut off
    Case("cut in a number", '[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60, 7', [BOX], [None], "truncated"),
    Case(
        "cut in a label",
        '[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60, 70, 80], "label": "mu',
        [BOX],
        [None],
        "truncated",
    ),
    Case("cut after a comma", '[{"bbox_2d": [10, 20, 30, 40]},', [BOX], [None], "truncated"),
    Case("cut in an escape", '[{"bbox_2d": [10, 20, 30, 40]}, {"label": "\\', [BOX], [None], "truncated"),
    Case("cut in the only object", '{"bbox_2d": [10, 20, 30, 40], "label": "mu', flaw="truncated"),
    Case("cut in the first number", '```json\n[\n\t{"bbox_2d": [1', flaw="truncated"),
    # brackets that do not pair
    Case(
        "missing bracket",
        '[{"bbox_2d": [10, 20, 30, 40}, {"bbox_2d": [50, 60, 70, 80]}]',
        [BOX, OTHER],
        [None, None],
        "unpaired",
    ),
    Case("missing brace", '[{"bbox_2d": [10, 20, 30, 40], "label": "mug"]', [BOX], ["mug"], "unpaired"),
    Case("a bracket too many", '[{"bbox_2d": [10, 20, 30, 40]}}]', [BOX], [None], "unpaired"),
    # numbers that are none
    Case("NaN", '{"bbox_2d": [NaN, 20, 30, 40]}', flaw="bad_number"),
    Case("Infinity", '{"bbox_2d": [10, 20, -Infinity, 40]}', flaw="bad_number"),
    Case("beyond a float", '{"bbox_2d": [10, 20, 1e999, 40]}', flaw="bad_number"),
    Case("5000 digits", '{"bbox_2d": [10, 20, ' + "9" * 5000 + ", 40]}", flaw="bad_number"),
    Case("strings", '{"bbox_2d": ["10", "20", "30", "40"]}', flaw="bad_number"),
    Case("one string", '{"bbox_2d": "10, 20, 30, 40"}', flaw="bad_number"),
    Case("null", '[{"bbox_2d": null}, {"bbox_2d": [10, 20, 30, 40]}]', [BOX], [None], "bad_number"),
    Case("words", '{"bbox_2d": [infinity, nan, inf, x1]}', flaw="bad_number"),
    Case("underscores", '{"bbox_2d": [1_0, 20, 30, 40]}', flaw="bad_number"),
    Case("digits of another script", '{"bbox_2d": [\u0661\u0660, 20, 30, 40]}', flaw="bad_number"),
    Case("booleans", '{"bbox_2d": [true, false, true, true]}', flaw="bad_number"),
    Case(
        "a list of boxes under one key",
        '{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]]}',
        [BOX, OTHER],
        [None, None],
        "bad_number",
    ),
    # not so many numbers
    Case("quad", '{"bbox_2d": [1, 2, 3, 4, 5, 6, 7, 8]}', flaw="quad"),
    Case("bare quad", "[[1, 2, 3, 4, 5, 6, 7, 8]]", flaw="quad"),
    Case("three numbers", '[{"bbox_2d": [1, 2, 3]}, {"bbox_2d": [10, 20, 30, 40]}]', [BOX], [None], "wrong_length"),
    Case("no numbers", '{"bbox_2d": []}', flaw="wrong_length"),
    Case("a box that is a point", '{"bbox_2d": [10, 20]}', flaw="wrong_length"),
    Case("a point that is a box", '{"point_2d": [10, 20, 30, 40]}', flaw="wrong_length"),
    # places that are none
    Case("inverted", '{"bbox_2d": [30, 40, 10, 20]}', [BOX], [None], "inverted"),
    Case("inverted sides", '{"bbox_2d": [30, 20, 10, 40]}', [BOX], [None], "inverted"),
    Case("no width", '[{"bbox_2d": [10, 20, 10, 40]}, {"bbox_2d": [10, 20, 30, 40]}]', [BOX], [None], "no_area"),
    Case("over the edge", '{"bbox_2d": [-50, 20, 1200, 900]}', [[0, 20, 1000, 800]], [None], "outside"),
    Case("one unit over the edge", '{"bbox_2d": [-1, 20, 1001, 801]}', [[0, 20, 1000, 800]], [None]),
    Case("wholly outside", '{"bbox_2d": [1100, 20, 1200, 40]}', flaw="no_area"),
    Case("point outside", '{"point_2d": [1100, 20]}', points=[[1000, 20]], labels=[None], flaw="outside"),
    Case("repeated key", '{"bbox_2d": [10, 20, 30, 40], "bbox_2d": [50, 60, 70, 80]}', [OTHER], [None], "repeated_key"),
    # nothing to read
    Case("empty", "", flaw="empty"),
    Case("white space", " \n\t", flaw="empty"),
    Case("words only", "There are none.", flaw="no_boxes"),
    Case("numbers in prose", "In the years 3, 4, 2020 and 2021 (10,20),(30,40).", flaw="no_boxes"),
    Case("empty object", "{}", flaw="no_boxes"),
    Case("labels only", '["mug", "cup"]', flaw="no_boxes"),
    Case("label object", '[{"label": "mug"}]', flaw="no_boxes"),
    Case("Gemini's key, whose order is another", '{"box_2d": [10, 20, 30, 40]}', flaw="no_boxes"),
    Case("NUL", "\0", flaw="no_boxes"),
    Case("half a pair", "\ud800", flaw="no_boxes"),
    Case("nested", "[" * 3000 + "]" * 2999, flaw="truncated"),
    Case("nested around a box", "[" * 3000 + '{"bbox_2d": [10, 20, 30, 40]}' + "]" * 3000, [BOX], [None]),
    # several flaws: the gravest is named
    Case("inverted and cut", '[{"bbox_2d": [30, 40, 10, 20]}, {"bbox', [BOX], [None], "truncated"),
    Case(
        "outside and quad",
        '[{"bbox_2d": [-9, 20, 30, 40]}, {"bbox_2d": [1, 2, 3, 4, 5, 6, 7, 8]}]',
        [[0, 20, 30, 40]],
        [None],
        "quad",
    ),
]


def read(text: str, family: str = "qwen2_5_vl", seen: Frame = SEEN) -> Answer:
    return read_answer(text, family=family, seen=seen)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_reading(case: Case) -> None:
    answer = read(case.text)

    assert answer.boxes.xyxy.tolist() == [*case.boxes]
    assert answer.points.xy.tolist() == [*case.points]
    assert answer.labels == [*case.labels]
    assert answer.flaw == case.flaw
    assert (answer.text, answer.seen, answer.boxes.frame, answer.scores) == (case.text, SEEN, SEEN, None)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_whatever_is_read_has_scores_where_the_tokens_are_told(case: Case) -> None:
    written = [Written(letter, Chance(0.1, [0.1] * 10)) for letter in case.text]
    answer = read_answer(case.text, family="qwen2_5_vl", seen=SEEN, written=written)

    assert answer.scores is not None
    assert len(answer.scores) == len(case.boxes)
    assert all(0 <= score < 1 for score in answer.scores)
    assert (answer.none_score is not None) == (not case.boxes and not case.points and case.flaw is None)


def test_every_flaw_has_a_case_in_which_it_is_named() -> None:
    named = {case.flaw for case in CASES} | {
        read(text).flaw for text in (" " * MAX_CHARACTERS + "[]", _many(MAX_BOXES + 1))
    }

    assert named == {*FLAWS, None}


# ---- numbers worked out on paper -------------------------------------------------------------------------------

VENDOR_BOX, VENDOR_PHOTO = [[146, 137, 615, 415]], Frame(640, 428)  # the example of the vendor's process_bbox notebook


def test_the_vendors_box_in_thousandths() -> None:
    """146 / 640 * 1000 = 228.1; 137 / 428 * 1000 = 320.1; 615 / 640 * 1000 = 960.9; 415 / 428 * 1000 = 969.6."""
    (numbers,) = Boxes(VENDOR_BOX, VENDOR_PHOTO).to(THOUSANDTHS).xyxy.tolist()

    pieces = write_answer([Item(tuple(numbers), "cat")], "tokens", THOUSANDTHS)

    assert [piece.text for piece in pieces] == [
        "<|object_ref_start|>", "cat", "<|object_ref_end|>", "<|box_start|>(228,320),(961,970)<|box_end|>",
    ]  # fmt: skip
    assert [piece.is_control for piece in pieces] == [True, False, True, True]


def test_the_vendors_box_in_seen_pixels() -> None:
    """The processor makes 644x420 of it: 146 * 644 / 640 = 146.9; 137 * 420 / 428 = 134.4; 618.8; 407.2."""
    seen = Frame(644, 420)
    (numbers,) = Boxes(VENDOR_BOX, VENDOR_PHOTO).to(seen).xyxy.tolist()

    (piece,) = write_answer([Item(tuple(numbers), None)], "bare", seen)

    assert piece.text == '{"bbox_2d": [147, 134, 619, 407]}'
    assert not piece.is_control


def test_thousandths_are_read_into_the_frame_that_was_seen() -> None:
    answer = read('{"bbox_2d": [250, 500, 500, 1000]}', "qwen3_vl", Frame(400, 200))

    assert answer.boxes.xyxy.tolist() == [[100, 100, 200, 200]]
    assert answer.boxes.frame == answer.seen == Frame(400, 200)


def test_an_answer_goes_to_another_frame_whole() -> None:
    answer = read('[{"bbox_2d": [10, 20, 30, 40]}, {"point_2d": [500, 400]}]').to(Frame(2000, 400))

    assert answer.boxes.xyxy.tolist() == [[20, 10, 60, 20]]
    assert answer.points.xy.tolist() == [[1000, 200]]
    assert (answer.seen, answer.flaw, answer.labels) == (SEEN, None, [None, None])


# ---- writing ---------------------------------------------------------------------------------------------------


def written(items: list[Item], form: AnswerForm, frame: Frame = SEEN) -> str:
    return "".join(piece.text for piece in write_answer(items, form, frame))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("fenced", '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "mug"},\n\t{"point_2d": [5, 6]}\n]\n```'),
        ("list", '[{"bbox_2d": [10, 20, 30, 40], "label": "mug"}, {"point_2d": [5, 6]}]'),
        (
            "tokens",
            "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>"
            "<|object_ref_start|><|object_ref_end|><|box_start|>(5,6)<|box_end|>",
        ),
    ],
)
def test_each_form(form: AnswerForm, text: str) -> None:
    assert written([Item((10.4, 19.5, 30, 40), "mug"), Item((5, 6), None)], form) == text


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_find_is_the_empty_list_in_every_form(form: AnswerForm) -> None:
    assert written([], form) == "[]"
    assert read("[]").flaw is None


def test_bare_holds_one_target() -> None:
    item = Item((1, 2, 3, 4), None)

    with pytest.raises(SettingsError, match=r"'bare' holds one target, not 2; use 'list' or 'fenced'"):
        write_answer([item, item], "bare", SEEN)


@pytest.mark.parametrize(
    ("numbers", "whole"),
    [
        ((0.5, 1.5, 2.5, 3.49), [1, 2, 3, 3]),  # halves go up, never to the even neighbour
        ((-3, -0.2, 1000.6, 900), [0, 0, 1000, 800]),  # clipped to the frame
        ((5.4, 5.6, 5.45, 5.9), [5, 5, 6, 6]),  # thinner than a unit: rounded outwards
        ((5.9, 10, 6.1, 20), [5, 10, 7, 20]),
        ((999.7, 10, 1000, 20), [999, 10, 1000, 20]),  # also at the border
        ((0, 10, 0.2, 20), [0, 10, 1, 20]),
        ((5, 10, 5, 20), [5, 10, 5, 20]),  # no width to begin with: `check` has said so
    ],
)
def test_rounding(numbers: tuple[float, ...], whole: list[int]) -> None:
    assert json.loads(written([Item(numbers, None)], "bare"))["bbox_2d"] == whole


def test_large_frames_are_written_in_full() -> None:
    frame = Frame(3_000_000, 3_000_000)

    assert written([Item((1_000_001, 2, 2_000_002, 4), None)], "tokens", frame).startswith(
        "<|box_start|>(1000001,2),(2000002,4)"
    )


# ---- there and back --------------------------------------------------------------------------------------------

sides = st.integers(1, 2000)
frames = st.builds(Frame, sides, sides)


@st.composite
def boxes_in(draw: st.DrawFn, frame: Frame) -> tuple[float, float, float, float]:
    """A box with an area inside the frame, thin ones included."""
    left, right = sorted(draw(st.lists(st.floats(0, frame.width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.floats(0, frame.height), min_size=2, max_size=2, unique=True)))
    return left, top, right, bottom


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, AnswerForm, Frame, list[Item]]:
    """A family, a form, a seen frame, and items in the family's text frame."""
    family = draw(st.sampled_from([*FAMILIES]))
    form = draw(st.sampled_from(FORMS))
    seen = draw(frames)
    frame = FAMILIES[family].text_frame(seen)
    label = st.none() | (st.text(min_size=1).filter(lambda text: "<|" not in text) if form == "tokens" else st.text())
    point = st.tuples(st.floats(0, frame.width), st.floats(0, frame.height))
    items = st.lists(st.builds(Item, boxes_in(frame) | point, label), min_size=1, max_size=1 if form == "bare" else 5)
    return family, form, seen, draw(items)


@given(answers())
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_back_to_within_one_unit(case: tuple[str, AnswerForm, Frame, list[Item]]) -> None:
    family, form, seen, items = case
    frame = FAMILIES[family].text_frame(seen)
    boxes = [item for item in items if len(item.numbers) == 4]
    points = [item for item in items if len(item.numbers) == 2]

    answer = read(written(items, form, frame), family, seen).to(frame)

    np.testing.assert_allclose(
        answer.boxes.xyxy, Boxes([box.numbers for box in boxes], frame).xyxy, rtol=0, atol=1 + 1e-6
    )
    np.testing.assert_allclose(
        answer.points.xy, Points([point.numbers for point in points], frame).xy, rtol=0, atol=0.5 + 1e-6
    )
    assert answer.labels == [item.label for item in boxes + points]
    assert answer.flaw is None


LABELS = [
    "",
    " ",
    "'",
    '"',
    "\\",
    "\\'",
    '\\"',
    "\n",
    "]",
    "}",
    "```",
    "</think>",
    "<think>",
    "<|box_start|>",
    "\u2028",
    "\U0001f600",
    "\0",
]


@pytest.mark.parametrize("form", ["fenced", "list", "bare"])
@pytest.mark.parametrize("label", [*LABELS, "".join(LABELS)])
def test_a_label_may_hold_any_text(label: str, form: AnswerForm) -> None:
    assert read(written([Item((1, 2, 3, 4), label)], form)).labels == [label]


# ---- whatever a model says -------------------------------------------------------------------------------------

SHARDS = [
    *"[]{}\",:\\'\n",
    *('"bbox_2d": ', '{"bbox_2d": [1, 2, 3, 4]}', "[1, 2, 3, 4]", '"label": "x"', "NaN", "null", "```json"),
    *("<think>", "</think>", "<|box_start|>", "(1,2),(3,4)", "<|box_end|>", "<|object_ref_start|>", "<|quad_start|>"),
]
fragments = st.lists(st.text(max_size=5) | st.floats().map(str) | st.sampled_from(SHARDS), max_size=40).map("".join)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A valid answer with a stretch of it replaced by anything."""
    _, form, seen, items = draw(answers())
    text = written(items, form, seen)
    start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    return text[:start] + draw(st.text(max_size=3) | fragments) + text[end:]


@given(st.text() | fragments | damaged(), st.sampled_from([*FAMILIES]), frames)
@settings(max_examples=300, deadline=None)
def test_no_text_raises_and_no_box_leaves_the_picture(text: str, family: str, seen: Frame) -> None:
    answer = read(text, family, seen)

    assert answer.text == text
    assert answer.flaw is None or answer.flaw in FLAWS
    assert len(answer.labels) == len(answer.boxes) + len(answer.points)
    assert (answer.boxes.areas() > 0).all()
    np.testing.assert_array_equal(answer.boxes.clip().xyxy, answer.boxes.xyxy)
    np.testing.assert_array_equal(answer.points.clip().xy, answer.points.xy)
    "".join(label or "" for label in answer.labels).encode()


def _many(count: int) -> str:
    return "[" + ", ".join(['{"bbox_2d": [10, 20, 30, 40]}'] * count) + "]"


def test_more_boxes_than_sense() -> None:
    answer = read(_many(MAX_BOXES + 1))

    assert len(answer.boxes) == MAX_BOXES
    assert answer.flaw == "too_many"


def test_more_text_than_sense() -> None:
    start = time.perf_counter()
    answer = read(_many(100_000))

    assert time.perf_counter() - start < 20  # a second or so; quadratic would be hours
    assert (len(answer.boxes), answer.flaw) == (MAX_BOXES, "too_long")


JSON_UNITS = [
    "[",
    "{",
    '{"',
    "['",
    "[}",
    "[{]",
    "[]",
    '"',
    "[\"'",
    r"\"",
    r"\'",
    '{"a":',
    "[1,",
    "\\",
    "it's ",
    "9",
    "\n",
]
TOKEN_UNITS = [
    "<|box_start|>",
    "<|object_ref_start|>",
    "<|object_ref_start|>a<|box_start|>",
    "<think>",
    "</think>",
    "<|",
]


@pytest.mark.parametrize("start", ["", "[", '["', "<|object_ref_start|>"])
def test_time_is_linear_in_hostile_text(start: str) -> None:
    for unit in JSON_UNITS + TOKEN_UNITS:
        began = time.perf_counter()
        read(start + unit * (60_000 // len(unit)))
        assert time.perf_counter() - began < 10, unit  # tenths of a second; quadratic takes longer


# ---- fewer boxes -----------------------------------------------------------------------------------------------


def answered(*boxes: Sequence[float], labels: Sequence[str | None], scores: Sequence[float] | None = None) -> Answer:
    numbers = None if scores is None else np.array(scores)
    return Answer(Boxes(boxes, SEEN), Points([[1, 2]], SEEN), [*labels, "tip"], "raw", None, SEEN, scores=numbers)


def rest(answer: Answer) -> tuple[list[float], list[str | None], list[float] | None]:
    """Left sides, labels and scores."""
    assert answer.points.xy.tolist() == [[1, 2]]
    assert answer.text == "raw"
    return answer.boxes.xyxy[:, 0].tolist(), answer.labels, None if answer.scores is None else answer.scores.tolist()


HERE, BESIDE, THERE = (0, 0, 10, 10), (2, 0, 12, 10), (50, 0, 60, 10)  # IoU of the first two: 80 / 120


def test_boxes_of_a_lower_score_go() -> None:
    answer = answered(HERE, BESIDE, THERE, labels=["a", "b", "c"], scores=[0.2, 0.5, 0.9])

    assert rest(answer.above(0.5)) == ([2, 50], ["b", "c", "tip"], [0.5, 0.9])
    assert rest(answer.above(1.0)) == ([], ["tip"], [])
    assert rest(answer.above(0)) == rest(answer)
    without = answered(HERE, labels=["a"])
    assert rest(without.above(0.5)) == rest(without), "nobody knows"


def test_of_boxes_that_overlap_the_surest_stays() -> None:
    answer = answered(HERE, BESIDE, THERE, labels=["a", "a", "a"], scores=[0.2, 0.5, 0.1])

    assert rest(answer.suppress(0.6)) == ([2, 50], ["a", "a", "tip"], [0.5, 0.1])
    assert rest(answer.suppress(2 / 3)) == rest(answer), "more than that, not as much"
    assert rest(answer.suppress(1)) == rest(answer)


def test_without_scores_the_first_stays_and_other_labels_are_other_things() -> None:
    assert rest(answered(HERE, BESIDE, labels=[None, None]).suppress(0.5)) == ([0], [None, "tip"], None)
    assert rest(answered(HERE, BESIDE, labels=["a", "a"], scores=[0.5, 0.5]).suppress(0.5))[0] == [0]
    assert rest(answered(HERE, BESIDE, labels=["a", "b"]).suppress(0.5))[0] == [0, 2]


def test_a_box_that_was_left_out_suppresses_none() -> None:
    """A chain: the second goes for the first, and the third, which overlaps only the second, stays."""
    answer = answered(HERE, (4, 0, 14, 10), (8, 0, 18, 10), labels=["a"] * 3, scores=[0.9, 0.8, 0.7])

    assert rest(answer.suppress(0.4))[0] == [0, 8]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), 50])
def test_a_threshold_that_is_no_share_is_refused(value: float) -> None:
    answer = answered(HERE, labels=["a"])

    with pytest.raises(SettingsError, match=f"score is {value}; expected a number from 0 to 1"):
        answer.above(value)
    with pytest.raises(SettingsError, match="overlap is"):
        answer.suppress(value)
