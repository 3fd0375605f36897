"""The `conversations` format, LLaVA's, that Qwen's fine-tuning code reads: a JSON list or JSONL. One entry (made up):

    {"image": "images/1.jpg", "conversations": [{"from": "human", "value": "<image>\\nLocate the house."},
                                               {"from": "gpt", "value": "{\\"bbox_2d\\": [135, 114, 516, 372]}"}]}

The file does not say what its numbers count, so the user has to. Each turn becomes a question of its own. Source: the
README of qwen-vl-finetune in QwenLM/Qwen2.5-VL (2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groundling.data.formats.chat import Chat, Turn, one_picture, read_chats
from groundling.data.formats.found import Found, Reading, read_id
from groundling.data.record import Rejected
from groundling.errors import RecordError

_ROLES = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}
_MARK = "<image>"


def read_qwen_chat(source: str, reading: Reading) -> Iterator[Found | Rejected]:
    """One question a turn, boxes in original pixels; see `read_chats`."""
    assert reading.frame is not None, "the user declares what its numbers count"
    return read_chats(source, read_chat, reading.frame)


def read_chat(entry: dict[str, Any]) -> Chat:
    """The conversation of one entry, without the mark that stands for the picture; the inverse of `write_chat`.

    Words of the system are not kept. RecordError for films, several pictures, or turns out of order.
    """
    if "video" in entry or "videos" in entry:
        raise RecordError("the conversation is about a film; expected one picture under 'image'")
    messages = entry.get("conversations")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RecordError("no list of messages under 'conversations'; expected [{'from': 'human', 'value': ...}, ...]")
    spoken = [message for message in messages if message.get("from") != "system"]
    if not all(isinstance(message.get("value"), str) for message in spoken):
        raise RecordError("a message has no text under 'value'")
    roles = [_ROLES.get(str(message.get("from"))) for message in spoken]
    if not roles or roles != ["question", "answer"] * (len(roles) // 2):
        raise RecordError(f"turns from {[message.get('from') for message in spoken]}; expected human and gpt by turns")
    texts = [message["value"] for message in spoken]
    image = one_picture(entry.get("image"))
    marks = sum(text.count(_MARK) for text in texts[::2])
    if marks > (image is not None):
        raise RecordError(f"{_MARK} stands {marks} times and 'image' is {image!r}; a record is about one picture")
    return Chat(
        image=image,
        turns=[Turn(_without_mark(question), answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)],
        id=read_id(entry.get("id")),
        extra={key: value for key, value in entry.items() if key not in ("image", "conversations", "id")},
    )


def write_chat(chat: Chat) -> dict[str, Any]:
    """The object of one entry."""
    marks = [] if chat.image is None else [_MARK]
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(chat.turns):
        question = "\n".join([*marks, turn.question]) if number == 0 else turn.question
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": turn.answer}]
    named = {"id": chat.id} if chat.id else {}
    pictured = {} if chat.image is None else {"image": chat.image}
    return named | pictured | {"conversations": messages}


def _without_mark(text: str) -> str:
    return "\n".join(part.strip() for part in text.split(_MARK) if part.strip()) if _MARK in text else text
