"""The `conversations` format, LLaVA's, that Qwen's fine-tuning code reads: a JSON list or JSONL. One entry (made up):

    {"image": "images/1.jpg", "conversations": [{"from": "human", "value": "<image>\\nLocate the house."},
                                               {"from": "gpt", "value": "{\\"bbox_2d\\": [135, 114, 516, 372]}"}]}

The file does not say what its numbers count, so the user has to, or it is proven. Each turn becomes a question of its
own. Source: the README of qwen-vl-finetune in QwenLM/Qwen2.5-VL (2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groundling.data.formats.chat import Chat, Keys, Unplaced, read_chats, read_conversation
from groundling.data.formats.found import Found, Reading
from groundling.data.record import Rejected

KEYS = Keys(image="image", messages="conversations", role="from", text="value")


def read_qwen_chat(source: str, reading: Reading) -> Iterator[Found | Rejected | Unplaced]:
    """One question a turn, boxes in original pixels; see `read_chats`."""
    return read_chats(source, read_chat, reading.frame, reading.images)


def read_chat(entry: dict[str, Any]) -> Chat:
    """The conversation of one entry; the inverse of `write_chat`."""
    return read_conversation(entry, KEYS)


def write_chat(chat: Chat) -> dict[str, Any]:
    """The object of one entry."""
    marks = [] if chat.image is None else ["<image>"]
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(chat.turns):
        question = "\n".join([*marks, turn.question]) if number == 0 else turn.question
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": turn.answer}]
    named = {"id": chat.id} if chat.id else {}
    pictured = {} if chat.image is None else {"image": chat.image}
    return named | pictured | {"conversations": messages}
