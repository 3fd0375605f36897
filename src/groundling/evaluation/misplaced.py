"""Pictures about which a convention is wrong alike: its places are those of the things but for a scale.

Who answers in a convention that is not listed is right about the pictures on which a listed one is the same, and on
each other picture is off by one scale about an edge or the middle: in "x * L / 1000" for "x * width / 1000" it is the
picture's L / width. Who misses a thing is off by whatever it be, so that no scale brings both things of a picture back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from groundling.evaluation.cards import Card
from groundling.evaluation.heard import Heard

OFF = 0.03  # of the picture's side, the mean over a box's four: each answer about the picture is farther than that
CLOSER = 3  # times, that the scale brings each
FEWEST = 4  # pictures: 5 of 2400 models that err in 20 to 50 % of their points came to 3, none to 4 (measured 2026-12)
ANCHORS = (0.0, 0.5, 1.0)  # of the width, or the height: what a scale leaves in its place


def find_misplaced(heard: Sequence[Heard], places: np.ndarray) -> list[Card]:
    """One card of each picture that is off by a scale of its own about one anchor; none where they are few.

    `places` are (N, 4), of the answers under a convention, in pixels of the upright cards.
    """
    by_file: dict[bytes, list[int]] = {}
    for number, each in enumerate(heard):
        by_file.setdefault(each.card.file, []).append(number)
    pairs = [rows for rows in by_file.values() if len(rows) > 1]
    cards = [heard[rows[0]].card for rows in pairs]
    apart = [(places[rows], np.concatenate([heard[row].truth for row in rows])) for rows in pairs]
    found = [
        [card for card, (there, truths) in zip(cards, apart, strict=True) if _is_misplaced(card, there, truths, anchor)]
        for anchor in itertools.product(ANCHORS, ANCHORS)
    ]
    most = max(found, key=len)
    return most if len(most) >= FEWEST else []


def _is_misplaced(card: Card, places: np.ndarray, truths: np.ndarray, anchor: tuple[float, float]) -> bool:
    """Whether all of a picture's answers are off, and one scale for x and one for y brings each of them back."""
    side = np.sqrt(card.upright.area)
    off = np.abs(places - truths).mean(axis=1)
    if off.min() < OFF * side:
        return False
    fixed = np.array(card.upright.size_wh) * anchor
    corners, right = places.reshape(-1, 2) - fixed, truths.reshape(-1, 2) - fixed
    scale = (corners * right).sum(axis=0) / np.maximum((corners**2).sum(axis=0), 1e-9)
    left = np.abs(corners * scale - right).reshape(len(places), 4).mean(axis=1)
    return bool((scale > 0).all() and (CLOSER * left < off).all())
