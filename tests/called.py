"""What a command line ended with, as the fixture `call` gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Ended]
