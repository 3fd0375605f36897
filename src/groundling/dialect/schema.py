r"""An answer's form for servers that hold a model to one: a regular expression, or a JSON schema.

vLLM and SGLang write only what such a guide allows. It is of one picture, for the numbers stay inside the frame that
they count in: for Qwen2.5-VL that of the picture as it is seen, for families of thousandths always the same. For the
form `bare` in a frame of 9x9, with labels of up to 5 letters and over two lines:

    \[\]|\{("bbox_2d": \[(0|[1-7]|8), (0|[1-7]|8), ([1-8]|9), ([1-8]|9)\]|"point_2d": \[(0|[1-8]|9), (0|[1-8]|9)\])
    (, "label": "([^"\\\x00-\x1f]|\\["\\/bfnrt]){0,5}")?\}

A guide allows what the grammar does (`grammar.py`), but for two things. That right is beyond left and bottom below top,
neither can say: the reader puts such corners in order. And labels and lists have an end, since a model that is held to
a form may never end one by itself.
"""

from __future__ import annotations

import re
from typing import Any

from groundling.dialect.family import AnswerForm
from groundling.dialect.grammar import AROUND, NONE
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame

MOST_THINGS = 50  # boxes and points of one answer
MOST_LETTERS = 100  # of one label

# The engines (xgrammar, llguidance, Outlines) share less than Python's syntax: no (?:...), no \d, no looking around.
# Letters of a JSON string as in RFC 8259, section 7, without \u, as the grammar has them.
_JSON_LETTER = r'([^"\\\x00-\x1f]|\\["\\/bfnrt])'
_WORD_LETTER = r"[^<]"  # of a label between box tokens


def answer_regex(
    form: AnswerForm, frame: Frame, *, most_things: int = MOST_THINGS, most_letters: int = MOST_LETTERS
) -> str:
    """A regular expression of the whole answers of this form in the text's `frame`, without the end token.

    It has less than 1300 characters, whatever the frame. `bare` holds one thing. In the form `tokens` a label has no
    `<`, with which its end begins.
    """
    _check_limits(most_things, most_letters)
    none = re.escape(NONE)
    if form == "tokens":
        return f"{none}|({_token_thing(frame, most_letters)}){{1,{most_things}}}"
    thing = _json_thing(frame, most_letters)
    if form == "bare":
        return f"{none}|{thing}"
    opening, between, closing = (_escape(text) for text in AROUND[form])
    return f"{none}|{opening}{thing}({between}{thing}){{0,{most_things - 1}}}{closing}"


def answer_schema(
    form: AnswerForm, frame: Frame, *, most_things: int = MOST_THINGS, most_letters: int = MOST_LETTERS
) -> dict[str, Any]:
    """A JSON schema (2020-12) of the answers: what `answer_regex` allows, but for spaces and the order of keys.

    Where a server takes both, the regular expression is better: it holds a model to the spaces that it learned, too.
    `fenced` is the list without its fence, which no schema can ask for. SettingsError for `tokens`, which is no JSON.
    """
    _check_limits(most_things, most_letters)
    if form == "tokens":
        raise SettingsError("answers of the form 'tokens' are no JSON, so no schema holds them; use answer_regex")
    width, height = frame.size_wh
    box = _thing_schema("bbox_2d", [(0, width - 1), (0, height - 1), (1, width), (1, height)], most_letters)
    point = _thing_schema("point_2d", [(0, width), (0, height)], most_letters)
    if form == "bare":
        return {"anyOf": [box, point, {"type": "array", "maxItems": 0}]}
    return {"type": "array", "items": {"anyOf": [box, point]}, "maxItems": most_things}


def number_regex(least: int, most: int) -> str:
    """A group of the whole numbers from `least`, 0 or 1, to `most`, written without leading zeros."""
    assert least in (0, 1) and least <= most, "numbers begin at 0 or 1"
    digits = str(most)
    texts = ["0"] if least == 0 else []
    if len(digits) > 1:
        texts.append("[1-9]" + _any_digits(0, len(digits) - 2))
    for place, digit in enumerate(digits):
        lowest = 1 if place == 0 else 0
        if lowest < int(digit):
            below = str(lowest) if lowest == int(digit) - 1 else f"[{lowest}-{int(digit) - 1}]"
            rest = len(digits) - place - 1
            texts.append(digits[:place] + below + _any_digits(rest, rest))
    if most > 0:
        texts.append(digits)
    return f"({'|'.join(texts)})"


def _any_digits(least: int, most: int) -> str:
    if most == 0:
        return ""
    return "[0-9]" if least == most == 1 else f"[0-9]{{{least},{most}}}"  # {2} alone is too new for some engines


def _check_limits(most_things: int, most_letters: int) -> None:
    if most_things < 1 or most_letters < 1:
        raise SettingsError(f"most_things is {most_things} and most_letters {most_letters}; both start at 1")


# ---- JSON ------------------------------------------------------------------------------------------------------


def _json_thing(frame: Frame, most_letters: int) -> str:
    left, top, right, bottom = _corners(frame)
    x, y = number_regex(0, frame.width), number_regex(0, frame.height)
    box = rf'"bbox_2d": \[{left}, {top}, {right}, {bottom}\]'
    point = rf'"point_2d": \[{x}, {y}\]'
    return rf'\{{({box}|{point})(, "label": "{_JSON_LETTER}{{0,{most_letters}}}")?\}}'


def _corners(frame: Frame) -> tuple[str, str, str, str]:
    """Left, top, right, bottom of a box that may have an area."""
    left, top = number_regex(0, frame.width - 1), number_regex(0, frame.height - 1)
    return left, top, number_regex(1, frame.width), number_regex(1, frame.height)


def _thing_schema(key: str, limits: list[tuple[int, int]], most_letters: int) -> dict[str, Any]:
    numbers = [{"type": "integer", "minimum": least, "maximum": most} for least, most in limits]
    array = {"type": "array", "prefixItems": numbers, "minItems": len(numbers), "maxItems": len(numbers)}
    return {
        "type": "object",
        "properties": {key: array, "label": {"type": "string", "maxLength": most_letters}},
        "required": [key],
        "additionalProperties": False,
    }


_MARKS = re.compile(r"[\\^$.*+?(){}\[\]|]")


def _escape(text: str) -> str:
    """The text as a regular expression of itself, in the syntax that all engines share."""
    return _MARKS.sub(r"\\\g<0>", text).replace("\n", r"\n").replace("\t", r"\t")


# ---- box tokens ------------------------------------------------------------------------------------------------


def _token_thing(frame: Frame, most_letters: int) -> str:
    left, top, right, bottom = _corners(frame)
    label = rf"(<\|object_ref_start\|>{_WORD_LETTER}{{0,{most_letters}}}<\|object_ref_end\|>)?"
    return rf"{label}<\|box_start\|>\({left},{top}\)(,\({right},{bottom}\))?<\|box_end\|>"
