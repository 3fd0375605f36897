"""Trackers: files below the run folder, an install line where one is missing, no training lost, no secret told."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from drawn import Recipe, at_step, read_metrics
from transformers import TrainerCallback

import groundling as gl
from groundling.recipe import load_settings
from groundling.training import trackers as trackers_module
from groundling.training.trackers import Trackers, build_trackers

SECRETS = {
    "HF_TOKEN": "hf_thisisnotarealtoken0123456789abcd",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "SWANLAB_API_KEY": "swanlabsecret0123456",
}


def has(package: str) -> bool:
    return find_spec(package) is not None


def holders(folder: Path, secret: str) -> list[str]:
    """The files below a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if secret.encode() in path.read_bytes()]


def test_no_file_of_a_run_holds_a_secret_or_a_pickled_argument(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    installed = [name for name in ("tensorboard", "swanlab") if has(name)]
    run = gl.train(recipe(track=installed, run={"save_every": 2}))
    assert not list(run.rglob("training_args.bin"))
    assert {name: holders(run, secret) for name, secret in SECRETS.items()} == {name: [] for name in SECRETS}
    names = {"machine": socket.gethostname(), "home": str(Path.home()), "program": sys.argv[0]}
    swanlab = {what: holders(run / "swanlab", name) for what, name in names.items()}
    assert swanlab == {what: [] for what in names}, "nor where it ran, and by which command"
    assert holders(run, "learning_rate"), "the search finds what is there"


def test_a_recipe_is_no_place_for_secrets(recipe: Recipe) -> None:
    with pytest.raises(gl.SettingsError, match=r"hub_token cannot be set: .* set HF_TOKEN in the environment"):
        gl.train(recipe(trainer={"hub_token": SECRETS["HF_TOKEN"]}))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"trainer": {"project": SECRETS["HF_TOKEN"]}}, "trainer.project holds the value of HF_TOKEN"),
        ({"trainer": {"deepspeed": {"comet": {"api_key": "x"}}}}, "trainer.deepspeed.comet.api_key holds a secret"),
        ({"model": {"name": "https://me:word@hub/model"}}, "model.name holds a secret"),
        ({"model": {"name": f"hf_{'a1B2' * 8}"}}, "model.name holds a secret"),
    ],
)
def test_secrets_in_a_recipe_are_refused_and_not_told(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sections: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    with pytest.raises(gl.SettingsError, match=told) as refused:
        gl.train(recipe(**sections))
    assert SECRETS["HF_TOKEN"] not in str(refused.value) and "word@" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not has("tensorboard"), reason="needs the extra `tensorboard`")
def test_tensorboard_writes_below_the_run_folder(recipe: Recipe) -> None:
    run = gl.train(recipe(track=["tensorboard"]))
    assert [path for path in (run / "tensorboard").iterdir() if "tfevents" in path.name]
    assert not [path for path in (run / "checkpoints").iterdir() if not path.name.isdecimal()]


@pytest.mark.skipif(not has("swanlab"), reason="needs the extra `swanlab`")
def test_swanlab_writes_below_the_run_folder_without_an_account(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    first, second = gl.train(recipe("first", track=["swanlab"])), gl.train(recipe("second", track=["swanlab"]))
    for run in (first, second):
        assert [path for path in (run / "swanlab").rglob("*") if path.is_file()]
    assert not (tmp_path / "swanlog").exists()
    assert "is dropped" not in caplog.text


def test_a_missing_tracker_is_told_before_anything_is_done(recipe: Recipe, tmp_path: Path) -> None:
    missing = next((name for name in ("trackio", "wandb", "swanlab", "tensorboard") if not has(name)), None)
    if missing is None:
        pytest.skip("every tracker is installed")
    with pytest.raises(gl.SettingsError, match=rf'{missing} is not installed; pip install "groundling\[{missing}\]"'):
        gl.train(recipe(track=[missing]))
    assert not (tmp_path / "run").exists()


class Failing(TrainerCallback):
    """A tracker that hears two events and raises at the second."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("begin")

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("log")
        raise RuntimeError("No active Run")


class Listening(Failing):
    """A tracker that hears everything."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("log")


def test_a_failing_tracker_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    failing, listening = Failing(), Listening()
    trackers = Trackers({"bad": failing, "good": listening})
    trackers.on_train_begin(None, None, None)  # type: ignore[arg-type]
    for _ in range(3):
        trackers.on_log(None, None, None, logs={})  # type: ignore[arg-type]
    assert failing.heard == ["begin", "log"] and listening.heard == ["begin", "log", "log", "log"]
    assert caplog.messages == ["bad is dropped, the training goes on: RuntimeError: No active Run"]


class Grasping(TrainerCallback):
    """A tracker that takes signals and uncaught errors for its own, built and at work."""

    def __init__(self, *_: Any) -> None:
        self.grasp()

    def grasp(self) -> None:
        sys.excepthook = lambda *_: None
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: None)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.grasp()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.grasp()
        raise RuntimeError("No active Run")


def heard_by() -> tuple[Any, ...]:
    return sys.excepthook, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.fixture
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, ...]]:
    """What answers uncaught errors, Ctrl-C and SIGTERM; as it was behind the test."""
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    yield heard_by()
    for each, handler in before.items():
        signal.signal(each, handler)


def test_who_answers_a_signal_is_not_for_a_tracker_to_say(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, own_handlers: tuple[Any, ...]
) -> None:
    monkeypatch.setitem(trackers_module._TRACKERS, "trackio", Grasping)
    trackers = build_trackers(load_settings(recipe(track=["trackio"])))
    assert heard_by() == own_handlers, "while it is built"
    for event in ("on_train_begin", "on_log"):
        getattr(trackers, event)(None, None, None)
        assert heard_by() == own_handlers, event
    assert not trackers.trackers, "dropped, and its handlers with it"


@pytest.mark.skipif(not has("swanlab"), reason="needs the extra `swanlab`")
def test_ctrl_c_is_heard_by_the_training_and_not_by_swanlab(recipe: Recipe, own_handlers: tuple[Any, ...]) -> None:
    heard: list[tuple[Any, ...]] = []
    with at_step(2, lambda: heard.append(heard_by()[1:])):
        gl.train(recipe(track=["swanlab"], train={"max_steps": 2}))
    assert [[each.__qualname__ for each in pair] for pair in heard] == [["StopRequest._note"] * 2]


@pytest.mark.parametrize("line", ["raise ImportError('no such symbol')", "raise SystemExit(3)", "0 / 0"])
def test_a_tracker_that_cannot_be_imported_is_dropped(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    if has("trackio"):
        pytest.skip("trackio is installed")
    (tmp_path / "site" / "trackio").mkdir(parents=True)
    (tmp_path / "site" / "trackio" / "__init__.py").write_text(line, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    run = gl.train(recipe(track=["trackio"], train={"max_steps": 1}))
    assert (run / "final").is_dir()
    assert sum("trackio is dropped, the training goes on" in message for message in caplog.messages) == 1


@pytest.mark.skipif(not has("swanlab"), reason="needs the extra `swanlab`")
def test_no_training_is_lost_to_a_tracker(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SWANLAB_MODE", "no such mode")
    run = gl.train(recipe(track=["swanlab"]))
    assert read_metrics(run)[-1]["step"] == 4 and (run / "final").is_dir()
    assert sum("swanlab is dropped" in message for message in caplog.messages) == 1
