"""A server of chat completions on the loopback, for tests: what it is asked is kept, what it replies is given."""

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


@dataclass
class Served:
    """A server that runs, and what it was asked."""

    address: str
    asked: list[Asked] = field(default_factory=list)


def as_completion(words: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": words}}]}).encode()


@contextmanager
def serve(answer: Callable[[Asked], str | Reply], *, models: tuple[str, ...] = ("mine",)) -> Iterator[Served]:
    """A server that answers so until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = {"data": [{"id": name, "object": "model"} for name in models]}
            self._send(Reply(200, json.dumps(listed).encode()) if self.path == "/v1/models" else Reply(404, b"{}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self._send(Reply(404, b'{"detail": "Not Found"}'))
            asked = Asked(body, dict(self.headers))
            served.asked.append(asked)
            found = answer(asked)
            self._send(Reply(200, as_completion(found)) if isinstance(found, str) else found)

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
