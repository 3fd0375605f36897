"""The time left: from what was done here, not from what was there, however the answers come."""

from __future__ import annotations

import logging

import pytest

from groundling.evaluation.pace import Pace, in_words, tell_progress


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_answers_that_were_there_already_do_not_count_as_fast():
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(900, 1000) is None, "kept from before"
    for done in (910, 920):
        clock.now += 10
        left = pace.left(done, 1000)
    # Ten were answered in the ten seconds up to the call before; 90 were left then, and 10 seconds have gone since.
    assert left == pytest.approx(80)


def test_answers_that_come_many_at_once_share_their_time():
    clock = Clock()
    pace = Pace(clock)
    pace.left(0, 200)
    for start in (0, 50):
        clock.now += 60
        first = pace.left(start + 1, 200)
        for done in range(start + 2, start + 51):
            last = pace.left(done, 200)
    # 50 a minute: at the second minute's first answer 50 are known to have taken one minute, hence 150 take three,
    # and one of them has gone by.
    assert first == pytest.approx(120)
    assert last == pytest.approx(120, rel=0.03)


def test_nobody_knows_before_anything_is_done():
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(0, 10) is None
    clock.now += 5
    assert pace.left(1, 10) is None
    clock.now += 100
    assert pace.left(2, 10) == 0, "longer than foretold is not less than nothing"


def test_lines_in_the_log(caplog: pytest.LogCaptureFixture):
    clock = Clock()
    with caplog.at_level(logging.INFO, logger="groundling"):
        tell = tell_progress(logging.getLogger("groundling"), "records asked", clock=clock)
        tell(20, 100)
        for done in range(21, 101):
            clock.now += 1
            tell(done, 100)
    assert caplog.messages[:3] == [
        "20 of 100 records asked",
        "30 of 100 records asked, 1 min 10 s left",
        "40 of 100 records asked, 1 min 0 s left",
    ]
    assert len(caplog.messages) == 8, "the start and every ten seconds; that all is done is seen by what comes"


def test_what_is_soon_done_gets_no_line(caplog: pytest.LogCaptureFixture):
    clock = Clock()
    with caplog.at_level(logging.INFO, logger="groundling"):
        tell = tell_progress(logging.getLogger("groundling"), "pictures looked at", at_once=False, clock=clock)
        for done in range(13):
            tell(done, 100)
            clock.now += 1
    assert caplog.messages == ["10 of 100 pictures looked at, 1 min 30 s left"]


def test_lengths_of_time_in_words():
    assert [in_words(seconds) for seconds in (7.4, 200, 7500)] == ["7 s", "3 min 20 s", "2 h 5 min"]
