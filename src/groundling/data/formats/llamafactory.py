"""LLaMA-Factory's sharegpt format, a JSON list or JSONL, and the same with OpenAI's names. One entry of each (made up):

    {"images": ["1.jpg"], "conversations": [{"from": "human", "value": "<image>Locate the house."},
                                            {"from": "gpt", "value": "{\\"bbox_2d\\": [135, 114, 516, 372]}"}]}
    {"images": ["1.jpg"], "messages": [{"role": "user", "content": "<image>Locate the house."},
                                       {"role": "assistant", "content": "{\\"bbox_2d\\": [135, 114, 516, 372]}"}]}

The file does not say what its numbers count, so the user has to, or it is proven. Source: data/README.md of
hiyouga/LLaMA-Factory (2024), in the names that it has by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groundling.data.formats.chat import Chat, Keys, Unplaced, read_chats, read_conversation
from groundling.data.formats.found import Found, Reading
from groundling.data.record import Rejected

_SHAREGPT = Keys(image="images", messages="conversations", role="from", text="value")
_OPENAI = Keys(image="images", messages="messages", role="role", text="content")


def read_llamafactory(source: str, reading: Reading) -> Iterator[Found | Rejected | Unplaced]:
    """One question a turn, boxes in original pixels; see `read_chats`."""
    return read_chats(source, read_chat, reading.frame, reading.images)


def read_chat(entry: dict[str, Any]) -> Chat:
    """The conversation of one entry."""
    return read_conversation(entry, _OPENAI if "messages" in entry else _SHAREGPT)
