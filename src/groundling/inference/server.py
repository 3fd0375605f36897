"""A model on a server: vLLM, SGLang, or whatever else answers OpenAI's chat completions. Nothing here loads torch.

A request holds one picture, as a data URL, before the words, as the families' own templates have it:

    {"model": "mine", "temperature": 0, "max_tokens": 512, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
        {"type": "text", "text": "Locate the mug ..."}]}]}

The key of a server that asks for one is read from the environment (KEY_VARIABLE) for each request, and stands in no
value, file or message. Redirections are not followed, for they would take it elsewhere.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from groundling.errors import ServerError, SettingsError

KEY_VARIABLE = "GROUNDLING_API_KEY"

SECONDS = 120.0  # for one reply
TRIES = 4
PAUSE = 1.0  # seconds before the second try, doubled before each further one
LONGEST_PAUSE = 30.0  # where a server asks for more, it is busy for longer than anyone waits

_AGAIN = (429, 500, 502, 503, 504)  # what may pass: too many requests, or a fault of the server
_MAX_BYTES = 16_000_000  # of one reply
_SHOWN = 300  # characters of what a server says is wrong

_CURES = {
    400: "it does not take this request; its own log says more",
    401: f"set {KEY_VARIABLE} to its key",
    403: f"set {KEY_VARIABLE} to a key that may ask this model",
    404: "is this its address, up to /v1, and is the model one that it serves?",
    413: "the picture is larger than it takes",
    429: "it has too much to do; ask again later",
}


class Turn(NamedTuple):
    """One question as a server gets it."""

    picture: bytes  # a file
    media_type: str  # of the file, as image/png
    text: str
    system: str | None = None


def is_address(name: str) -> bool:
    """Whether a name of a model is the address of a server."""
    return "://" in name


@dataclass(frozen=True)
class Server:
    """A model on a server. `address` is http or https and ends in /v1 or whatever comes before /chat/completions."""

    address: str
    model: str
    seconds: float = SECONDS
    tries: int = TRIES
    pause: float = PAUSE

    def answer(self, turn: Turn, *, max_tokens: int, extra: Mapping[str, Any] | None = None) -> str:
        """The model's words, "" where it says nothing. Decoding is greedy. ServerError where there is no reply.

        Thoughts that the server keeps apart are left out; where nothing else came they are given as a thought that
        never ended, for a reader to name.
        `extra` are further fields of the request, such as a guide.
        """
        body = {"model": self.model, "messages": _messages(turn), "temperature": 0, "max_tokens": max_tokens}
        reply = request_json(
            f"{self.address}/chat/completions",
            body | dict(extra or {}),
            seconds=self.seconds,
            tries=self.tries,
            pause=self.pause,
            place=self.address,
        )
        try:
            message = reply["choices"][0]["message"]
            words = _join_parts(message["content"])
        except (TypeError, LookupError):
            told = _told(reply)
            said = "" if told is None else f" ({_shown(told.encode(errors='replace'))})"
            raise ServerError(f"{self.address}: a reply without choices[0].message.content{said}; {_IS_IT}") from None
        thoughts = next((message[key] for key in _THOUGHTS if isinstance(message.get(key), str)), "")
        return words if words or not thoughts else f"<think>{thoughts}"


_THOUGHTS = ("reasoning", "reasoning_content")  # as vLLM has it since 0.11, and as it had; SGLang's (their code, 2026)


def _join_parts(content: Any) -> str:
    """The words of a message, told whole or in parts: [{"type": "text", "text": "..."}, ...]; "" where it has none."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def keep_box_tokens(form: str) -> dict[str, Any]:
    """The fields of a request without which a server cuts the boxes out of answers of that form."""
    return {"skip_special_tokens": False} if form == "tokens" else {}


_IS_IT = "is it a server of OpenAI's chat completions?"


def connect(
    address: str,
    model: str | None = None,
    *,
    seconds: float = SECONDS,
    tries: int = TRIES,
    pause: float = PAUSE,
) -> Server:
    """The server at an address, to be asked for `model`, or for the only one that it serves.

    /v1 is added to an address without a path. SettingsError for an address that is none, or several models.
    """
    address = check_address(address)
    if seconds <= 0 or tries < 1:
        raise SettingsError(f"seconds is {seconds} and tries {tries}; seconds are above 0, tries start at 1")
    if model is None:
        found = request_json(address + "/models", None, seconds=seconds, tries=tries, pause=pause, place=address)
        model = _only_model(found, address)
    return Server(address, model, seconds, tries, pause)


