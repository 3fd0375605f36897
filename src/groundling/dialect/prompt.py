"""The words around a question, and text whose control tokens are told from a user's words."""

from __future__ import annotations

from typing import NamedTuple

from groundling.errors import SettingsError


class Piece(NamedTuple):
    """A stretch of a prompt or an answer. Only in `is_control` text may `<|im_end|>` and its kin act as tokens."""

    text: str
    is_control: bool


def write_prompt(template: str, question: str) -> str:
    """The user's turn: the template with the question in place of `{question}`, nothing else interpreted."""
    return check_template(template).replace("{question}", question)


def check_template(template: str) -> str:
    """The template itself; SettingsError where it has no place for the question."""
    if "{question}" not in template:
        raise SettingsError(f"the prompt template {template!r} has no {{question}} in it")
    return template
