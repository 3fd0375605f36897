"""Answers as text: written for training, read back from a model. The two are inverses to within one unit of the grid.

Forms, for one target `[10, 20, 30, 40]` labelled "mug" (sources as in `dialect/family.py`; `bare` from the tutorial):

    fenced   ```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "mug"}\n]\n```
    list     [{"bbox_2d": [10, 20, 30, 40], "label": "mug"}]
    bare     {"bbox_2d": [10, 20, 30, 40], "label": "mug"}
    tokens   <|object_ref_start|>mug<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>

The reader takes any of them, whatever the form asked for. It never raises on what a model said: it keeps the text,
returns what could be read for certain, and names the flaw.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from groundling.dialect.family import AnswerForm, find_family
from groundling.dialect.prompt import Piece
from groundling.dialect.score import SCORE_DIGITS, Extent, Reading, Written
from groundling.errors import SettingsError
from groundling.geometry.boxes import Boxes, Points, iou
from groundling.geometry.frame import Frame

FLAWS: dict[str, str] = {
    "too_long": "more text than is read; the rest was left out",
    "truncated": "the text ends inside a list, an object or a thought; only complete objects were read",
    "empty": "nothing was answered",
    "too_many": "more boxes than any picture should need; the first ones were read",
    "quad": "eight numbers, a quadrilateral; not turned into a box",
    "wrong_length": "coordinates that are neither the four of a box nor the two of a point; left out",
    "bad_number": "a coordinate that is not a finite number (NaN, a word, a string); its box was left out",
    "no_area": "a box of no width or no height, or wholly outside the picture; left out",
    "no_boxes": "words, but neither boxes nor the empty list",
    "repeated_key": "an object that gives one key twice; the last one was read",
    "unpaired": "a bracket that closes nothing, or one that is missing before another; read as if it were there",
    "inverted": "corners out of order; put in order",
    "outside": "a box or a point that leaves the picture by more than one unit; clipped",
}
"""What can be wrong with an answer, by code, the gravest first. An answer with several flaws carries the gravest."""

MAX_BOXES = 10_000
MAX_CHARACTERS = 1_000_000  # MAX_BOXES with labels of fifty letters fit


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said about one picture.

    `labels` belong to the boxes, then to the points, in order; `scores` is (N,) in 0..1, one a box, or None where the
    model's probabilities are not known. `text` is the raw answer, `flaw` None or a code of FLAWS, `seen` the frame that
    the model saw. `none_score` is the probability of an answer that there is nothing, None for any other. `is_full`:
    the model would have gone on, had there been room.
    """

    boxes: Boxes
    points: Points
    labels: list[str | None]
    text: str
    flaw: str | None
    seen: Frame
    scores: np.ndarray | None = None
    none_score: float | None = None
    is_full: bool = False

    def to(self, frame: Frame) -> Answer:
        """The same answer with its boxes and points in another frame of the picture."""
        return replace(self, boxes=self.boxes.to(frame), points=self.points.to(frame))

    def above(self, score: float) -> Answer:
        """The answer without its boxes of a lower score; all of it where there are no scores. Points stay."""
        _refuse_no_share("score", score)
        return self if self.scores is None else self._with_boxes(np.flatnonzero(self.scores >= score).tolist())

    def suppress(self, overlap: float) -> Answer:
        """The answer without boxes that a surer one of the same label overlaps by an IoU of more than `overlap`.

        Greedy non-maximum suppression: without scores, and between equal ones, what was said first stays. The boxes
        that stay keep their order; so do points.
        """
        _refuse_no_share("overlap", overlap)
        scores = np.zeros(len(self.boxes)) if self.scores is None else self.scores
        kept: list[int] = []
        for one in sorted(range(len(self.boxes)), key=lambda place: -scores[place]):
            alike = [other for other in kept if self.labels[other] == self.labels[one]]
            if not (iou(self.boxes[[one]], self.boxes[alike]) > overlap).any():
                kept.append(one)
        return self._with_boxes(sorted(kept))

    def _with_boxes(self, places: list[int]) -> Answer:
        """Only these of the boxes."""
        rows = np.array(places, dtype=int)
        labels = [self.labels[place] for place in places] + self.labels[len(self.boxes) :]
        scores = None if self.scores is None else self.scores[rows]
        return replace(self, boxes=self.boxes[rows], labels=labels, scores=scores)


