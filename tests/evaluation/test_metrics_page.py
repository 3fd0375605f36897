"""docs/metrics.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from answered import predict

from groundling.evaluation.detection import (
    MAX_BOXES,
    MOST_BOXES_REORDERED,
    ORDERS,
    detection_to_json,
    measure_detection,
)
from groundling.evaluation.matching import REACH
from groundling.evaluation.metrics import METRICS
from groundling.evaluation.protocols import PROTOCOLS
from groundling.evaluation.ranking import DETECTION, DRAWS


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_table_of_metrics_is_the_one_of_the_code(page: str):
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", page.partition("## Detection")[0], re.MULTILINE)

    assert dict(rows) == METRICS and [name for name, _ in rows] == list(METRICS)


def test_what_compare_says_of_detection_is_what_the_code_says(page: str):
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", page.partition("## Before and after")[2], re.MULTILINE)

    assert dict(rows) == DETECTION
    assert f"each of {DRAWS} draws" in page


def test_the_table_of_protocols_is_the_one_of_the_code(page: str):
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)

    assert rows == [(name, each.headline, each.wants, each.words, each.source) for name, each in PROTOCOLS.items()]


def test_every_key_of_detection_has_its_row(page: str):
    found = measure_detection([predict([("cat", [0, 0, 9, 9])], [])])
    assert found is not None
    named = set(re.findall(r"`([\w@.]+)`(?=[^|\n]*\|)", page.partition("## Detection")[2].partition("**A picture")[0]))

    assert set(detection_to_json(found)) <= named


def test_numbers_are_those_of_the_code(page: str):
    assert f"within {REACH} of the picture's longer side" in page
    assert f"AP over {ORDERS} random orders" in page
    assert f"above {MOST_BOXES_REORDERED:,} boxes".replace(",", " ") in page
    assert f"the best first: {MAX_BOXES}, as COCO" in page
