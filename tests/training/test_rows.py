"""Rows: every record once an epoch, questions about one picture together, budgets kept, the same order every time."""

from __future__ import annotations

from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.training.rows import (
    Group,
    Length,
    Quota,
    RowPlan,
    RowSampler,
    fill,
    fit,
    group_questions,
    split_rows,
    spread_out,
)

PICTURES = st.lists(st.sampled_from("abcdefg"), max_size=60)


def plan_of(**values: Any) -> RowPlan:
    plain: dict[str, Any] = {"batch_size": 1, "pack_tokens": None, "accumulate": 1, "processes": 1}
    return RowPlan(**plain | {"share_pictures": True} | values)


def sampler_of(images: list[str], plan: RowPlan, *, seed: int = 1, epoch: int = 0) -> RowSampler:
    """Samples of 20 to 49 tokens behind a picture of 100."""
    lengths = [Length(120 + 7 * number % 30, 100) for number in range(len(images))]
    sampler = RowSampler([Path(image) for image in images], lengths, plan, seed=seed)
    sampler.epoch = lambda: epoch
    return sampler


def numbers_of(sampler: RowSampler) -> list[list[int]]:
    return [row.numbers for row in sampler]


def tokens_of(row: list[int], sampler: RowSampler, *, shared: bool) -> int:
    own = sum(sampler.lengths[number].tokens - sampler.lengths[number].shared for number in row)
    pictures = {sampler.images[number] for number in row} if shared else row
    return own + 100 * len(pictures)


# ---- by records ------------------------------------------------------------------------------------------------


