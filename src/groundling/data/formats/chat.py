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

from groundling.data.formats.found import Found, TextFrame, find_picture, keep_extra
from groundling.data.record import Rejected, Target, parse_json
from groundling.dialect.answer import FLAWS, Answer, Item, read_answer, write_answer
from groundling.dialect.family import FAMILIES, AnswerForm, Budget, Family
from groundling.errors import GroundlingError, RecordError, SettingsError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import THOUSANDTHS, Frame
from groundling.geometry.images import read_frame

_MIN_PIXELS = 56 * 56  # the family's own lower limit, in the vendor's process_bbox notebook and in transformers
_PIXELS = FAMILIES["qwen2_5_vl"]  # the family whose text counts pixels of a resized picture


class Turn(NamedTuple):
    """One question and its answer, as text."""

    question: str
    answer: str


@dataclass(frozen=True)
class Chat:
    """A conversation about one picture, or about none."""

    image: str | None
    turns: Sequence[Turn]
    id: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


# ---- the frame of a text ---------------------------------------------------------------------------------------


def declared_frame(words: str) -> TextFrame:
    """The frame named by `original`, `thousandths` or `resized:PIXELS` (the budget it was resized to).

    SettingsError for other words.
    """
    if words == "original":
        return lambda original: original
    if words == "thousandths":
        return lambda original: THOUSANDTHS
    name, _, pixels = words.partition(":")
    if name != "resized" or not pixels.isdecimal():
        raise SettingsError(
            f"the frame {words!r} is not known; expected original (pixels of the picture itself), thousandths (0 to "
            "1000) or resized:PIXELS (pixels of the picture once resized to so many, as in resized:1003520)"
        )
    return resized_to(int(pixels))


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
    if not _names_places(text, answer):
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


def _names_places(text: str, answer: Answer) -> bool:
    if len(answer.boxes) or _NOTHING.fullmatch(text) or any(mark in text for mark in _MARKS):
        return True
    return len(answer.points) > 0 and ("point" in text or text.lstrip().startswith("["))


def _numbers_in(target: Target, original: Frame, text_frame: Frame) -> tuple[float, ...]:
    if target.box is not None:
        return tuple(Boxes([target.box], original).to(text_frame).xyxy[0].tolist())
    return tuple(Points([target.numbers], original).to(text_frame).xy[0].tolist())


# ---- reading ---------------------------------------------------------------------------------------------------

ReadChat = Callable[[dict[str, Any]], Chat]


def read_chats(source: str, read_chat: ReadChat, frame: TextFrame) -> Iterator[Found | Rejected]:
    """One question a turn, in order, from a JSONL file or a JSON list of conversations (`line` is then the entry).

    Each turn stands by itself: what was said before it is not kept. Answers about a picture go through `read_targets`;
    those that name no place, and all without a picture, stay text: general instruction data. A turn or conversation
    that cannot be read is rejected. RecordError where there is no such file, or its list is no JSON.
    """
    file = Path(source)
    if not file.is_file():
        raise RecordError(f"no file {source}; expected a JSONL file or a JSON list of conversations")
    for line, entry in _read_entries(file):
        try:
            chat = read_chat(_as_object(entry))
            image = None if chat.image is None else find_picture(chat.image, file.parent)
            original = None if image is None else read_frame(image)
        except GroundlingError as error:
            yield Rejected(str(file), line, str(error))
            continue
        blank = Found("", image, file, line, image_name=chat.image or "", id=chat.id, extra=keep_extra(chat.extra))
        yield from (_read_turn(turn, blank, original, frame) for turn in chat.turns)


def one_picture(value: object) -> str | None:
    """The path that an entry's `image` names, alone or in a list of one; None without. RecordError for the rest."""
    image = value[0] if isinstance(value, list) and len(value) == 1 else value
    if image is None or image == []:
        return None
    if not isinstance(image, str):
        raise RecordError(f"the image is {value!r}; expected one path (a record is about one picture)")
    return image


def _read_entries(file: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of every entry: the bytes of a line, or what stands in a JSON list."""
    with file.open("rb") as lines:
        if lines.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from enumerate(_parse_list(file), start=1)
            return
        lines.seek(0)
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _as_object(entry: Any) -> dict[str, Any]:
    value = parse_json(entry) if isinstance(entry, bytes) else entry
    if not isinstance(value, dict):
        raise RecordError(f"a conversation is a JSON object, not {type(value).__name__}")
    return value


def _parse_list(file: Path) -> list[Any]:
    try:
        return parse_json(file.read_bytes())
    except RecordError as error:
        raise RecordError(f"{file} begins as a JSON list, but: {error}") from None


def _read_turn(turn: Turn, blank: Found, original: Frame | None, frame: TextFrame) -> Found | Rejected:
    try:
        if not turn.answer.strip():
            raise RecordError("the answer is empty")
        if original is None and any(mark in turn.answer for mark in _MARKS):
            raise RecordError(f"the answer {turn.answer[:200]!r} names a place, and there is no picture")
        targets = None if original is None else read_targets(turn.answer, original, frame)
    except GroundlingError as error:
        return Rejected(str(blank.file), blank.line, str(error))
    if targets is None:
        return replace(blank, question=turn.question, answer=turn.answer)
    return replace(blank, question=turn.question, targets=targets)
