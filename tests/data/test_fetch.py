"""Fetching from a stand-in for the hubs on this machine: the real clients, our own server, no network.

The clients read their address and offline switch when they are first imported: each fetch runs in its own process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

import groundling.data.fetch as fetch_module
from groundling.errors import GroundlingError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "qwen2_5_vl"}', "data/train-0.parquet": b"PAR1 and so on"}
ROOTS = {"models": "", "datasets": "datasets/"}


class Hub(BaseHTTPRequestHandler):
    """Holds `owner/thing` as a model and as a data set, as huggingface_hub 2 and modelscope 1.40 ask for them."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "owner/thing" not in url.path and "internalAccelerationInfo" not in url.path:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if url.path.startswith("/api/v1/"):
            return self.answer(200, FILES[query["FilePath"][0]] if "FilePath" in query else json_of(modelscope_files()))
        if "/resolve/" in url.path:
            content = FILES[unquote(url.path).split(f"/resolve/{COMMIT}/")[1]]
            return self.answer(
                200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            )
        if "/tree/" in url.path:
            entries = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40} for name in FILES]
            return self.answer(200, json_of(entries))
        siblings = [{"rfilename": name} for name in FILES]
        return self.answer(200, json_of({"id": "owner/thing", "sha": COMMIT, "siblings": siblings}))

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def json_of(value: object) -> bytes:
    return json.dumps(value).encode()


def modelscope_files() -> object:
    entries = [
        {"Path": name, "Name": Path(name).name, "Type": "blob", "Size": len(content), "Revision": COMMIT}
        for name, content in FILES.items()
    ]
    return {"Code": 200, "Success": True, "Data": {"Files": entries}}


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def run_fetch(code: str, address: str, tmp_path: Path) -> str:
    """What `code` prints after `from groundling...`, or the class and message of the error of ours that it raises."""
    source = Path(fetch_module.__file__).parents[2]
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MODELSCOPE_ENDPOINT": address,
        "MODELSCOPE_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    whole = (
        "from groundling.data.fetch import fetch\n"
        "from groundling.data.convert import convert\n"
        "from groundling.errors import GroundlingError\n"
        f"try:\n    print({code})\nexcept GroundlingError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def check_folder(folder: Path, expected: dict[str, str]) -> None:
    listed = json.loads((folder / "fetched.json").read_text())
    assert listed.pop("files") == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert listed == expected
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_a_model_comes_with_its_commit_and_the_hash_of_every_file(address: str, tmp_path: Path):
    assert run_fetch("fetch('owner/thing')", address, tmp_path) == "thing"
    check_folder(tmp_path / "thing", {"name": "owner/thing", "kind": "model", "origin": "hub", "revision": COMMIT})


def test_a_data_set_comes_to_the_folder_that_was_named(address: str, tmp_path: Path):
    code = f"fetch('owner/thing', 'here/set', kind='dataset', revision='{COMMIT}')"
    assert run_fetch(code, address, tmp_path) == "here/set"
    check_folder(tmp_path / "here/set", {"name": "owner/thing", "kind": "dataset", "origin": "hub", "revision": COMMIT})


def test_fetching_again_changes_nothing_and_something_else_is_refused(address: str, tmp_path: Path):
    run_fetch("fetch('owner/thing')", address, tmp_path)
    before = (tmp_path / "thing/fetched.json").read_bytes()
    run_fetch("fetch('owner/thing')", address, tmp_path)
    assert (tmp_path / "thing/fetched.json").read_bytes() == before

    (tmp_path / "thing/fetched.json").write_bytes(before.replace(b"owner/thing", b"owner/other"))
    words = run_fetch("fetch('owner/thing')", address, tmp_path)
    assert words.startswith(f"SettingsError thing holds owner/other at {COMMIT}, not owner/thing")


def test_an_unknown_name_is_told_from_a_hub_out_of_reach(address: str, tmp_path: Path):
    words = run_fetch("fetch('owner/absent')", address, tmp_path)
    assert words.startswith("SettingsError there is no model owner/absent to fetch: 404")
    assert "--kind" in words
    assert run_fetch("fetch('not a name')", address, tmp_path).startswith("SettingsError there is no model not a name")

    (tmp_path / "thing").mkdir()  # a folder that exists is no answer
    words = run_fetch("fetch('owner/thing')", "http://127.0.0.1:9", tmp_path)
    assert words.startswith("GroundlingError the model owner/thing was not fetched")
    assert "HF_ENDPOINT" in words


def test_a_data_sets_name_is_fetched_by_convert(address: str, tmp_path: Path):
    words = run_fetch("convert('textvqa', 'owner/thing', 'r.jsonl').rejected[0].reason", address, tmp_path)
    assert words.startswith("not a Parquet file that can be read")
    words = run_fetch("convert('textvqa', 'owner/absent', 'r.jsonl')", address, tmp_path)
    assert words.startswith("SettingsError there is no dataset owner/absent")


def test_other_kinds_and_origins_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="expected a model or a dataset, from hub or modelscope"):
        fetch_module.fetch("owner/thing", tmp_path, kind="space")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from hub or modelscope"):
        fetch_module.fetch("owner/thing", tmp_path, origin="web")  # type: ignore[arg-type]


has_modelscope = importlib.util.find_spec("modelscope") is not None


@pytest.mark.skipif(has_modelscope, reason="tells what happens without the optional package modelscope")
def test_without_modelscopes_client_the_install_line_is_given(tmp_path: Path):
    with pytest.raises(GroundlingError, match="pip install modelscope"):
        fetch_module.fetch("owner/thing", tmp_path, origin="modelscope")


@pytest.mark.skipif(not has_modelscope, reason="needs the optional package modelscope")
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_modelscope_is_fetched_with_the_revision_asked_for(address: str, tmp_path: Path, kind: str):
    code = f"fetch('owner/thing', kind='{kind}', origin='modelscope')"
    assert run_fetch(code, address, tmp_path) == "thing"
    expected = {"name": "owner/thing", "kind": kind, "origin": "modelscope", "revision": "master"}
    check_folder(tmp_path / "thing", expected)
    words = run_fetch(f"fetch('owner/absent', kind='{kind}', origin='modelscope')", address, tmp_path)
    assert words.startswith(f"SettingsError there is no {kind} owner/absent")
