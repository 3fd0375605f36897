"""No token, key or password gets into a run folder by its recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from groundling.errors import SettingsError
from groundling.settings import Settings

# A name that tells of a secret by itself, and one that may: SECRET_KEY and OPENAI_KEY, not KEYBOARD or MONKEY
_TELLING_NAME = re.compile(
    r"(^|_)(token|secret|password|passwd|api_?key|access_?key(_id)?)$|(^|_)secret_|password$", re.IGNORECASE
)
_HINTING_NAME = re.compile(
    r"(^|_)(key|pass|passphrase|pat|pin|bot|credentials?|connection_string)$|_pwd$", re.IGNORECASE
)
_OPEN_NAME = re.compile(r"(^|_)(cache|sort|public|primary|partition|host)_key$", re.IGNORECASE)

_TELLING_TEXT = re.compile(
    r"(?<![A-Za-z0-9])("
    r"hf_[A-Za-z0-9]{20,}"  # the hub
    r"|sk-(?=[\w-]*\w{16})[\w-]{20,}"  # OpenAI and its kin
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|A[KS]IA[0-9A-Z]{16}(?![0-9A-Za-z])"  # AWS
    r"|xox[abeoprs]-[\w-]{10,}"  # Slack
    r")|://[^/\s:@]+:[^/\s@]+@",  # a password in an address
    re.ASCII,
)
_DRAWN_BY_LOT = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20,}|[0-9a-f-]{32,}")
_WORD = re.compile(r"[A-Za-z_.-]{1,15}")
_SHORTEST = 8  # characters of a variable's value that is looked for


class _Text(NamedTuple):
    """A text in the settings: where it stands, and the name that tells what it is ("" for a mapping's key)."""

    place: str
    name: str
    text: str


def refuse_secrets(settings: Settings) -> None:
    """SettingsError for a setting that holds a secret, by its name, its form, or as it stands in the environment.

    The value itself is not told.
    """
    hidden = _hidden_values(os.environ)
    for place, name, text in _texts(settings.model_dump(mode="json")):
        variable = next((variable for secret, variable in hidden.items() if secret in text), None)
        if variable or _is_secret(name, text):
            what = f"the value of {variable}" if variable else "a secret"
            raise SettingsError(
                f"{place} holds {what}, and a recipe is kept in its run folder; leave it out, and set it in the "
                "environment (HF_TOKEN, WANDB_API_KEY, ...)"
            )


def _hidden_values(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that hold a secret, by their value; a path that is there or a plain word is none."""
    return {
        value: name
        for name, value in environment.items()
        if len(value) >= _SHORTEST and _hides(name, value) and not _is_path(value)
    }


def _hides(name: str, value: str) -> bool:
    may_hide = _HINTING_NAME.search(name) and not _OPEN_NAME.search(name)
    return bool(_TELLING_NAME.search(name) or (may_hide and not _WORD.fullmatch(value)))


def _is_path(value: str) -> bool:
    """Keys in base64 begin with a slash too, one in 64."""
    return value.startswith("/") and os.path.exists(value)


def _is_secret(name: str, text: str) -> bool:
    is_drawn = _HINTING_NAME.search(name) and _DRAWN_BY_LOT.fullmatch(text)
    return bool(_TELLING_NAME.search(name) or is_drawn or _TELLING_TEXT.search(text))


def _texts(value: Any, place: str = "", name: str = "") -> Iterator[_Text]:
    """Every text in the settings; a mapping's keys stand in the mapping, and come before what is below them."""
    if isinstance(value, str):
        yield _Text(place, name, value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield _Text(place or "the recipe", "", str(key))
            yield from _texts(inner, f"{place}.{key}" if place else str(key), str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{place}.{number}", name)