def _refuse_no_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise SettingsError(f"{name} is {value}; expected a number from 0 to 1")


class Item(NamedTuple):
    """One thing to write, or one thing read: four numbers of a box or two of a point, in the text's own frame."""

    numbers: tuple[float, ...]
    label: str | None


class _Found(NamedTuple):
    """An item of a text, where its numbers stand there, and where the whole of it ends."""

    item: Item
    start: int
    stop: int
    end: int


# ---- writing ---------------------------------------------------------------------------------------------------


def write_answer(items: Sequence[Item], form: AnswerForm, frame: Frame) -> list[Piece]:
    """The answer that a model of this form should give: integers, rounded to nearest, clipped to the text's frame.

    `items` are in the units of `frame`, the family's `text_frame`. A side that rounding would close is rounded outwards
    instead, for a box without area could not be read back. Control tokens stand only in pieces of their own, so a label
    may hold any text; only a label with box tokens in it, in the form `tokens`, cannot be read back. No items: `[]` in
    every form. SettingsError where the form cannot hold the items.
    """
    if not items:
        return [Piece("[]", is_control=False)]
    items = [Item(_whole(item.numbers, frame), item.label) for item in items]
    if form == "tokens":
        return list(_token_pieces(items))
    if form == "bare" and len(items) > 1:
        raise SettingsError(f"the answer form 'bare' holds one target, not {len(items)}; use 'list' or 'fenced'")
    return [Piece(_json_text([_json_object(item) for item in items], form), is_control=False)]


def _json_text(objects: list[str], form: AnswerForm) -> str:
    if form == "bare":
        return objects[0]
    if form == "list":
        return f"[{', '.join(objects)}]"
    return "```json\n[\n\t" + ",\n\t".join(objects) + "\n]\n```"


def _json_object(item: Item) -> str:
    key = "bbox_2d" if len(item.numbers) == 4 else "point_2d"
    label = {} if item.label is None else {"label": item.label}
    return json.dumps({key: item.numbers} | label, ensure_ascii=False)


def _token_pieces(items: Sequence[Item]) -> Iterator[Piece]:
    """A label holds until the next one, so where one item has a label all get one, be it empty."""
    is_labelled = any(item.label is not None for item in items)
    for item in items:
        if is_labelled:
            yield Piece("<|object_ref_start|>", is_control=True)
            yield Piece(item.label or "", is_control=False)
            yield Piece("<|object_ref_end|>", is_control=True)
        pairs = zip(item.numbers[::2], item.numbers[1::2], strict=True)
        yield Piece("<|box_start|>" + ",".join(f"({x},{y})" for x, y in pairs) + "<|box_end|>", is_control=True)


def _whole(numbers: Sequence[float], frame: Frame) -> tuple[int, ...]:
    """Two or four coordinates as integers inside the frame; a side longer than 0 never becomes 0 by rounding."""
    if len(numbers) == 2:
        return tuple(_round_within(number, limit) for number, limit in zip(numbers, frame.size_wh, strict=True))
    left, top, right, bottom = numbers
    (left, right), (top, bottom) = _whole_side(left, right, frame.width), _whole_side(top, bottom, frame.height)
    return left, top, right, bottom


def _whole_side(start: float, end: float, limit: int) -> tuple[int, int]:
    whole = _round_within(start, limit), _round_within(end, limit)
    if whole[0] < whole[1] or start >= end:
        return whole
    return _round_within(math.floor(start), limit), _round_within(math.ceil(end), limit)


def _round_within(number: float, limit: int) -> int:
    return min(max(math.floor(number + 0.5), 0), limit)


# ---- reading: what is amiss is added to `flaws` on the way -----------------------------------------------------


