from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.split import read_sizes, split_by_picture
from groundling.errors import SettingsError


def test_sizes_are_read_in_order_from_text_and_from_a_mapping():
    assert list(read_sizes("train=3000, test=100").items()) == [("train", 3000), ("test", 100)]
    assert read_sizes({"train": 3000, "test": 100}) == {"train": 3000, "test": 100}
    assert read_sizes(None) == {}


@pytest.mark.parametrize("split", ["train", "train=", "train=0", "train=-3", "train=1.5", "../x=3", "", "a=1,a=2"])
def test_other_splits_are_refused_with_an_example(split: str):
    with pytest.raises(SettingsError, match=r"train=3000,test=100|twice"):
        read_sizes(split)


def test_a_split_is_rounded_up_to_whole_pictures():
    pictures = ["a", "a", "a", "b", "b", "b"]
    splits = split_by_picture(pictures, {"train": 1, "test": 2}, seed=0)
    assert sorted(splits.values()) == [[0, 1, 2], [3, 4, 5]]


def test_rows_beyond_the_sizes_belong_to_no_split():
    splits = split_by_picture(list("abcdefgh"), {"train": 3, "test": 2}, seed=1)
    assert [len(rows) for rows in splits.values()] == [3, 2]


def test_too_many_rows_and_too_few_pictures_are_refused():
    with pytest.raises(SettingsError, match="asks for 5 rows, but there are 4"):
        split_by_picture(list("aabb"), {"train": 3, "test": 2}, seed=0)
    with pytest.raises(SettingsError, match=r"no picture is left for the split 'test'.*never divided"):
        split_by_picture(list("aaaa"), {"train": 1, "test": 1}, seed=0)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=60), st.integers(0, 5), st.randoms())
def test_no_picture_is_on_two_sides_whatever_the_order_of_the_rows(pictures: list[str], seed: int, order):
    if len(set(pictures)) < 2:
        return
    sizes = {"train": 1, "test": 1}
    splits = split_by_picture(pictures, sizes, seed)
    sides = {name: {pictures[row] for row in rows} for name, rows in splits.items()}
    assert not sides["train"] & sides["test"]
    assert sum(len(rows) for rows in splits.values()) == sum(
        picture in set.union(*sides.values()) for picture in pictures
    )

    shuffled = order.sample(pictures, len(pictures))
    again = {name: {shuffled[row] for row in rows} for name, rows in split_by_picture(shuffled, sizes, seed).items()}
    assert again == sides
