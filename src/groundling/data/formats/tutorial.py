"""The JSONL of the TextVQA grounding tutorial for Qwen2.5-VL: one picture, one question, one box a line (made up):

    {"image": ["./data/train/000001.jpg"], "query": "whose card?", "response": "{\\"bbox_2d\\": [712, 255, 776, 298]}"}

Its boxes count pixels of the picture resized within 1003520, while the file beside it is the picture itself; the path
is as seen from one folder up. Source: convert2sft_format.py of 828Tina/textvqa_grounding_task_qwen2.5-vl-ft (2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groundling.data.formats.chat import Chat, Turn, Unplaced, one_picture, read_chats, resized_to
from groundling.data.formats.found import Found, Reading, read_id
from groundling.data.record import Rejected
from groundling.errors import RecordError

FRAME = resized_to(1_003_520)

_KEYS = ("image", "query", "response")


def read_tutorial(source: str, reading: Reading) -> Iterator[Found | Rejected | Unplaced]:
    """The questions of such a file, boxes in original pixels; see `read_chats`."""
    return read_chats(source, read_chat, FRAME, reading.images)


def read_chat(entry: dict[str, Any]) -> Chat:
    """The conversation of one line; the inverse of `write_chat`."""
    query, response = entry.get("query"), entry.get("response")
    if not isinstance(query, str) or not isinstance(response, str):
        raise RecordError(f"found the keys {', '.join(entry)}; expected image, and query and response as texts")
    return Chat(
        image=one_picture(entry.get("image")),
        turns=[Turn(query, response)],
        id=read_id(entry.get("id")),
        extra={key: value for key, value in entry.items() if key not in (*_KEYS, "id")},
    )


def write_chat(chat: Chat) -> dict[str, Any]:
    """The object of one line: its three keys and no others, which is what the tutorial's own code can load."""
    (turn,) = chat.turns
    return {"image": [chat.image], "query": turn.question, "response": turn.answer}
