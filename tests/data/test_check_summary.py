"""What the terminal tells beside the findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundling.data.check_summary import describe_frames
from groundling.data.judge import Case, judge_boxes
from groundling.data.look import Look
from groundling.data.record import Record, Target
from groundling.geometry.frame import Frame

PHOTO = Frame(640, 428)


def lines(*boxes: tuple[float, float, float, float]) -> list[str]:
    cases = [
        Case.of(
            Record("the mug", Path("1.jpg"), (Target(box=box),), file=Path("a.jsonl"), line=line), Look(frame=PHOTO)
        )
        for line, box in enumerate(boxes, start=1)
    ]
    return list(describe_frames(judge_boxes(cases).boxes))


def test_boxes_that_leave_their_pictures_are_held_against_every_frame():
    told = lines((228, 320, 961, 870), (100, 100, 900, 800), (50, 50, 700, 600), (10, 10, 100, 100))

    assert told[0] == "-> 3 of 4 boxes of a.jsonl leave their pictures; their numbers could count:"
    assert any(line.strip().startswith("thousandths: possible") for line in told)
    assert any("original" in line and "impossible, 3 of 4 boxes" in line for line in told)


@pytest.mark.parametrize("outside", [0, 2])
def test_a_few_mistakes_are_no_other_frame(outside: int):
    assert lines(*[(10, 10, 900, 300)] * outside, *[(10, 10, 100, 100)] * 5) == []
