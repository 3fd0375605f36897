"""Conversations about a picture whose answers hold boxes as text: one reader for every file format that stores such.

What the numbers count is not in the text. A file's `TextFrame` says it: fixed by the format, or declared by the user.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.formats.detection import FRACTIONS, turn_doubt
from groundling.data.formats.entries import as_object, read_entries
from groundling.data.formats.found import Found, PictureFolder, TextFrame, keep_extra, read_id
from groundling.data.record import Rejected, Target
from groundling.dialect.answer import FLAWS, Item, read_answer, read_items, write_answer
from groundling.dialect.family import FAMILIES, AnswerForm, Budget, Family
from groundling.errors import GroundlingError, RecordError, SettingsError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import THOUSANDTHS, Frame
from groundling.geometry.images import Header, read_header

_MIN_PIXELS = 56 * 56  # the family's own lower limit, in the vendor's process_bbox notebook and in transformers
_PIXELS = FAMILIES["qwen2_5_vl"]  # the family whose text counts pixels of a resized picture


class Places(NamedTuple):
    """What an answer names, where the format keeps it apart from the text or tells what its numbers count."""

    items: tuple[Item, ...]
    frame: TextFrame


class Turn(NamedTuple):
    """One question and its answer, as text."""

    question: str
    answer: str
    places: Places | None = None  # None: only the text says them


@dataclass(frozen=True)
class Chat:
    """A conversation about one picture, or about none."""

    image: str | None
    turns: Sequence[Turn]
    id: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


# ---- the frame of a text ---------------------------------------------------------------------------------------


def declared_frame(words: str) -> TextFrame:
    """The frame named by `original`, `thousandths`, `fractions` or `resized:PIXELS` (the budget it was resized to).

    SettingsError for other words.
    """
    if words == "original":
        return in_itself
    if words == "thousandths":
        return lambda original: THOUSANDTHS
    if words == "fractions":
        return lambda original: FRACTIONS
    name, _, pixels = words.partition(":")
    if name != "resized" or not pixels.isdecimal():
        raise SettingsError(
            f"the frame {words!r} is not known; expected original (pixels of the picture itself), thousandths (0 to "
            "1000), fractions (0 to 1) or resized:PIXELS (pixels of the picture once resized to so many, as in "
            "resized:1003520)"
        )
    return resized_to(int(pixels))


def in_itself(original: Frame) -> Frame:
    """The frame of a text that counts pixels of the picture as it is."""
    return original


def resized_to(max_pixels: int, family: Family = _PIXELS) -> TextFrame:
    """The frame of a picture resized for that family within a budget of 3136 to `max_pixels`."""
    budget = Budget(family, _MIN_PIXELS, max_pixels)
    return lambda original: resize_within(original, budget)


def resize_within(original: Frame, budget: Budget) -> Frame:
    """The grid that the vendor's `smart_resize` makes of a picture: sides in whole tokens, area within the budget.

    Only for text that was written with that formula and does not tell its frame; what a processor did is read from
    its own grid. Source: the vendor's process_bbox notebook (2025), where 640x428 within 1003520 becomes 644x420.
    """
    token = budget.family.token_side
    sides = [round(side / token) * token for side in original.size_wh]
    if math.prod(sides) > budget.max_pixels:
        shrink = math.sqrt(original.area / budget.max_pixels)
        sides = [max(math.floor(side / shrink / token), 1) * token for side in original.size_wh]
    elif math.prod(sides) < budget.min_pixels:
        grow = math.sqrt(budget.min_pixels / original.area)
        sides = [math.ceil(side * grow / token) * token for side in original.size_wh]
    return Frame(*sides)


# ---- places in an answer ---------------------------------------------------------------------------------------

_NOTHING = re.compile(r"\s*(```\w*\s*)?\[\s*\](\s*```)?\s*")
_MARKS = ("bbox_2d", '"bbox"', "point_2d", "<|box_start|>")


def read_targets(text: str, original: Frame, frame: TextFrame) -> tuple[Target, ...] | None:
    """The targets that an answer names, boxes before points, in original pixels; None where it is general text.

    It names some when it holds a box, a point under a key or as a list, or is the empty list; words around them are
    dropped. RecordError where the answer has a flaw: what could be read of it may not be what was meant.
    """
    answer = read_answer(text, family=_PIXELS.name, seen=frame(original))
    if not _names_places(text, boxes=len(answer.boxes), points=len(answer.points)):
        return None
    if answer.flaw:
        raise RecordError(
            f"the answer {text[:200]!r}, read in a frame of {answer.seen}: {FLAWS[answer.flaw]} ({answer.flaw}); "
            "expected left, top, right, bottom in that frame (are these x, y, width, height, or of another frame?)"
        )
    placed = answer.to(original)
    boxes = [Target(box=(left, top, right, bottom)) for left, top, right, bottom in placed.boxes.xyxy.tolist()]
    points = [Target(point=(x, y)) for x, y in placed.points.xy.tolist()]
    places = zip(boxes + points, placed.labels, strict=True)
    return tuple(replace(target, label=label) for target, label in places)


def write_targets(targets: Sequence[Target], original: Frame, frame: TextFrame, form: AnswerForm) -> str:
    """The answer that names these targets: the inverse of `read_targets`, to half a unit of the text's frame."""
    text_frame = frame(original)
    items = [Item(_numbers_in(target, original, text_frame), target.label) for target in targets]
    return "".join(piece.text for piece in write_answer(items, form, text_frame))


