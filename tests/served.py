"""A server of chat completions on the loopback, for tests: what it is asked is kept, what it replies is given.

It replies as vLLM or SGLang do where it is told so: field by field as in their own code of 2026
(vllm/entrypoints/openai/chat_completion/protocol.py and serve/engine/protocol.py, models/serving.py;
sglang/srt/entrypoints/openai/protocol.py).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """A request for a chat completion."""

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def picture(self) -> bytes:
        """The file of its one picture."""
        url = self.body["messages"][-1]["content"][0]["image_url"]["url"]
        return base64.b64decode(url.partition("base64,")[2])

    @property
    def text(self) -> str:
        """Its words."""
        return self.body["messages"][-1]["content"][1]["text"]


class Reply(NamedTuple):
    """What is replied in place of words."""

    status: int
    content: bytes
    headers: dict[str, str] = {}  # noqa: RUF012


class Said(NamedTuple):
    """Words, in whatever shape, and the thoughts that were kept apart from them."""

    words: object
    thoughts: str | None = None
    finish: str = "stop"


class Engine(NamedTuple):
    """How a server writes what it replies."""

    completion: Callable[[Said], dict[str, Any]]
    error: Callable[[int, str], dict[str, Any]]
    card: Callable[[str], dict[str, Any]]  # of a model
    checks_model: bool  # whether it refuses a model that it does not serve


_USAGE = {"prompt_tokens": 330, "total_tokens": 354, "completion_tokens": 24, "prompt_tokens_details": None}
_WHOLE = {"object": "chat.completion", "created": 1_790_000_000, "model": "mine"}


def _as_vllm(said: Said) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.words, "refusal": None, "annotations": None, "audio": None}
    message |= {"function_call": None, "reasoning": said.thoughts}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish, "stop_reason": None}
    more = {"service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "kv_transfer_params": None}
    return {"id": "chatcmpl-8f0c", **_WHOLE, "choices": [choice | {"token_ids": None}], "usage": _USAGE, **more}


def _as_sglang(said: Said) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.words, "reasoning_content": said.thoughts, "tool_calls": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish, "matched_stop": 151_645}
    return {"id": "8f0c", **_WHOLE, "choices": [choice], "usage": _USAGE | {"reasoning_tokens": 0}}


_KINDS = {400: "BadRequestError", 404: "NotFoundError"}

ENGINES: dict[str, Engine] = {
    "plain": Engine(
        lambda said: {"choices": [{"message": {"role": "assistant", "content": said.words}}]},
        lambda status, words: {"detail": words},
        lambda name: {"id": name, "object": "model"},
        checks_model=False,
    ),
    "vllm": Engine(
        _as_vllm,
        lambda status, words: {
            "error": {
                "message": words,
                "type": _KINDS.get(status, "InternalServerError"),
                "param": None,
                "code": status,
            }
        },
        lambda name: {"id": name, "object": "model", "owned_by": "vllm", "root": name, "max_model_len": 8192},
        checks_model=True,
    ),
    "sglang": Engine(
        _as_sglang,
        lambda status, words: {
            "object": "error",
            "message": words,
            "type": _KINDS.get(status, "InternalServerError"),
            "param": None,
            "code": status,
        },
        lambda name: {"id": name, "object": "model", "owned_by": "sglang", "root": name, "max_model_len": 8192},
        checks_model=False,
    ),
}


def refuse(engine: str, status: int, words: str, headers: dict[str, str] | None = None) -> Reply:
    """An error as an engine writes it."""
    return Reply(status, json.dumps(ENGINES[engine].error(status, words)).encode(), headers or {})


@dataclass
class Served:
    """A server that runs, and what it was asked."""

    address: str
    asked: list[Asked] = field(default_factory=list)


def as_completion(words: object, engine: str = "plain") -> bytes:
    said = words if isinstance(words, Said) else Said(words)
    return json.dumps(ENGINES[engine].completion(said)).encode()


@contextmanager
def serve(
    answer: Callable[[Asked], str | Said | Reply], *, models: tuple[str, ...] = ("mine",), engine: str = "plain"
) -> Iterator[Served]:
    """A server that answers so until the block ends."""
    writes = ENGINES[engine]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = {"object": "list", "data": [writes.card(name) for name in models]}
            self._send(Reply(200, json.dumps(listed).encode()) if self.path == "/v1/models" else Reply(404, b"{}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self._send(Reply(404, b'{"detail": "Not Found"}'))
            asked = Asked(body, dict(self.headers))
            served.asked.append(asked)
            if writes.checks_model and body["model"] not in models:
                return self._send(refuse(engine, 404, f"The model `{body['model']}` does not exist."))
            found = answer(asked)
            self._send(found if isinstance(found, Reply) else Reply(200, as_completion(found, engine)))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked waits no longer
                self.wfile.write(reply.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served = Served(f"http://127.0.0.1:{server.server_address[1]}/v1")
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield served
        finally:
            server.shutdown()
