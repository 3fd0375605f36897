"""No token, key or password gets into a run folder by its recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from groundling.errors import SettingsError
from groundling.settings import Settings

_TELLING_NAME = re.compile(r"(^|_)(token|secret|password|passwd|api_?key|access_?key)$", re.IGNORECASE)
_TELLING_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|://[^/\s:@]+:[^/\s@]+@"
)  # the hub's tokens; a password in an address
_SHORTEST = 8  # characters of a variable's value that is looked for


def refuse_secrets(settings: Settings) -> None:
    """SettingsError for a setting that holds a secret, by its name, its form, or as it stands in the environment.

    The value itself is not told.
    """
    hidden = {
        value: name
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _TELLING_NAME.search(name) and not value.startswith("/")
    }
    for key, value in _texts(settings.model_dump(mode="json")):
        variable = next((name for secret, name in hidden.items() if secret in value), None)
        is_told = _TELLING_NAME.search(key.rpartition(".")[2]) or _TELLING_TEXT.search(value)
        if variable or is_told:
            what = f"the value of {variable}" if variable else "a secret"
            raise SettingsError(
                f"{key} holds {what}, and a recipe is kept in its run folder; leave it out, and set it in the "
                "environment (HF_TOKEN, WANDB_API_KEY, ...)"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the settings by its dotted name."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{number}")