def _named_items(text: str) -> list[Item]:
    """The places that a text names, in its own numbers; none where it is general text, or cannot be read whole."""
    items = read_items(text)
    boxes = sum(len(item.numbers) == 4 for item in items)
    return items if items and _names_places(text, boxes=boxes, points=len(items) - boxes) else []


def _names_places(text: str, *, boxes: int, points: int) -> bool:
    if boxes or _NOTHING.fullmatch(text) or any(mark in text for mark in _MARKS):
        return True
    return points > 0 and ("point" in text or text.lstrip().startswith("["))


def _place(places: Places, original: Frame) -> tuple[Target, ...]:
    """The places as targets in original pixels, in order."""
    frame = places.frame(original)
    return tuple(_place_item(item, frame, original) for item in places.items)


def _place_item(item: Item, frame: Frame, original: Frame) -> Target:
    if len(item.numbers) == 2:
        x, y = Points([item.numbers], frame).to(original).xy[0].tolist()
        return Target(point=(x, y), label=item.label)
    left, top, right, bottom = Boxes([item.numbers], frame).to(original).xyxy[0].tolist()
    return Target(box=(left, top, right, bottom), label=item.label)


def _numbers_in(target: Target, original: Frame, text_frame: Frame) -> tuple[float, ...]:
    if target.box is not None:
        return tuple(Boxes([target.box], original).to(text_frame).xyxy[0].tolist())
    return tuple(Points([target.numbers], original).to(text_frame).xy[0].tolist())


# ---- conversations ---------------------------------------------------------------------------------------------


class Keys(NamedTuple):
    """What a format calls the parts of a conversation."""

    image: str
    messages: str
    role: str
    text: str


_ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}
_PICTURE = "<image>"


