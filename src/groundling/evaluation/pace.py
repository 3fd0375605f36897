"""How long what is under way will take, for a bar on a terminal and for lines in the log of a job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

Progress = Callable[[int, int], None]  # done so far, of how many; first called with what was there before the start

_EVERY = 10.0  # seconds between two lines


class StopAsked(Exception):
    """A progress raises it to leave what can be done again, because of a signal of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Moment(NamedTuple):
    seconds: float
    done: int


class Pace:
    """Reckons from what was done since the first call, so answers kept from before do not count as fast ones.

    Answers come many at once, after a while without any. So at each call the time is shared out over what was done up
    to the call before: the newest answer alone would have to answer for a whole batch.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: _Moment | None = None
        self._latest: _Moment | None = None

    def left(self, done: int, total: int) -> float | None:
        """Seconds until all is done, 0 or more; None while nobody can know."""
        now, first, latest = self._clock(), self._first, self._latest
        self._latest = _Moment(now, done)
        if first is None or latest is None:
            self._first = self._latest
            return None
        if latest.done <= first.done:
            return None
        each = (latest.seconds - first.seconds) / (latest.done - first.done)
        return max(0.0, each * (total - latest.done) - (now - latest.seconds))


def tell_progress(
    log: logging.Logger, what: str, *, at_once: bool = True, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """A line in the log, then one every ten seconds at most: how many are done, and the time left.

    The first comes at the start, or, if not `at_once`, after ten seconds: what takes less is not worth a line.
    """
    pace = Pace(clock)
    told: float | None = None if at_once else clock()

    def tell(done: int, total: int) -> None:
        nonlocal told
        left = pace.left(done, total)
        if told is None or (clock() - told >= _EVERY and done < total):
            told = clock()
            log.info("%d of %d %s%s", done, total, what, "" if left is None else f", {in_words(left)} left")

    return tell


def in_words(seconds: float) -> str:
    """A length of time as far as it means something: 2 h 5 min, 3 min 20 s, 7 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