def read_answer(text: str, *, family: str, seen: Frame, written: Sequence[Written] | None = None) -> Answer:
    """What `text` says, its boxes and points in `seen` for every family, in the order of the text.

    `family` says what the numbers count (its `text_frame`). With `written`, the tokens that spell the text, the boxes
    have scores, or their absence one. Never raises on the text; see FLAWS for what may be amiss. Time is linear in the
    text, and nesting is not followed by recursion.
    """
    frame = find_family(family).text_frame(seen)
    flaws: set[str] = set()
    if len(text) > MAX_CHARACTERS:
        flaws.add("too_long")
    start, found = _find_items(text[:MAX_CHARACTERS], flaws)
    if len(found) > MAX_BOXES:
        flaws.add("too_many")
    begins = [start, *(one.end for one in found)]
    placed = [
        (placed, Extent(begin, one.start, one.stop, one.end))
        for begin, one in zip(begins, found[:MAX_BOXES], strict=False)
        if (placed := _place(one.item, frame, flaws))
    ]
    boxes = [item for item, _ in placed if len(item.numbers) == 4]
    points = [item for item, _ in placed if len(item.numbers) == 2]
    reading = None if written is None else Reading(text, written)
    is_none = not found and not flaws
    return Answer(
        boxes=Boxes([item.numbers for item in boxes], frame).to(seen),
        points=Points([item.numbers for item in points], frame).to(seen),
        labels=[item.label for item in boxes + points],
        text=text,
        flaw=min(flaws, key=list(FLAWS).index, default=None),
        seen=seen,
        scores=reading and _score_boxes(placed, reading),
        none_score=round(reading.score_text(start, len(text)), SCORE_DIGITS) if reading and is_none else None,
    )


def _score_boxes(placed: Sequence[tuple[Item, Extent]], reading: Reading) -> np.ndarray:
    """(N,), one a box."""
    boxes = [(item.numbers, extent) for item, extent in placed if len(item.numbers) == 4]
    scores = [reading.score_box(extent, (box[2] - box[0], box[3] - box[1])) for box, extent in boxes]
    return np.array(scores, dtype=np.float64).round(SCORE_DIGITS)


def read_items(text: str) -> list[Item]:
    """The boxes and points that a text names, in its own numbers and unjudged; none where it cannot be read whole.

    For finding out what those numbers count.
    """
    flaws: set[str] = set()
    _, found = _find_items(text[:MAX_CHARACTERS], flaws)
    return [] if flaws or len(text) > MAX_CHARACTERS else [one.item for one in found[:MAX_BOXES]]


