"""Splitting records by picture: questions about one picture never stand on both sides.

A row-wise split leaks: data sets for grounding ask several questions of one photograph.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from groundling.errors import SettingsError

Sizes = dict[str, int]  # name of a split -> rows wanted; filled in this order


def read_sizes(split: str | Mapping[str, int] | None) -> Sizes:
    """The sizes that `train=3000,test=100` or a mapping asks for; none for None. SettingsError where it is neither."""
    if split is None:
        return {}
    if isinstance(split, str):
        pairs = [part.partition("=") for part in split.split(",")]
        wanted = [(name.strip(), rows.strip()) for name, _, rows in pairs]
    else:
        wanted = [(str(name), str(rows)) for name, rows in split.items()]
    sizes: Sizes = {}
    for name, rows in wanted:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not re.fullmatch(r"0*[1-9][0-9]{0,11}", rows):
            raise SettingsError(
                f"split {name}={rows}: expected names of letters, digits, - and _, each with a number of rows of at "
                "least 1, as in train=3000,test=100"
            )
        if name in sizes:
            raise SettingsError(f"the split names {name!r} twice; each name makes one file")
        sizes[name] = int(rows)
    return sizes


def split_by_picture(pictures: Sequence[str], sizes: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Row numbers of each split, ascending, for rows that belong to these pictures (one identity a row).

    Whole pictures are dealt in a seeded order that does not depend on the order of the rows: to the first split until
    it has at least its rows, then to the next. So each is rounded up to whole pictures, except the last when the rows
    run out, and what is left over belongs to none. SettingsError where fewer rows exist than asked for, or a split
    gets none.
    """
    asked = sum(sizes.values())
    if asked > len(pictures):
        raise SettingsError(f"the split asks for {asked} rows, but there are {len(pictures)}; ask for fewer")
    rows_of: dict[str, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault(picture, []).append(row)
    order = sorted(rows_of)
    random.Random(seed).shuffle(order)
    splits: dict[str, list[int]] = {}
    for name, size in sizes.items():
        rows: list[int] = []
        while len(rows) < size and order:
            rows += rows_of[order.pop()]
        if not rows:
            raise SettingsError(
                f"no picture is left for the split {name!r}: {len(rows_of)} pictures hold the {len(pictures)} rows, "
                "and a picture is never divided; ask for fewer rows in the others"
            )
        splits[name] = sorted(rows)
    return splits