def check_address(address: str) -> str:
    """The address without a slash at its end, /v1 added where it has no path; SettingsError where it is none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{address!r} is no address of a server; expected one like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingsError(
            f"{parts.scheme}://{parts.hostname}...: an address has no name, key or question in it; "
            f"a key is read from {KEY_VARIABLE}"
        )
    whole = address.rstrip("/").removesuffix("/chat/completions")
    return whole if parts.path.strip("/") else whole + "/v1"


def _only_model(reply: Any, address: str) -> str:
    listed = reply.get("data") if isinstance(reply, dict) else None
    entries: list[Any] = listed if isinstance(listed, list) else []
    names = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise ServerError(f"{address}/models names no model; {_IS_IT} (or name its model: --model)")
    raise SettingsError(f"{address} serves {len(names)} models; name one by --model: {', '.join(names[:20])}")


def _messages(turn: Turn) -> list[dict[str, Any]]:
    url = f"data:{turn.media_type};base64,{base64.b64encode(turn.picture).decode('ascii')}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": turn.text}]
    system: list[dict[str, Any]] = [] if turn.system is None else [{"role": "system", "content": turn.system}]
    return [*system, {"role": "user", "content": content}]


# ---- HTTP ------------------------------------------------------------------------------------------------------


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *told: Any) -> None:  # type: ignore[override]
        return None


_OPENER = urllib.request.build_opener(_NoRedirection)


def request_json(
    url: str, body: Mapping[str, Any] | None, *, seconds: float, tries: int, pause: float, place: str
) -> Any:
    """What a server replies, read as JSON; posted where there is a body. `place` is what errors name.

    Tried again where the server has too much to do or is at fault. ServerError otherwise.
    """
    for number in range(1, tries + 1):
        try:
            with _OPENER.open(_as_request(url, body), timeout=seconds) as reply:
                return _parse(reply.read(_MAX_BYTES + 1), place)
        except urllib.error.HTTPError as error:
            if error.code not in _AGAIN or number == tries:
                raise _refused(error, place, number) from None
            time.sleep(min(_asked_pause(error, pause * 2 ** (number - 1)), LONGEST_PAUSE))
        except TimeoutError:
            raise _too_slow(place, seconds) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _too_slow(place, seconds) from None
            raise ServerError(
                f"{place} cannot be reached ({error.reason}); is the server up, and its address?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{place} broke off ({error or type(error).__name__}); its own log says more") from None
    raise AssertionError("the last try returns or raises")


def _as_request(url: str, body: Mapping[str, Any] | None) -> urllib.request.Request:
    headers = {"Accept": "application/json"}
    if key := _read_key():
        headers["Authorization"] = f"Bearer {key}"
    if body is None:
        return urllib.request.Request(url, headers=headers)
    headers["Content-Type"] = "application/json"
    return urllib.request.Request(url, json.dumps(body).encode(), headers)


def _read_key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):  # and http.client would tell it in its error
        raise SettingsError(f"{KEY_VARIABLE} holds letters that no key has (it is not shown); set it anew")
    return key


def _parse(content: bytes, place: str) -> Any:
    if len(content) > _MAX_BYTES:
        raise ServerError(f"{place}: a reply of more than {_MAX_BYTES} bytes; {_IS_IT}")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ServerError(f"{place}: a reply that is no JSON: {_shown(content)}; {_IS_IT}") from None


def _refused(error: urllib.error.HTTPError, place: str, tries: int) -> ServerError:
    try:
        content = error.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException):
        content = b""
    cure = _CURES.get(error.code, "its own log says more")
    if 300 <= error.code < 400:
        elsewhere = _shown(error.headers.get("Location", "").encode(errors="replace"))
        cure = f"it sends elsewhere, and is not followed; give that address if you trust it ({elsewhere})"
    tried = f" {tries} times" if tries > 1 else ""
    return ServerError(f"{place}: HTTP {error.code}{tried}: {_shown(_message(content))}; {cure}")


def _message(content: bytes) -> bytes:
    """What an error's body says, in any of the shapes that servers give it; the body where it has none of them."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content
    told = _told(found)
    return content if told is None else told.encode(errors="replace")


def _told(found: Any) -> str | None:
    """The words of an error, nested as vLLM has them or flat as SGLang; None where there are none."""
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else None


def _shown(content: bytes) -> str:
    """The first words of what a server says, on one line, without the key should it repeat it."""
    words = " ".join(content[: 4 * _SHOWN].decode("utf-8", errors="replace").split())
    if key := _read_key():
        words = words.replace(key, "...")
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    return printable[:_SHOWN] or "nothing"


def _asked_pause(error: urllib.error.HTTPError, pause: float) -> float:
    """The seconds of a Retry-After header; `pause` where there is none, or a date."""
    asked = error.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdecimal() else pause


def _too_slow(place: str, seconds: float) -> ServerError:
    return ServerError(f"{place}: no reply within {seconds:g} seconds; give it more, or see what it is busy with")
