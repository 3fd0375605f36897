"""A bias of right boxes: what is named, what is left to the model, and what so few boxes could not have shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from made_answers import IN_SEEN, PHOTO, Kind, case, make

from groundling.evaluation.cases import Case
from groundling.evaluation.offset import Look, find_offset
from groundling.evaluation.sheet import lay_out
from groundling.evaluation.undo import NOTHING


def look_at(
    by: Sequence[float],
    *,
    count: int = 200,
    noise: float = 0.005,
    scale: float = 1,
    seed: int = 0,
    shares: Sequence[float] = (0, 0, 0, 0),
    **kind: Any,
) -> Look:
    """At right answers in whole pixels as seen, each edge moved by as many units, and shares of the box's side."""
    cases: list[Case] = []
    for one in make(seed, Kind(count=count, noise=noise, misses=0.2, **kind)):
        rows = IN_SEEN(one)
        sides = np.tile(rows[:, 2:] - rows[:, :2], 2)
        moved = (rows * scale + by + shares * sides).round()
        cases.append(Case(one.record, one.original, one.seen, one.seen, moved, [*one.labels], None, None, True))
    sheet = lay_out(cases)
    return find_offset(sheet, NOTHING, NOTHING.place(sheet))


@pytest.mark.parametrize("shift", [0.5, -0.5, 1.0, -1.0])
def test_half_a_unit_and_one_are_measured(shift: float) -> None:
    found = look_at([shift] * 4).offset
    assert found is not None and found.words == "boxes"
    assert abs(found.value - shift) <= 4 * found.error and found.error < 0.1


@pytest.mark.parametrize(
    ("by", "words"),
    [([0, 0, -1, -1], "right and bottom of boxes"), ([1, 1, 0, 0], "left and top of boxes")],
    ids=["the last pixel inside", "the first counted from 1"],
)
def test_two_edges_alone(by: list[float], words: str) -> None:
    found = look_at(by).offset
    assert found is not None and found.words == words
    assert abs(found.value) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "by",
    [
        [0, 0, 0, 0],
        [0.2] * 4,
        [0.8, 0, 0.8, 0],
        [0, 0, 0, 1],
        [0.5, 1.2, 0.5, 1.2],
        [0.5, -0.5, 0.5, -0.5],
        [-0.5, -0.5, 0.5, 0.5],
        [3] * 4,
    ],
    ids=["none", "too little", "x alone", "bottom alone", "x and y apart", "opposite", "drawn wide", "too far"],
)
def test_what_is_no_rounding_is_not_named(by: list[float]) -> None:
    assert look_at(by, count=800, noise=0.002).offset is None


def test_a_bias_along_y_alone_is_the_models_own_though_x_is_too_rough_to_deny_it() -> None:
    """Pictures are wider than high, so that x is measured half as well; without that question 7 of 20 were named."""
    assert not [seed for seed in range(12) if look_at([0, 0.6, 0, 0.6], count=150, noise=0.02, seed=seed).offset]


def test_what_grows_away_from_the_corner_is_told_from_a_shift() -> None:
    """Thousandths of 999, not of 1000: half a unit off in the middle of a picture."""
    grown = look_at([0] * 4, scale=0.999, count=600).offset
    assert grown is not None and grown.grows
    even = look_at([-0.5] * 4, count=600).offset
    assert even is not None and not even.grows


def test_half_a_unit_is_found_in_the_noise_of_a_trained_model() -> None:
    """3 % of a box's sides: with each edge by itself, 200 answers did not show it once in twenty draws."""
    found = [look_at([-0.5] * 4, noise=0.03, seed=seed).offset for seed in range(10)]
    assert sum(offset is not None for offset in found) >= 4
    assert all(offset.value < 0 for offset in found if offset)


def test_small_boxes_tell_most() -> None:
    with_small = look_at([0] * 4, noise=0.06, least=0.01)
    assert with_small.least < 0.6 * look_at([0] * 4, noise=0.06).least


def test_few_boxes_or_much_noise_hide_half_a_unit_and_say_so() -> None:
    few = look_at([0.5] * 4, count=25)
    assert (few.offset, few.least) == (None, np.inf) and few.boxes < 25
    rough = look_at([0.5] * 4, noise=0.1)
    assert rough.offset is None and rough.least > 0.5


@pytest.mark.parametrize(("edges", "count"), [((1, 1, 1, 1), 120), ((0, 0, 1, 1), 260)])
def test_what_is_said_to_be_seen_is_seen(edges: tuple[int, ...], count: int) -> None:
    """An offset as large as the least is found nine times in ten, one of a third nearly never."""
    looks = [look_at([0] * 4, count=count, noise=0.03, seed=seed) for seed in range(20)]
    least = [look.least if all(edges) else look.least_of_two for look in looks]
    assert min(least) > 0.5 and max(least) < 1.4

    def found(times: float) -> int:
        moved = [[-each * times * edge for edge in edges] for each in least]
        found = [look_at(by, count=count, noise=0.03, seed=seed).offset for seed, by in enumerate(moved)]
        return sum(offset is not None for offset in found)

    assert found(1) >= 17
    assert found(1 / 3) <= 1


def test_the_interval_of_an_offset_is_as_wide_as_it_scatters() -> None:
    found = [look_at([-0.5] * 4, noise=0.01, seed=seed).offset for seed in range(80)]
    away = np.array([(offset.value + 0.5) / offset.error for offset in found if offset and offset.words == "boxes"])
    assert len(away) >= 70 and 0.8 < np.sqrt(np.mean(away**2)) < 1.12


