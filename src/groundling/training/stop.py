"""Being asked to stop: the step is finished and saved first.

SIGTERM is what schedulers and launchers send, SIGINT is Ctrl-C. A handler only notes it; the training looks after each
step, the evaluation after each few answers. A second Ctrl-C stops at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from groundling.errors import PreemptedError
from groundling.evaluation.pace import StopAsked

_ONE_PRESS = 2.0  # seconds in which a launcher may pass on the Ctrl-C that the terminal has sent already

log = logging.getLogger(__name__)


class StopRequest:
    """Whether this process has been asked to stop; `signal` is the number of the signal, 0 for none."""

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._promise = "it ends where nothing is lost"

    @contextmanager
    def promise(self, what: str) -> Iterator[None]:
        """What is said to follow from a signal that comes while the block runs."""
        before, self._promise = self._promise, what
        try:
            yield
        finally:
            self._promise = before

    @contextmanager
    def listen(self, *signals: signal.Signals) -> Iterator[None]:
        """Note these signals while the block runs; what handled them before does so again afterwards.

        Nothing is changed in another thread than the main one, nor for a signal that the process ignores (`nohup`).
        """
        is_main = threading.current_thread() is threading.main_thread()
        noted = [each for each in signals if is_main and signal.getsignal(each) != signal.SIG_IGN]
        before = {each: signal.signal(each, self._note) for each in noted}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.signal and now - self._since > _ONE_PRESS:
            raise KeyboardInterrupt
        if not self.signal:
            hint = "; once more stops at once" if number == signal.SIGINT else ""
            log.warning("%s: %s%s", signal.Signals(number).name, self._promise, hint)
            self._since = now
        self.signal = max(self.signal, number)

    def leave_if_asked(self, *_: Any) -> None:
        """StopAsked where the run is to stop; takes what a `progress` is told."""
        if self.signal:
            raise StopAsked(self.signal)

    def refuse_start(self, *_: Any) -> None:
        """PreemptedError where the run is to stop before it has begun; takes what a `progress` is told."""
        if self.signal:
            raise stopped(self.signal, "before its first step")


@contextmanager
def leaving_at_once(leave: Callable[[], int]) -> Iterator[None]:
    """While the block runs and nothing else listens, SIGTERM ends the process with the exit code that `leave` gives.

    It ends without unwinding: what is being imported may take an exception for its own. There is nothing to lose yet.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: os._exit(leave()))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stopped(number: int, state: str) -> PreemptedError | KeyboardInterrupt:
    """The error that ends a run which a signal has stopped; `state` says what there is to go on from."""
    message = f"stopped by {signal.Signals(number).name} {state}"
    return KeyboardInterrupt(message) if number == signal.SIGINT else PreemptedError(message)


def leave_stopping_to_parent(_: int = 0) -> None:
    """For a process that loads pictures: a signal to the whole group is its parent's affair.

    SIGTERM from the parent itself still ends it at once: that is how Python ends such processes when it exits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere nothing tells whom a signal comes from
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
