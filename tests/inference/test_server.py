"""The client of chat completions: what it sends, what it makes of replies, and that a key goes nowhere else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from threading import Event

import pytest
from served import Asked, Reply, Said, as_completion, refuse, serve

from groundling.dialect.answer import read_answer
from groundling.errors import ServerError, SettingsError
from groundling.geometry.frame import Frame
from groundling.inference.server import KEY_VARIABLE, Server, Turn, check_address, connect, is_address

TURN = Turn(picture=b"\x89PNG...", media_type="image/png", text="Locate the mug.", system=None)
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def ask(address: str, **options: object) -> str:
    return Server(address, "mine", **{"pause": 0.0} | options).answer(TURN, max_tokens=64)  # type: ignore[arg-type]


def replies(*parts: str | Said | Reply):
    """Each in turn, the last for ever."""
    coming = list(parts)
    return lambda asked: coming.pop(0) if len(coming) > 1 else coming[0]


# ---- what is sent ----------------------------------------------------------------------------------------------


def test_one_picture_and_one_question_are_sent():
    with serve(lambda asked: "[]") as served:
        server = connect(served.address)
        found = server.answer(TURN._replace(system="Be brief."), max_tokens=64, extra={"regex": "a|b"})

    assert found == "[]"
    assert served.asked[0].body == {
        "model": "mine",
        "temperature": 0,
        "max_tokens": 64,
        "regex": "a|b",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORy4uLg=="}},
                    {"type": "text", "text": "Locate the mug."},
                ],
            },
        ],
    }
    assert served.asked[0].picture == TURN.picture
    assert "Authorization" not in served.asked[0].headers


def test_no_system_turn_where_there_is_none():
    with serve(lambda asked: "[]") as served:
        ask(served.address)
    assert [message["role"] for message in served.asked[0].body["messages"]] == ["user"]


def test_the_key_is_sent_and_in_no_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serve(lambda asked: "[]") as served:
        server = connect(served.address)
        server.answer(TURN, max_tokens=64)
    assert served.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(server)


# ---- addresses and models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://host/api/v1/chat/completions", "https://host/api/v1"),
    ],
)
def test_addresses(address: str, expected: str):
    assert check_address(address) == expected


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/v1", "http://", "http:///v1", "tiny"])
def test_what_is_no_address_of_a_server(address: str):
    with pytest.raises(SettingsError, match="is no address of a server; expected one like http"):
        check_address(address)


@pytest.mark.parametrize("address", [f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}"])
def test_an_address_with_a_key_in_it_is_refused_without_showing_it(address: str):
    with pytest.raises(SettingsError, match=f"a key is read from {KEY_VARIABLE}") as raised:
        check_address(address)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(("name", "expected"), [("tiny", False), ("owner/model", False), ("http://host", True)])
def test_what_is_an_address(name: str, expected: bool):
    assert is_address(name) == expected


def test_the_only_model_is_asked():
    with serve(lambda asked: "", models=("owner/one",)) as served:
        assert connect(served.address).model == "owner/one"


def test_one_of_several_models_has_to_be_named():
    with serve(lambda asked: "", models=("one", "two")) as served:
        with pytest.raises(SettingsError, match="serves 2 models; name one by --model: one, two"):
            connect(served.address)
        assert connect(served.address, "two").model == "two"


def test_a_server_without_models():
    with serve(lambda asked: "", models=()) as served, pytest.raises(ServerError, match="/models names no model"):
        connect(served.address)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"tries": 0}])
def test_limits(options: dict[str, int]):
    with pytest.raises(SettingsError, match="seconds are above 0, tries start at 1"):
        connect("http://localhost", "mine", **options)


# ---- replies that are none -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int):
    busy = Reply(status, b"busy", {"Retry-After": "0"})
    with serve(replies(busy, busy, "[]")) as served:
        assert ask(served.address, pause=1e9) == "[]", "the pause that the server asks for comes before ours"
    assert len(served.asked) == 3


def test_the_pause_grows_and_has_an_end(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr("groundling.inference.server.time.sleep", slept.append)
    with serve(replies(Reply(500, b""))) as served, pytest.raises(ServerError, match="HTTP 500 6 times: nothing;"):
        ask(served.address, pause=3.0, tries=6)
    assert slept == [3.0, 6.0, 12.0, 24.0, 30.0]


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, b'{"error": {"message": "prompt too long"}}', "HTTP 400: prompt too long; it does not take this request"),
        (400, b'{"object": "error", "message": "no such field"}', "no such field"),
        (401, b'{"detail": "who?"}', f"HTTP 401: who?; set {KEY_VARIABLE} to its key"),
        (404, b"<html>", "HTTP 404: <html>; is this its address, up to /v1"),
        (418, b"[" * 100_000, "HTTP 418"),
        (422, b"\xff\x00\x1b[31m", "HTTP 422"),
    ],
)
def test_what_is_refused_is_not_tried_again_and_told(status: int, content: bytes, told: str):
    with serve(replies(Reply(status, content))) as served, pytest.raises(ServerError) as raised:
        ask(served.address)
    message = str(raised.value)
    assert told in message and message.startswith(served.address) and len(message) < 600
    assert message.isprintable()
    assert len(served.asked) == 1


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1, 2", b"[" * 100_000])
def test_a_reply_that_is_no_json(content: bytes):
    told = r"a reply that is no JSON: .*; is it a server of OpenAI's"
    with serve(replies(Reply(200, content))) as served, pytest.raises(ServerError, match=told):
        ask(served.address)


@pytest.mark.parametrize("value", [[], {}, {"choices": []}, {"choices": [{"text": "a"}]}, None, {"choices": 1}])
def test_a_reply_without_an_answer(value: object):
    told = r"a reply without choices\[0\].message.content"
    with serve(replies(Reply(200, json.dumps(value).encode()))) as served, pytest.raises(ServerError, match=told):
        ask(served.address)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"choices": []}, "message.content; is it"),
        ({"error": {"message": "no such model", "code": 404}}, "message.content (no such model); is it"),
        ({"object": "error", "message": "out of memory", "code": 500}, "message.content (out of memory); is it"),
    ],
)
def test_an_error_that_says_that_all_is_well_is_told(body: object, told: str):
    with serve(replies(Reply(200, json.dumps(body).encode()))) as served, pytest.raises(ServerError) as raised:
        ask(served.address)
    assert told in str(raised.value)


# ---- as vLLM and SGLang reply ----------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("engine", ["vllm", "sglang"])


@BOTH
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Said("[]"), "[]"),
        (Said("[]", thoughts="Where is it? Perhaps [1, 2, 3, 4]."), "[]"),
        (Said([{"type": "text", "text": "[1, 2, "}, {"type": "text", "text": "3, 4]"}]), "[1, 2, 3, 4]"),
        (Said([{"type": "thinking", "thinking": "[9, 9, 9, 9]"}, {"type": "text", "text": "[]"}]), "[]"),
        (Said([]), ""),
        (Said(None), ""),
        (Said(None, thoughts="Where is", finish="length"), "<think>Where is"),
        (Said("", thoughts="Where is", finish="length"), "<think>Where is"),
    ],
)
def test_the_words_of_a_reply(engine: str, said: Said, expected: str):
    with serve(replies(said), engine=engine) as served:
        assert connect(served.address).answer(TURN, max_tokens=64) == expected


def test_a_thought_that_never_ends_is_a_flaw_and_no_box():
    with serve(replies(Said(None, thoughts='Is it {"bbox_2d": [1, 2, 3, 4]}?')), engine="vllm") as served:
        text = ask(served.address)
    answer = read_answer(text, family="qwen2_5_vl", seen=Frame(100, 100))
    assert answer.flaw == "truncated" and not len(answer.boxes)


@BOTH
@pytest.mark.parametrize(
    ("status", "words", "cure"),
    [
        (400, "The prompt is longer than the model takes.", "it does not take this request; its own log says more"),
        (500, "CUDA out of memory.", "its own log says more"),
    ],
)
def test_what_an_engine_refuses_is_told(engine: str, status: int, words: str, cure: str):
    with serve(replies(refuse(engine, status, words))) as served, pytest.raises(ServerError) as raised:
        ask(served.address, tries=1)
    assert str(raised.value) == f"{served.address}: HTTP {status}: {words}; {cure}"


@BOTH
def test_an_engine_that_has_too_much_to_do_is_waited_for(engine: str, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr("groundling.inference.server.time.sleep", slept.append)
    busy = refuse(engine, 429, "too many requests", {"Retry-After": "7"})
    with serve(replies(busy, "[]"), engine=engine) as served:
        assert ask(served.address) == "[]"
    assert slept == [7.0]


def test_a_model_that_an_engine_does_not_serve():
    told = "HTTP 404: The model `other` does not exist.; is this its address, up to /v1, and is the model one"
    with serve(replies("[]"), engine="vllm") as served, pytest.raises(ServerError, match=re.escape(told)):
        connect(served.address, "other").answer(TURN, max_tokens=64)


def test_a_model_that_says_nothing():
    with serve(replies(Reply(200, as_completion(None)))) as served:
        assert ask(served.address) == ""


def test_a_slow_server_is_not_waited_for():
    is_over = Event()

    def answer(asked: Asked) -> str:
        is_over.wait(10)
        return "[]"

    with serve(answer) as served:
        with pytest.raises(ServerError, match=r"no reply within 0.1 seconds; give it more"):
            ask(served.address, seconds=0.1)
        is_over.set()
    assert len(served.asked) == 1


def test_no_server():
    with serve(lambda asked: "") as served:
        pass
    with pytest.raises(ServerError, match=r"cannot be reached \(.*refused.*\); is the server up"):
        ask(served.address)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_are_not_followed(monkeypatch: pytest.MonkeyPatch, status: int):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serve(lambda asked: "[]") as elsewhere:
        away = Reply(status, b"", {"Location": f"{elsewhere.address}/chat/completions"})
        with serve(replies(away)) as served, pytest.raises(ServerError, match="is not followed; give that address"):
            ask(served.address)
    assert not elsewhere.asked


# ---- the key ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 500, 200])
def test_a_server_that_repeats_the_key_does_not_have_it_shown(monkeypatch: pytest.MonkeyPatch, status: int):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    said = Reply(status, f"bad key {KEY}!".encode())
    with serve(replies(said)) as served, pytest.raises(ServerError, match=r"bad key \.\.\.!") as raised:
        ask(served.address)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("key", ["sk\nsecret", "sk\u00e9secret"])
def test_a_key_with_odd_letters_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(SettingsError, match=f"{KEY_VARIABLE} holds letters that no key has") as raised:
        ask("http://localhost:1/v1")
    assert "secret" not in str(raised.value)


def test_nothing_heavy_is_loaded_for_it():
    code = "import sys, groundling.inference.server; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'torch'" not in loaded and "'numpy'" not in loaded
