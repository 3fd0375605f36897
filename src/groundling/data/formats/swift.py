"""ms-swift's JSONL: `messages`, or `query` and `response`, with `images`; boxes best in `objects`. One line (made up):

    {"messages": [{"role": "user", "content": "<image>Find the <ref-object>."},
                  {"role": "assistant", "content": "<ref-object><bbox>"}],
     "images": ["1.jpg"], "objects": {"ref": ["sheep", "a sheep"], "bbox": [[90.9, 160.8, 135, 212.8]]}}

`<ref-object>` and `<bbox>` are filled from `ref` and `bbox` in order, over all messages. `bbox_type` says what the
numbers count: real (by default), pixels of the picture itself; norm1, shares of it; norm1000, thousandths. Two numbers
are a point. The marks may stand in JSON, too: {"bbox_2d": <bbox>, "label": "<ref-object>"}. Text without `objects` does
not say what it counts, so the user has to, or it is proven. Source: Custom-dataset.md of modelscope/ms-swift (2025).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from groundling.data.formats.chat import (
    Chat,
    Keys,
    Places,
    Turn,
    Unplaced,
    check_marks,
    declared_frame,
    one_picture,
    read_chats,
    read_conversation,
    without_mark,
)
from groundling.data.formats.found import Found, Reading, TextFrame, read_id
from groundling.data.record import Rejected, read_numbers
from groundling.dialect.answer import Item, read_items
from groundling.errors import RecordError

_MESSAGES = Keys(image="images", messages="messages", role="role", text="content")
_FRAMES = {"real": "original", "norm1": "fractions", "norm1000": "thousandths"}
_QUERY_KEYS = ("query", "response", "history", "system", "images", "id")


def read_swift(source: str, reading: Reading) -> Iterator[Found | Rejected | Unplaced]:
    """One question a turn, boxes in original pixels; see `read_chats`."""
    return read_chats(source, read_chat, reading.frame, reading.images)


def read_chat(entry: dict[str, Any]) -> Chat:
    """The conversation of one line, its objects filled in. RecordError where they do not fit the text."""
    chat = read_conversation(entry, _MESSAGES) if "messages" in entry else _read_query(entry)
    objects = entry.get("objects")
    if objects is None:
        return chat
    extra = {key: value for key, value in chat.extra.items() if key != "objects"}
    return replace(chat, turns=_fill(chat.turns, objects), extra=extra)


def _read_query(entry: dict[str, Any]) -> Chat:
    """`query` and `response`, what was said before them in `history` as pairs."""
    history = entry.get("history") or []
    rows = [*history, [entry.get("query"), entry.get("response")]] if isinstance(history, list) else [history]
    if not all(isinstance(row, list) and [type(text) for text in row] == [str, str] for row in rows):
        found = ", ".join(entry)
        raise RecordError(f"found the keys {found}; expected messages, or query and response as texts (and images)")
    image = one_picture(entry.get("images"))
    check_marks([question for question, _ in rows], image)
    return Chat(
        image=image,
        turns=[Turn(without_mark(question), answer) for question, answer in rows],
        id=read_id(entry.get("id")),
        extra={key: value for key, value in entry.items() if key not in _QUERY_KEYS},
    )


# ---- objects ---------------------------------------------------------------------------------------------------

_SLOT = re.compile(r"<ref-object>|<bbox>")


class _Objects:
    """What is filled in, each used once."""

    def __init__(self, objects: object) -> None:
        values = objects if isinstance(objects, dict) else {}
        refs, boxes, kind = values.get("ref") or [], values.get("bbox") or [], values.get("bbox_type") or "real"
        if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs) or not isinstance(boxes, list):
            raise RecordError(f"'objects' is {reprlib.repr(objects)}; expected lists of texts and boxes, ref and bbox")
        if not isinstance(kind, str) or kind not in _FRAMES:
            raise RecordError(f"the bbox_type is {reprlib.repr(kind)}; expected {', '.join(_FRAMES)}")
        images = values.get("image_id") or []
        if not isinstance(images, list) or any(images):
            raise RecordError(
                f"the image_id is {reprlib.repr(images)}; expected 0 for each (a record is about one picture)"
            )
        self.frame: TextFrame = declared_frame(_FRAMES[kind])
        self.refs: list[str] = refs[::-1]
        self.boxes = [_read_numbers(box) for box in boxes][::-1]

    def take_ref(self) -> str:
        """The next text."""
        if not self.refs:
            raise RecordError("more <ref-object> in the text than 'ref' in 'objects'")
        return self.refs.pop()

    def take_box(self) -> tuple[float, ...]:
        """The next box or point."""
        if not self.boxes:
            raise RecordError("more <bbox> in the text than 'bbox' in 'objects'")
        return self.boxes.pop()


def _read_numbers(box: object) -> tuple[float, ...]:
    is_point = isinstance(box, list) and len(box) == 2
    return read_numbers(box, 2 if is_point else 4, "bbox")


def _fill(turns: Sequence[Turn], objects: object) -> list[Turn]:
    left = _Objects(objects)
    filled = [Turn(_fill_words(turn.question, left), *_fill_answer(turn.answer, left)) for turn in turns]
    if left.boxes:
        raise RecordError(f"{len(left.boxes)} 'bbox' in 'objects' that no <bbox> in the text stands for")
    return filled


def _fill_words(text: str, left: _Objects) -> str:
    """A text about nothing but words; a place in a question could not be told from its numbers."""
    if "<bbox>" in text:
        raise RecordError("a question with a <bbox>; a record's question is words, and its answer the places")
    return _SLOT.sub(lambda _: left.take_ref(), text)


_IN_JSON = re.compile(r'"(?:bbox_2d|bbox|point_2d|point)"\s*:\s*<bbox>')


def _fill_answer(text: str, left: _Objects) -> tuple[str, Places | None]:
    """The answer, and the places it names. In JSON their keys tell the labels, once the text is filled in.

    Elsewhere a <ref-object> is the label of each <bbox> behind it, up to the next.
    """
    if "<bbox>" not in text:
        return _fill_words(text, left), None
    if _IN_JSON.search(text):
        return text, Places(tuple(_read_json(text, left)), left.frame)
    items: list[Item] = []
    label = None
    for slot in _SLOT.findall(text):
        if slot == "<bbox>":
            items.append(Item(left.take_box(), label))
        else:
            label = left.take_ref() or None
    return text, Places(tuple(items), left.frame)


def _read_json(text: str, left: _Objects) -> list[Item]:
    filled = _SLOT.sub(lambda slot: str([*left.take_box()]) if slot[0] == "<bbox>" else left.take_ref(), text)
    items = read_items(filled)
    if len(items) != text.count("<bbox>"):
        raise RecordError(f"the answer {filled[:200]!r} cannot be read once its objects are filled in")
    return items