def read_conversation(entry: dict[str, Any], keys: Keys) -> Chat:
    """The conversation of one entry, without the mark that stands for the picture.

    Words of the system are not kept. RecordError for films, several pictures, or turns out of order.
    """
    if entry.get("video") or entry.get("videos"):
        raise RecordError(f"the conversation is about a film; expected one picture under {keys.image!r}")
    messages = entry.get(keys.messages)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        shape = f"[{{{keys.role!r}: ..., {keys.text!r}: ...}}, ...]"
        raise RecordError(f"no list of messages under {keys.messages!r}; expected {shape}")
    spoken = [message for message in messages if message.get(keys.role) != "system"]
    if not all(isinstance(message.get(keys.text), str) for message in spoken):
        raise RecordError(f"a message has no text under {keys.text!r}")
    roles = [_ROLES.get(str(message.get(keys.role))) for message in spoken]
    if not roles or roles != ["question", "answer"] * (len(roles) // 2):
        said = [message.get(keys.role) for message in spoken]
        raise RecordError(f"turns from {said}; expected a question and its answer by turns")
    texts = [message[keys.text] for message in spoken]
    image = one_picture(entry.get(keys.image))
    check_marks(texts[::2], image)
    return Chat(
        image=image,
        turns=[Turn(without_mark(question), answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)],
        id=read_id(entry.get("id")),
        extra={key: value for key, value in entry.items() if key not in (keys.image, keys.messages, "id")},
    )


def check_marks(questions: Sequence[str], image: str | None) -> None:
    """RecordError where the questions show a picture more often than there is one."""
    marks = sum(text.count(_PICTURE) for text in questions)
    if marks > (image is not None):
        raise RecordError(f"{_PICTURE} stands {marks} times, and the picture is {image!r}; a record is about one")


def without_mark(text: str) -> str:
    """The text without the mark that stands for the picture."""
    return "\n".join(part.strip() for part in text.split(_PICTURE) if part.strip()) if _PICTURE in text else text


def one_picture(value: object) -> str | None:
    """The path that an entry's `image` names, alone or in a list of one; None without. RecordError for the rest."""
    image = value[0] if isinstance(value, list) and len(value) == 1 else value
    if image is None or image == []:
        return None
    if not isinstance(image, str):
        raise RecordError(f"the image is {value!r}; expected one path (a record is about one picture)")
    return image


# ---- reading ---------------------------------------------------------------------------------------------------

ReadChat = Callable[[dict[str, Any]], Chat]


class Unplaced(NamedTuple):
    """Places that an answer names about a picture of that size, in numbers of which nobody has told what they count."""

    items: Sequence[Item]
    original: Frame
    file: Path
    line: int


def read_chats(
    source: str | Path, read_chat: ReadChat, frame: TextFrame | None, images: Path | None = None
) -> Iterator[Found | Rejected | Unplaced]:
    """One question a turn, in order, from a JSONL file or a JSON list of conversations (`line` is then the entry).

    Each turn stands by itself: what was said before it is not kept. Answers about a picture go through `read_targets`;
    those that name no place, and all without a picture, stay text: general instruction data. A turn or conversation
    that cannot be read is rejected. Without a `frame`, what is named in no other frame is handed over unplaced.
    Pictures lie below `images`, or else the file's folder. RecordError where there is no such file, or its list is no
    JSON.
    """
    file = Path(source)
    pictures = PictureFolder(images or file.parent)
    for line, entry in read_entries(file):
        try:
            chat = read_chat(as_object(entry))
            image = None if chat.image is None else pictures.find(chat.image)
            header = None if image is None else read_header(image)
        except GroundlingError as error:
            yield Rejected(str(file), line, str(error))
            continue
        blank = Found("", image, file, line, image_name=chat.image or "", id=chat.id, extra=keep_extra(chat.extra))
        yield from (_read_turn(turn, blank, header, frame) for turn in chat.turns)


def _read_turn(turn: Turn, blank: Found, header: Header | None, frame: TextFrame | None) -> Found | Rejected | Unplaced:
    try:
        if header is None:
            return replace(blank, question=turn.question, answer=_read_text(turn))
        if frame is None and turn.places is None and (items := _named_items(turn.answer)):
            return Unplaced(items, header.upright, blank.file, blank.line)
        targets = _find_targets(turn, header.upright, frame or in_itself)
    except GroundlingError as error:
        return Rejected(str(blank.file), blank.line, str(error))
    if targets is None:
        return replace(blank, question=turn.question, answer=turn.answer)
    doubt = turn_doubt(header) if targets else None
    extra = blank.extra if doubt is None else {**blank.extra, "doubt": doubt}
    return replace(blank, question=turn.question, targets=targets, extra=extra)


def _read_text(turn: Turn) -> str:
    """The answer of a turn without a picture; RecordError where there is none, or where it needs one."""
    if turn.places is not None or any(mark in turn.answer for mark in _MARKS):
        raise RecordError(f"the answer {turn.answer[:200]!r} names a place, and there is no picture")
    if not turn.answer.strip():
        raise RecordError("the answer is empty")
    return turn.answer


def _find_targets(turn: Turn, original: Frame, frame: TextFrame) -> tuple[Target, ...] | None:
    if turn.places is not None:
        return _place(turn.places, original)
    if not turn.answer.strip():
        raise RecordError("the answer is empty")
    return read_targets(turn.answer, original, frame)