def test_a_bias_of_the_models_own_may_hide_an_offset() -> None:
    for by in ([0, 0, 0, 1], [3] * 4, [-0.5, -0.5, 0.5, 0.5]):
        look = look_at(by, noise=0.01)
        assert look.is_odd and look.offset is None
    by_side = look_at([0] * 4, shares=[0.01] * 4, count=800, noise=0.02)
    assert by_side.is_odd and by_side.offset is None
    assert not [seed for seed in range(10) if look_at([0] * 4, seed=seed).is_odd]
    assert not look_at([0.2] * 4, count=800).is_odd, "a small one is no other"


def test_many_boxes_of_few_answers_tell_nothing() -> None:
    """One answer's boxes lie off together, so that answers are counted, not boxes."""
    look = look_at([0.5] * 4, count=12, targets=30, least=0.02, most=0.1)
    assert look.boxes >= 30 and (look.offset, look.least) == (None, np.inf)


@pytest.mark.parametrize("edges", [(0, 0, 1, 1), (1, 1, 0, 0), (1, 1, 1, 1)])
def test_a_bias_that_goes_with_the_size_of_a_box_is_no_rounding(edges: tuple[int, ...]) -> None:
    for share in (0.01, 0.02):
        for seed in range(3):
            look = look_at([0] * 4, shares=[share * edge for edge in edges], count=1500, noise=0.03, seed=seed)
            assert look.offset is None, (share, seed)


NEARLY_ONE_SIZE: dict[str, Any] = {"least": 0.1, "most": 0.12, "sizes": ((640, 480),)}  # 64 to 77 wide, 48 to 58 high
ONE_SIZE: dict[str, Any] = NEARLY_ONE_SIZE | {"most": 0.1}


@pytest.mark.parametrize("by", [[-0.5] * 4, [0, 0, -1, -1], [1, 1, 0, 0]], ids=["down", "last inside", "from 1"])
def test_a_rounding_of_boxes_of_nearly_one_size_is_named(by: list[float]) -> None:
    """A share of their sides explains it nearly as well, by chance often better: only a clearly better one silences."""
    looks = [look_at(by, noise=0.02, seed=seed, **NEARLY_ONE_SIZE) for seed in range(20)]
    assert sum(look.offset is not None for look in looks) >= 17


def test_what_sizes_do_not_tell_from_a_share_of_them_is_said() -> None:
    for kind in (NEARLY_ONE_SIZE, ONE_SIZE):
        shifted = look_at([-0.5] * 4, noise=0.02, seed=1, **kind).offset
        shared = look_at([0] * 4, shares=(0.01,) * 4, noise=0.02, seed=1, **kind).offset
        assert shifted is not None and shifted.or_share
        assert shared is not None and shared.or_share
    told = look_at([-0.5] * 4, noise=0.02).offset
    assert told is not None and not told.or_share


def test_every_answer_off_by_the_same() -> None:
    """Without any noise, in pixels that the truth is whole in."""
    answers = [case([[10 + n, 19, 39 + n, 49]], (11 + n, 20, 40 + n, 50), seen=PHOTO) for n in range(12, 60)]
    sheet = lay_out(answers)
    found = find_offset(sheet, NOTHING, NOTHING.place(sheet)).offset
    assert found is not None and found.words == "boxes" and found.value == pytest.approx(-1)


def in_whole_pixels(count: int, by: float, *, away: float = 0, seed: int = 0) -> Look:
    """At answers in whole pixels to truths that lie `away` from whole ones, moved by `by` and hardly more."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.integers(20, (300, 110), (count, 2)), rng.integers(20, 60, (count, 2))
    truths = np.hstack([corners, corners + sides]) + away
    answered = (truths + by + rng.normal(0, 0.2, truths.shape)).round().tolist()
    answers = [case([box], tuple(truth), seen=PHOTO) for box, truth in zip(answered, truths.tolist(), strict=True)]
    sheet = lay_out(answers)
    return find_offset(sheet, NOTHING, NOTHING.place(sheet))


@pytest.mark.parametrize("count", [60, 300])
def test_rounding_down_nearly_exact_boxes_leaves_each_edge_one_of_two_values(count: int) -> None:
    looks = [in_whole_pixels(count, -0.5, seed=seed) for seed in range(10)]
    offsets = [look.offset for look in looks if look.offset is not None and look.offset.words == "boxes"]
    assert len(offsets) == len(looks)
    assert sum(abs(offset.value + 0.5) < 1.96 * offset.error for offset in offsets) >= 8
    assert not [seed for seed in range(10) if in_whole_pixels(count, 0, away=0.5, seed=seed).is_odd]


@pytest.mark.filterwarnings("error")
def test_boxes_that_each_lie_off_as_a_whole() -> None:
    """Left is moved as right is, and top as bottom, so that one edge tells nothing that another does not."""
    rng = np.random.default_rng(0)
    whole = np.tile(rng.integers(-2, 3, (40, 2)), 2)
    truths = [(60 + 9 * n, 50 + 7 * n, 100 + 9 * n, 90 + 7 * n) for n in range(40)]
    sheet = lay_out(
        [case([list(np.add(truth, off))], truth, seen=PHOTO) for truth, off in zip(truths, whole, strict=True)]
    )
    assert find_offset(sheet, NOTHING, NOTHING.place(sheet)).offset is None


def test_boxes_that_all_lie_at_one_place() -> None:
    rng = np.random.default_rng(0)
    moved = np.array([60, 50, 100, 90]) - 1 + rng.normal(0, 1, (48, 4))
    sheet = lay_out([case([box], (60, 50, 100, 90), seen=PHOTO) for box in moved.round().tolist()])
    found = find_offset(sheet, NOTHING, NOTHING.place(sheet)).offset
    assert found is not None and found.words == "boxes" and not found.grows