@given(images=PICTURES, size=st.integers(1, 9), accumulate=st.integers(1, 3))
def test_an_epoch_has_every_record_once_in_rows_of_the_size(images: list[str], size: int, accumulate: int):
    sampler = sampler_of(images, plan_of(batch_size=size, accumulate=accumulate))
    rows = numbers_of(sampler)

    assert sorted(chain(*rows)) == list(range(len(images)))
    assert len(rows) == len(sampler) == -(-len(images) // size)
    assert {len(row) for row in rows[:-1]} <= {size}


@given(images=PICTURES, size=st.sampled_from([4, 8, 12]))
def test_a_step_holds_the_same_records_however_it_is_cut(images: list[str], size: int):
    whole = numbers_of(sampler_of(images, plan_of(batch_size=size)))

    for rows, processes in ((2, 1), (1, 2), (2, 2), (1, 4)):
        plan = plan_of(batch_size=size // (rows * processes), accumulate=rows, processes=processes)
        cut = numbers_of(sampler_of(images, plan))
        for number, step in enumerate(whole[: len(images) // size]):
            pieces = cut[number * plan.rows_a_step : (number + 1) * plan.rows_a_step]
            assert sorted(chain(*pieces)) == sorted(step)
        assert sorted(chain(*cut)) == list(range(len(images)))


@given(
    images=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60),
    pack=st.sampled_from([None, 300]),
    processes=st.sampled_from([1, 2, 3, 4, 8]),
    accumulate=st.integers(1, 3),
)
def test_every_process_gets_as_many_rows_and_every_record_comes_once(
    images: list[str], pack: int | None, processes: int, accumulate: int
):
    """Were there fewer rows than processes, accelerate would repeat the epoch's first ones."""
    plan = plan_of(batch_size=1 if pack else 4, pack_tokens=pack, processes=processes, accumulate=accumulate)
    sampler = sampler_of(images, plan)
    rows = numbers_of(sampler)
    assert len(rows) == len(sampler) and len(rows) % processes == 0
    assert sorted(chain(*rows)) == list(range(len(images)))
    steps = [rows[start : start + plan.rows_a_step] for start in range(0, len(rows), plan.rows_a_step)]
    assert all(any(step) for step in steps), "every step has something to learn"
    assert all(all(step) for step in steps[:-1]), "and no process idles but in the last"


@pytest.mark.parametrize(("records", "processes"), [(9, 2), (437, 8), (300, 7), (1, 4)])
def test_the_last_step_may_have_fewer_records_than_processes(records: int, processes: int):
    sampler = sampler_of(list(map(str, range(records))), plan_of(processes=processes))
    *_, last = (list(sampler)[start : start + processes] for start in range(0, len(sampler), processes))
    assert [len(row.numbers) for row in last] == [1] * (records % processes) + [0] * (-records % processes)


@given(images=st.lists(st.sampled_from("abcdefg"), min_size=4, max_size=60))
def test_a_step_of_packed_rows_is_the_same_however_it_is_dealt(images: list[str]):
    dealt = [sampler_of(images, plan_of(pack_tokens=300, accumulate=rows, processes=4 // rows)) for rows in (1, 2, 4)]
    filled = [[row for row in numbers_of(sampler) if row] for sampler in dealt]
    assert filled[0] == filled[1] == filled[2]


def test_it_is_told_how_often_pictures_are_seen():
    images = [f"{number // 4}" for number in range(40)]

    assert sampler_of(images, plan_of(batch_size=4, accumulate=4)).describe() == (
        "10 rows an epoch, of 4.0 records; a picture is seen 1.0 times for 4.0 questions"
    )
    assert sampler_of(images, plan_of()).describe() == (
        "40 rows an epoch, of 1.0 records; a picture is seen 4.0 times for 4.0 questions "
        "(rows of several records would share more)"
    )
    assert sampler_of(images, plan_of(batch_size=4)).describe() == (
        "10 rows an epoch, of 4.0 records; a picture is seen 4.0 times for 4.0 questions "
        "(train.accumulate=4 would share more)"
    )
    packed = [sampler_of(images, plan_of(pack_tokens=300, accumulate=rows)).describe() for rows in (1, 5)]
    assert packed[0].endswith("a picture is seen 4.0 times for 4.0 questions (train.accumulate=4 would share more)")
    assert packed[1].endswith("a picture is seen 1.0 times for 4.0 questions")
    assert sampler_of(images, plan_of(batch_size=4, share_pictures=False)).describe() == (
        "10 rows an epoch, of 4.0 records"
    )
    assert sampler_of([], plan_of()).describe() == "0 rows an epoch, of 0.0 records"


# ---- by tokens -------------------------------------------------------------------------------------------------


@given(
    images=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60),
    budget=st.integers(150, 900),
    shared=st.booleans(),
    epoch=st.integers(0, 5),
)
def test_no_row_is_over_its_budget(images: list[str], budget: int, shared: bool, epoch: int):
    sampler = sampler_of(images, plan_of(pack_tokens=budget, share_pictures=shared), epoch=epoch)
    rows = numbers_of(sampler)

    assert sorted(chain(*rows)) == list(range(len(images)))
    assert max(tokens_of(row, sampler, shared=shared) for row in rows) <= budget
    assert len(rows) == len(sampler), "every epoch takes as many steps"


def test_rows_are_well_filled_and_sharing_makes_them_fewer():
    rng = np.random.default_rng(0)
    images = [f"{number}" for number in rng.integers(0, 900, size=3000)]
    together = sampler_of(images, plan_of(pack_tokens=2000, accumulate=4))
    apart = sampler_of(images, plan_of(pack_tokens=2000, accumulate=4, share_pictures=False))

    for sampler, shared in ((together, True), (apart, False)):
        filled = [tokens_of(row, sampler, shared=shared) / 2000 for row in numbers_of(sampler)]
        assert np.mean(filled) > 0.93, f"{np.mean(filled):.3f} of a row"
    assert len(together) < 0.6 * len(apart)


# ---- steps -----------------------------------------------------------------------------------------------------

CROWDS = {
    "one in five about one": ["much"] * 100 + [f"{number}" for number in range(400)],
    "a hundred about each": [f"{number % 5}" for number in range(500)],
    "twenty about each": [f"{number // 20}" for number in range(1000)],
}


def steps_of(sampler: RowSampler) -> list[list[Any]]:
    """The picture of each question, step by step."""
    rows, size = numbers_of(sampler), sampler.plan.rows_a_step
    steps = [chain(*rows[start : start + size]) for start in range(0, len(rows), size)]
    return [[sampler.images[number] for number in step] for step in steps]


def largest_shares(steps: list[list[Any]]) -> list[float]:
    """Of one picture's questions in a step, from the largest, over steps of about the usual number of questions."""
    usual = sum(map(len, steps)) / len(steps)
    shares = [Counter(step).most_common(1)[0][1] / len(step) for step in steps if len(step) >= 0.75 * usual]
    return sorted(shares, reverse=True)


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize(
    "rows",
    [{"batch_size": 8, "accumulate": 4}, {"batch_size": 4, "accumulate": 4, "processes": 2}],
    ids=["one process", "two"],
)
def test_no_picture_owns_a_step(crowd: str, rows: dict[str, int]):
    for seed in range(3):
        sampler = sampler_of(CROWDS[crowd], plan_of(**rows), seed=seed)
        assert sampler.most == 8 and largest_shares(steps_of(sampler)[:-1])[0] <= 0.25


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_no_picture_owns_a_step_of_packed_rows(crowd: str, accumulate: int):
    """Steps of so many tokens differ in how many questions they hold: a quarter of the usual may be somewhat more.

    Rows are shuffled after they are filled, so the one that takes what is left at the end may be in any step.
    """
    for seed in range(3):
        sampler = sampler_of(CROWDS[crowd], plan_of(pack_tokens=2000, accumulate=accumulate), seed=seed)
        assert largest_shares(steps_of(sampler))[1] <= 0.4


@given(images=PICTURES, pack=st.sampled_from([None, 600]), accumulate=st.integers(1, 3))
def test_where_there_are_no_others_a_picture_may_own_a_step(images: list[str], pack: int | None, accumulate: int):
    size = 1 if pack else 4
    sampler = sampler_of(images, plan_of(batch_size=size, pack_tokens=pack, accumulate=accumulate))
    assert sorted(chain(*numbers_of(sampler))) == list(range(len(images)))

    only = sampler_of(["a"] * 24, plan_of(batch_size=size, pack_tokens=pack, accumulate=accumulate))
    whole_steps = -(-3 // accumulate) * accumulate
    assert [len(row) for row in numbers_of(only)] == [4] * 6 if pack is None else len(only) <= whole_steps


def test_a_picture_with_its_quota_waits_as_long_as_there_are_others():
    images: list[Path | None] = [Path(image) for image in "aaaabbc"]
    quota = Quota(images, 2)

    assert members(fill(counted([0, 1], [2], [4], [3], [5], [6]), 4, cut=True, quota=quota)) == [
        [[0, 1], [4], [5]],
        [[2], [3], [6]],
    ]
    groups = [Group([0, 1], 50), Group([2], 30), Group([4], 60), Group([5], 40)]
    assert members(fill(groups, 100, cut=False, quota=quota)) == [[[0, 1], [5]], [[2], [4]]]
    assert members(fill(groups[:2], 100, cut=False, quota=quota)) == [[[0, 1], [2]]], "there are no others"
    wide = [groups[0], groups[1], Group([4], 90)]
    assert members(fill(wide, 100, cut=False, quota=quota)) == [[[0, 1]], [[2]], [[4]]], "another that does not fit"


def test_those_of_a_kind_are_spread_out():
    kinds = ["a"] * 10 + [None] * 30 + ["b"] * 5

    orders = [spread_out(kinds, np.random.default_rng(seed)) for seed in range(50)]

    for order in orders:
        assert sorted(order) == list(range(45))
        for kind, apart in (("a", 45 / 10), ("b", 45 / 5)):
            at = [at for at, place in enumerate(order) if kinds[place] == kind]
            assert max(np.diff(at)) <= 2.5 * apart
    assert len({tuple(order) for order in orders}) == 50
    first = Counter(order[0] for order in orders)
    assert max(first.values()) < 10, "any of them may be the first"


# ---- the order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [None, 700])
def test_an_order_depends_on_seed_and_epoch_alone(pack: int | None):
    images = [f"{number % 20}" for number in range(60)]

    def order(seed: int, epoch: int) -> list[list[int]]:
        plan = plan_of(batch_size=1 if pack else 8, pack_tokens=pack)
        return numbers_of(sampler_of(images, plan, seed=seed, epoch=epoch))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


def test_questions_about_a_picture_are_together_as_often_as_they_may():
    groups = group_questions([Path(image) for image in "aaaaabbbc"], 2, np.random.default_rng(0))

    assert sorted(map(len, groups)) == [1, 1, 1, 2, 2, 2]
    assert all(len({"aaaaabbbc"[number] for number in group}) == 1 for group in groups)


def test_records_without_a_picture_stand_alone():
    groups = group_questions([None, Path("a"), None, Path("a")], 4, np.random.default_rng(0))

    assert sorted(map(sorted, groups)) == [[0], [1, 3], [2]]


def test_rows_and_groups_stand_in_random_order():
    forty_one = [f"{number}" for number in range(41)]
    at: set[int] = set()
    lengths = [Length(250, 200)] * 41  # ten rows of four, and the one that is filled last
    sampler = RowSampler(list(map(Path, forty_one)), lengths, plan_of(pack_tokens=1000), seed=1)
    epochs = count()
    sampler.epoch = lambda: next(epochs)
    for _ in range(20):
        rows = numbers_of(sampler)
        at.add(next(place for place, row in enumerate(rows) if len(row) == 1))
    assert len(at) > 5, "the last row is not always what was left"

    images = [None] * 30 + [Path(image) for image in forty_one[:30]]
    groups = group_questions(images, 4, np.random.default_rng(0))
    assert 5 < sum(number < 30 for (number,) in groups[:30]) < 25, "words are asked among pictures"


def test_of_a_steps_groups_the_largest_get_their_rows_first():
    images = [f"{number}" for number in range(160) for _ in range((1, 3)[number % 2])]  # rows of 4: each a 3 and a 1
    seen = 0
    for seed in range(4):
        rows = numbers_of(sampler_of(images, plan_of(batch_size=4, accumulate=4), seed=seed))
        seen += sum(len({images[number] for number in row}) for row in rows)

    assert seen / (4 * 160) < 1.08, "few groups are cut, so that few pictures are seen twice (in any order: 1.09)"


# ---- filling ---------------------------------------------------------------------------------------------------


def counted(*groups: list[int]) -> list[Group]:
    return [Group(members, len(members)) for members in groups]


def members(bins: list[list[Group]]) -> list[list[list[int]]]:
    return [[group.members for group in one] for one in bins]


def test_a_step_has_the_rows_that_its_epoch_has_in_its_place():
    now = [0]
    plan = RowPlan(1, None, accumulate=2, processes=1, share_pictures=True)
    sampler = RowSampler("abcde", [Length(10, 5)] * 5, plan, seed=3)
    sampler.epoch = lambda: now[0]
    assert sampler.steps == 3
    for now[0] in range(2):
        steps = [sampler.draw_step(3 * now[0] + place) for place in range(3)]
        assert [len(step) for step in steps] == [2, 2, 1]
        assert [row for step in steps for row in step] == list(sampler)


def test_groups_keep_within_their_rows_where_that_is_possible():
    assert members(fill(counted([0, 1, 2], [3, 4], [5], [6, 7]), 4, cut=True)) == [[[0, 1, 2], [5]], [[3, 4], [6, 7]]]
    assert members(fill(counted([0, 1, 2], [3, 4]), 4, cut=True)) == [[[0, 1, 2], [3]], [[4]]]
    assert members(fill(counted([0, 1, 2, 3, 4]), 2, cut=True)) == [[[0, 1]], [[2, 3]], [[4]]]
    assert fill([], 2, cut=True) == []


def test_groups_of_tokens_are_not_cut():
    groups = [Group([0], 70), Group([1], 50), Group([2], 30), Group([3], 120)]

    assert members(fill(groups, 100, cut=False)) == [[[0], [2]], [[1]], [[3]]], "the last alone, over the budget"


def test_a_pictures_questions_are_counted_with_the_picture_once():
    lengths = [Length(120, 100), Length(130, 100), Length(140, 100)]

    assert fit([0, 1, 2], lengths, 200) == [Group([0, 1, 2], 190)]
    assert fit([0, 1, 2], lengths, 160) == [Group([0, 1], 150), Group([2], 140)]
    assert fit([0, 1, 2], lengths, 10) == [Group([0], 120), Group([1], 130), Group([2], 140)]


def test_the_longest_rows_are_halved():
    assert split_rows([[0], [1, 2, 3], [4, 5]], 4) == [[0], [1], [4, 5], [2, 3]]
    assert split_rows([[0], [1, 2]], 9) == [[0], [1], [2]], "as far as it goes"
    assert split_rows([[0, 1]], 1) == [[0, 1]]


# ---- changed lengths -------------------------------------------------------------------------------------------


@given(
    images=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60),
    budget=st.integers(150, 900),
    epoch=st.integers(0, 5),
    processes=st.integers(1, 3),
)
def test_no_row_of_changed_samples_is_over_its_budget(images: list[str], budget: int, epoch: int, processes: int):
    def changed(epoch: int, attempt: int) -> list[Length]:
        """A picture has 20 to 100 tokens in an attempt, a sample 20 to 49 more."""
        rng = np.random.default_rng([epoch, attempt])
        shared = dict(zip("abcdefg", rng.integers(20, 101, size=7).tolist(), strict=True))
        own = rng.integers(20, 50, size=len(images)).tolist()
        return [Length(shared[image] + more, shared[image]) for image, more in zip(images, own, strict=True)]

    plan = plan_of(pack_tokens=budget, processes=processes)
    plain = [Length(150, 100)] * len(images)
    sampler = RowSampler(list(map(Path, images)), plain, plan, seed=1, changed=changed)
    sampler.epoch = lambda: epoch
    rows = list(sampler)

    assert sorted(number for row in rows for number in row.numbers) == list(range(len(images)))
    assert len(rows) == len(sampler), "every epoch takes as many steps"
    assert {row.epoch for row in rows} == {epoch} and len({row.attempt for row in rows}) == 1
    lengths = changed(epoch, rows[0].attempt)
    for row in rows:
        own = sum(lengths[number].tokens - lengths[number].shared for number in row.numbers)
        pictures = {images[number]: lengths[number].shared for number in row.numbers}
        assert own + sum(pictures.values()) <= budget


def test_an_epoch_that_needs_more_rows_is_drawn_again():
    """Samples of which a row holds two or three, so that how many rows there are depends on luck."""
    tokens = np.random.default_rng(5).integers(300, 700, 36).tolist()
    images = [Path(f"{number}") for number in range(36)]
    plan = plan_of(pack_tokens=1000)
    sampler = RowSampler(images, [Length(own, own - 50) for own in tokens], plan, seed=5)
    sampler.epoch = lambda: 1

    rows = list(sampler)

    assert len(rows) == len(sampler) == 19
    assert {(row.epoch, row.attempt) for row in rows} == {(1, 24)}, "24 draws had a row more"
    assert sorted(number for row in rows for number in row.numbers) == list(range(36)), "and none of them was cut off"
    assert max(sum(tokens[number] for number in row.numbers) for row in rows) <= 1000
    assert list(sampler) == rows


def test_rows_carry_their_epoch():
    for pack in (None, 700):
        sampler = sampler_of(["a", "b"], plan_of(pack_tokens=pack), epoch=3)
        assert {(row.epoch, row.attempt) for row in sampler} == {(3, 0)}
