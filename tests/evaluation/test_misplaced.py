"""Pictures that are placed wrong alike are told from mistakes, however many a model makes."""

from __future__ import annotations

import numpy as np
import pytest

from groundling.evaluation.cards import draw_cards
from groundling.evaluation.heard import Heard
from groundling.evaluation.misplaced import find_misplaced

CARDS = tuple(draw_cards())
BOXES = [Heard(card, (0.0, 0.0, 0.0, 0.0), None) for card in CARDS]
POINTS = [Heard(card, (0.0, 0.0), None) for card in CARDS]
SIZES = np.array([card.upright.size_wh for card in CARDS])
SIDES = np.sqrt(SIZES.prod(axis=1, keepdims=True))


def truths(heard: list[Heard]) -> np.ndarray:
    return np.concatenate([each.truth for each in heard])


@pytest.mark.parametrize("heard", [BOXES, POINTS], ids=["boxes", "points"])
@pytest.mark.parametrize("anchor", [(0, 0), (0.5, 0.5), (1, 1), (0.5, 0)])
def test_a_scale_about_an_edge_or_the_middle_is_found(heard: list[Heard], anchor: tuple[float, float]):
    fixed = np.tile(SIZES * anchor, 2)
    is_wide = SIZES[:, :1] > 1.4 * SIZES[:, 1:]
    places = np.where(is_wide, fixed + (truths(heard) - fixed) * 1.5, truths(heard))
    assert [card.upright.size_wh for card in find_misplaced(heard, places)] == [
        *((100, 68), (155, 95), (120, 76), (1500, 400), (130, 90), (100, 68)),
    ]


def test_two_scales_of_one_picture_are_none():
    places = truths(BOXES)
    places[::2] *= 1.5
    places[1::2] *= 0.7
    assert find_misplaced(BOXES, places) == []


def test_what_is_hardly_off_is_right():
    assert find_misplaced(BOXES, truths(BOXES) * 1.02) == []


def test_a_mirrored_picture_is_no_scale():
    assert find_misplaced(BOXES, np.tile(SIZES, 2) - truths(BOXES)[:, [2, 3, 0, 1]]) == []


def test_three_pictures_are_chance():
    places = truths(BOXES)
    places[:6] *= 1.5
    assert find_misplaced(BOXES, places) == []
    places[6:8] *= 1.5
    assert len(find_misplaced(BOXES, places)) == 4


def err(places: np.ndarray, rows: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Places, at the rows those of a model that answers anywhere, beside the thing, or with the other thing's place."""
    corners = np.sort(rng.random((len(places), 2, 2)), axis=1) * SIZES[:, None]
    wrong = {
        "anywhere": corners.reshape(-1, 4),
        "beside": places + np.tile(rng.normal(0, 0.1, (len(places), 2)), 2) * SIDES,
        "the other": places[np.arange(len(places)) ^ 1],
    }
    return np.where(rows[:, None], wrong[kind], places)


@pytest.mark.parametrize("heard", [BOXES, POINTS], ids=["boxes", "points"])
@pytest.mark.parametrize("kind", ["anywhere", "beside", "the other"])
@pytest.mark.parametrize("are_together", [False, True], ids=["answers", "pictures"])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_mistakes_are_not_alike(heard: list[Heard], kind: str, are_together: bool, share: float):
    """A hundred models that err so, with noise of 2.5 % beside."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        places = truths(heard) + rng.normal(0, 0.025, (len(heard), 4)) * SIDES
        rows = np.repeat(rng.random(17) < share, 2) if are_together else rng.random(34) < share
        places = err(places, rows, kind, rng)
        if heard[0].is_point:
            places = np.tile((places[:, :2] + places[:, 2:]) / 2, 2)
        assert find_misplaced(heard, places) == []