def is_outside(numbers: Sequence[float], frame: Frame) -> bool:
    """Whether a box or a point leaves the frame by more than one unit; by a hundredth where a side is one unit long."""
    limits = [*frame.size_wh] * (len(numbers) // 2)
    return any(
        number < -slack or number > limit + slack
        for number, limit in zip(numbers, limits, strict=True)
        for slack in [1 if limit > 1 else 0.01]
    )


_ANSWER = re.compile(r"[\[{]|```|<\|")
_BEGINS_WITH_ANSWER = re.compile(rf"\s*(?:{_ANSWER.pattern})")


def _find_items(text: str, flaws: set[str]) -> tuple[int, list[_Found]]:
    """Where the answer begins in the text, behind all thoughts and words, and its items."""
    start = _skip_thoughts(text, flaws)
    found = _find_in(text[start:], flaws)
    first = _ANSWER.search(text, start)
    shifted = [one._replace(start=one.start + start, stop=one.stop + start, end=one.end + start) for one in found]
    return first.start() if first else len(text), shifted


def _skip_thoughts(text: str, flaws: set[str]) -> int:
    """Where the text's thinking ends: at its own end where it never does, at 0 where there is none.

    The opening tag is often part of the prompt. A text that begins with its answer holds the tags in a label only.
    """
    if _BEGINS_WITH_ANSWER.match(text):
        return 0
    _, end, words = text.partition("</think>")
    if not end and text.lstrip().startswith("<think>"):
        flaws.add("truncated")
        return len(text)
    return len(text) - len(words) if end else 0


_BEGINS_WITH_TOKENS = re.compile(r"[^\[{]*?<\|(?:object_ref|box|quad)_start\|>")


def _find_in(text: str, flaws: set[str]) -> list[_Found]:
    """The items of the answer, as tokens or as JSON by which of the two comes first."""
    if _BEGINS_WITH_TOKENS.match(text):
        return _find_token_items(text, flaws)
    groups = _read_groups(text, flaws)
    found = [one for group in groups if group.is_object for one in _items_of(group, flaws)]
    found = found or [one for row in _rows(text, groups) for one in _checked(row, (2, 4), None, row.end, flaws)]
    if found or any(group.is_empty_list for group in groups):
        return found
    found = [] if flaws else _find_token_items(text, flaws)  # brackets in prose may come before tokens
    if not found:
        flaws.add("no_boxes" if text.strip() else "empty")
    return found


_TOKEN = re.compile(r"<\|((?:object_ref|box|quad)_(?:start|end))\|>")
_TOKEN_NUMBER = re.compile(r"[^\s(),\[\]]+")


def _find_token_items(text: str, flaws: set[str]) -> list[_Found]:
    """The boxes and points between box tokens; each label holds for all that follow it."""
    tokens = list(_TOKEN.finditer(text))
    if tokens and tokens[-1][1] not in ("box_end", "quad_end"):
        flaws.add("truncated")
    found: list[_Found] = []
    label = None
    for token, following in pairwise(tokens):
        start, stop = token.end(), following.start()
        if token[1] == "object_ref_start":
            label = text[start:stop] or None
        elif token[1] in ("box_start", "quad_start"):
            numbers = _Group(start, is_object=False, is_keyed=True)
            numbers.end = stop
            numbers.values += [_number(word) for word in _TOKEN_NUMBER.findall(text[start:stop])]
            found += _checked(numbers, (2, 4), label, stop, flaws)
    return found


def _rows(text: str, groups: list[_Group]) -> list[_Group]:
    """The numbers that no key names: `[[10, 20, 30, 40]]`. Two of them are a point only where the text begins so.

    Elsewhere `[1, 2]` is more often a reference mark.
    """
    lengths = (2, 4, 8) if _BEGINS_WITH_ANSWER.match(text) else (4, 8)
    return [group for group in groups if group.is_row and len(group.values) in lengths]


_LENGTHS = {"bbox_2d": (4,), "bbox": (4,), "point_2d": (2,), "point": (2,)}


def _items_of(group: _Group, flaws: set[str]) -> list[_Found]:
    """The box or point that one JSON object means; none where it means neither, with a flaw where it tries to."""
    found = dict(group.pairs)
    if len(found) < len(group.pairs):
        flaws.add("repeated_key")
    key = next((key for key in _LENGTHS if key in found), None)
    if key is None:
        return []
    label = found.get("label")
    return _checked(found[key], _LENGTHS[key], label if isinstance(label, str) else None, group.end, flaws)


def _checked(values: object, lengths: tuple[int, ...], label: str | None, end: int, flaws: set[str]) -> list[_Found]:
    """One item where `values` are a list of one of these lengths, all finite numbers; none and a flaw otherwise.

    Half of a surrogate pair, which no file can store, is a question mark in the label.
    """
    numbers = values.values if isinstance(values, _Group) else [values]
    finite = [number for number in numbers if isinstance(number, float) and math.isfinite(number)]
    if len(finite) < len(numbers):
        flaws.add("bad_number")
        return []
    if len(finite) not in lengths:
        flaws.add("quad" if len(finite) == 8 else "wrong_length")
        return []
    assert isinstance(values, _Group), "a number alone is of no such length"
    item = Item(tuple(finite), label and label.encode(errors="replace").decode())
    return [_Found(item, values.start, values.end, end)]


def _place(item: Item, frame: Frame, flaws: set[str]) -> Item | None:
    """The item with its corners in order and inside the frame; None where nothing of it is."""
    numbers = item.numbers
    if len(numbers) == 4:
        left, top, right, bottom = numbers
        numbers = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        if numbers != item.numbers:
            flaws.add("inverted")
    if is_outside(numbers, frame):
        flaws.add("outside")
    limits = [*frame.size_wh] * (len(numbers) // 2)
    numbers = tuple(min(max(number, 0.0), float(limit)) for number, limit in zip(numbers, limits, strict=True))
    if len(numbers) == 4 and (numbers[0] == numbers[2] or numbers[1] == numbers[3]):
        flaws.add("no_area")
        return None
    return Item(numbers, item.label)


# ---- a tolerant JSON reader ------------------------------------------------------------------------------------


class _Group:
    """A list or an object of the text, from its first to behind its last bracket, filled while it is read."""

    __slots__ = ("end", "is_closed", "is_keyed", "is_object", "key", "pairs", "start", "values")

    def __init__(self, start: int, *, is_object: bool, is_keyed: bool) -> None:
        self.start = start
        self.end = start
        self.is_object = is_object
        self.is_keyed = is_keyed  # it stands directly in an object, so a key says what it is
        self.is_closed = False
        self.key: str | None = None  # named, its value not read yet
        self.pairs: list[tuple[str, object]] = []
        self.values: list[object] = []  # what no key names

    @property
    def is_row(self) -> bool:
        """Whether it is a list of nothing but numbers that no key names."""
        return not (self.is_object or self.is_keyed) and all(isinstance(value, float) for value in self.values)

    @property
    def is_empty_list(self) -> bool:
        """Whether it says that there is nothing."""
        return not (self.is_object or self.values)

    def take(self, value: object) -> None:
        """The next value of a list, the value of a named key, or perhaps the name of a key."""
        if self.key is None:
            self.values.append(value)
        else:
            self.pairs.append((self.key, value))
            self.key = None

    def take_colon(self) -> None:
        """The value before the colon is the key of the one after it."""
        if self.is_object and self.values and isinstance(name := self.values.pop(), str):
            self.key = name


# A quote opens a string only where a word could begin, so the apostrophes of prose are letters. A string without an end
# takes the rest of the text, in one step: no place is read twice.
_JSON_TOKEN = re.compile(
    r"""[\[\]{}:,] | "(?:[^"\\]|\\.)*+(?:"|\\?\Z) | '(?:[^'\\]|\\.)*+(?:'|\\?\Z) | [^\s\[\]{}:,"'][^\s\[\]{}:,]*""",
    re.DOTALL | re.VERBOSE,
)
_JSON_START = re.compile(r"[\[{]")


def _read_groups(text: str, flaws: set[str]) -> list[_Group]:
    """The complete lists and objects of a text in the order they open, whatever words or fences stand around them.

    Strings stand in JSON's quotes or Python's. A stack and no recursion: nesting costs nothing.
    """
    groups: list[_Group] = []
    stack: list[_Group] = []
    position = 0
    while match := (_JSON_TOKEN if stack else _JSON_START).search(text, position):
        token, position = match.group(), match.end()
        if token in "[{":
            is_keyed = bool(stack) and stack[-1].is_object
            stack.append(_Group(match.start(), is_object=token == "{", is_keyed=is_keyed))
            groups.append(stack[-1])
        elif token in "]}":
            _close_(stack, token == "}", position, flaws)
        elif token == ":":
            stack[-1].take_colon()
        elif token != ",":
            stack[-1].take(_scalar(token))
    if stack:
        flaws.add("truncated")
    return [group for group in groups if group.is_closed]


def _close_(stack: list[_Group], is_object: bool, end: int, flaws: set[str]) -> None:
    """Close the innermost group, or the one around it where only that makes a pair; pass over any other bracket."""
    depth = next((depth for depth in (1, 2) if depth <= len(stack) and stack[-depth].is_object == is_object), 0)
    if depth != 1:
        flaws.add("unpaired")
    for _ in range(depth):
        closed = stack.pop()
        closed.is_closed = True
        closed.end = end
        if stack:
            stack[-1].take(closed)


def _scalar(token: str) -> str | float | None:
    return _unquote(token) if token[0] in "\"'" else _number(token)


def _number(word: str) -> float | None:
    """The number of a bare word, NaN and infinity included; None for any other word, and for digits not ASCII."""
    try:
        return float(word) if word.isascii() and "_" not in word else None
    except ValueError:
        return None


_QUOTE_OR_ESCAPE = re.compile(r"""\\.|\"""", re.DOTALL)
_IN_JSON = {"\\'": "'", '"': '\\"'}  # what Python writes otherwise


def _unquote(token: str) -> str:
    """The text of a string in either kind of quotes; as it stands where it holds an escape that JSON does not know."""
    body = _QUOTE_OR_ESCAPE.sub(lambda match: _IN_JSON.get(match.group(), match.group()), token[1:-1])
    try:
        return json.loads(f'"{body}"', strict=False)
    except json.JSONDecodeError:
        return token[1:-1]
