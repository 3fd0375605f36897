"""What Markdown is made of, for cards and comments: tables, and words of strangers that act as nothing but words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath, PurePosixPath, PureWindowsPath

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ACTIVE = re.compile(r"[\\`*_\[\]|~$]|(?<!\w)[#@]|:(?=//)")  # emphasis, code, links, tables, formulas, mentions
_MOST = 160  # characters of one question or label


def flatten(text: str) -> str:
    """The text on one line, nothing but what can be read: no sign of it acts on a terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def escape(text: str, most: int = _MOST) -> str:
    """The text on one line, as it reads: nothing in it is formatting, a link or HTML; cut after `most` characters.

    (What GitHub makes a link of by itself, such as a bare www address, it still does.)
    """
    flat = flatten(text)
    cut = flat if len(flat) <= most else f"{flat[: most - 3]}..."
    words = "".join(_ENTITIES.get(sign, sign) for sign in cut)
    return _ACTIVE.sub(lambda found: f"\\{found[0]}", words)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is of words, the others of numbers; every cell is Markdown already."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def public_name(name: str) -> str:
    """A model's name as others may see it: the last part of a path that may tell a user's name."""
    leads_away = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or name[:1] in ("~", ".")
    return PurePath(name.replace("\\", "/")).name if leads_away else name
