"""Trackers: where curves go beside metrics.jsonl. Each is an extra, and may fail.

One that is not installed stops a run before it begins. One that fails while it runs is dropped with a warning: no
training is lost to its bookkeeping. SwanLab and TensorBoard write below the run folder; W&B and trackio where their own
environment variables say.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from groundling.errors import SettingsError
from groundling.settings import Settings, Tracker

log = logging.getLogger(__name__)


def refuse_missing_trackers(settings: Settings) -> None:
    """SettingsError with the install line for a tracker that is not installed."""
    for name in settings.track:
        if find_spec(name) is None:
            raise SettingsError(f'track: {name} is not installed; pip install "groundling[{name}]"')


def build_trackers(settings: Settings) -> Trackers:
    """The recipe's trackers, ready to be added to a Trainer's callbacks on its main process.

    One that cannot be built, be it that it cannot be imported, is dropped with a warning.
    """
    built: dict[str, TrainerCallback] = {}
    for name in settings.track:
        try:
            with _keeping_handlers():
                built[name] = _TRACKERS[name](settings.run.dir)
        except (Exception, SystemExit) as error:
            _tell_dropped(name, error)
    return Trackers(built)


def _tell_dropped(name: str, error: BaseException) -> None:
    log.warning("%s is dropped, the training goes on: %s: %s", name, type(error).__name__, error)


@contextmanager
def _keeping_handlers() -> Iterator[None]:
    """What answers signals and uncaught errors is afterwards what it was before the block.

    SwanLab 0.10 would take Ctrl-C over and end its run in the handler: the training hangs where that run is at work.
    """
    hook, handlers = sys.excepthook, {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        sys.excepthook = hook
        if threading.current_thread() is threading.main_thread():  # no other may change them
            for each, handler in handlers.items():
                if handler is not None:  # not set by Python
                    signal.signal(each, handler)


class Trackers(TrainerCallback):
    """Passes every event of a training on to the trackers; one that raises hears no more of it."""

    def __init__(self, trackers: Mapping[str, TrainerCallback]) -> None:
        self.trackers = dict(trackers)
        for event in (name for name in dir(TrainerCallback) if name.startswith("on_")):
            setattr(self, event, self._passing_on(event))

    def _passing_on(self, event: str) -> Callable[..., None]:
        def pass_on(*args: Any, **kwargs: Any) -> None:
            for name, tracker in list(self.trackers.items()):
                try:
                    with _keeping_handlers():
                        getattr(tracker, event)(*args, **kwargs)
                except (Exception, SystemExit) as error:  # whatever another project's code may raise
                    _tell_dropped(name, error)
                    del self.trackers[name]

        return pass_on


# ---- one function a tracker ------------------------------------------------------------------------------------


def _swanlab(run: Path) -> TrainerCallback:
    """SwanLab's own callback: the one in transformers 5.23 fails with SwanLab 0.10 ("No active Run")."""
    import swanlab
    from swanlab.integration.transformers import SwanLabCallback

    class FinishedInTime(SwanLabCallback):
        """Ends SwanLab's run with the training; else the next training of this process would be added to it."""

        def on_train_end(self, *_: Any, **__: Any) -> None:
            swanlab.finish()

    # its own notes hold the machine's name, the command line and the repository's address, perhaps with a password
    swanlab.merge_settings({"probe": {"runtime": False, "git": False}})
    mode = os.environ.get("SWANLAB_MODE", "offline")  # needs no account; `swanlab sync` sends it later
    return FinishedInTime(project="groundling", experiment_name=run.name, mode=mode, log_dir=str(run / "swanlab"))


def _tensorboard(run: Path) -> TrainerCallback:
    from transformers.integrations.integration_utils import TensorBoardCallback

    tracker = TensorBoardCallback()
    tracker.logging_dir = str(run / "tensorboard")  # its own setting is an environment variable, one for all runs
    return tracker


def _wandb(_: Path) -> TrainerCallback:
    from transformers.integrations.integration_utils import WandbCallback

    return WandbCallback()


def _trackio(_: Path) -> TrainerCallback:
    from transformers.integrations.integration_utils import TrackioCallback

    return TrackioCallback()


_TRACKERS: dict[Tracker, Callable[[Path], TrainerCallback]] = {
    "swanlab": _swanlab,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
