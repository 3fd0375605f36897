"""Whether a part of the answers has a mistake of its own, beside that of all of them, if they have one.

Parts are what records and pictures have in common: a class, a size, a folder; and simply those answers that miss.
Only listed orders, frames and turns are tried, none is fitted. In a part that is told by what its answers are about,
a mistake shows though it is too small to show in all; those that miss were chosen by what they are worth, so that
they must gain more than chance by far.

Things often lie in pairs, one left and one right: whoever takes one for the other answers a box that is right once the
picture is mirrored, and the truths of other pictures cannot show that. So where the thing that is asked for may make
the part, boxes must get the right size as well as the right place: a mirror changes none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from groundling.evaluation.cases import Case
from groundling.evaluation.grids import ORDERS, known_grids
from groundling.evaluation.habits import class_of
from groundling.evaluation.metrics import SIZES
from groundling.evaluation.sheet import Sheet
from groundling.evaluation.suspect import FEWEST, HIT, LEAST_GAIN_FREE, Suspect, distinct, simplest, weigh
from groundling.evaluation.undo import NOTHING, Undo, turned_ways

_LEAST_PART = 0.05  # of the answers: a part that is worth a word
_LEAST_HITS = 0.3  # of the part, undone
_SURE_OF_SIZES = 3.5  # standard errors of what sizes gain
_MOST_VALUES = 20  # of one trait, the most frequent, that are looked at
_PLAIN = ("read", "thousandths", "pixels")  # kinds of grids that are tried
_BETTER = 1.25  # times as many answers, that those that miss must explain, to be told instead of a trait


class Part(NamedTuple):
    """Some of the answers, and the mistake that they show. `chosen` are (N,) marks, `sheet` holds those alone."""

    words: str
    chosen: np.ndarray
    sheet: Sheet
    suspect: Suspect


def find_part(sheet: Sheet, base: Undo) -> Part | None:
    """The part whose own mistake explains most answers, after `base` is undone in all; None where none is clear."""
    tried = [(base, sheet.values(base.place(sheet))), *distinct(sheet, _ways(sheet, base))]
    undos = [undo for undo, _ in tried]
    values = np.array([row for _, row in tried])
    sizes = np.array([sheet.size_values(undo.place(sheet)) for undo in undos])
    looked_at = [_look_at(sheet, undos, values, sizes, group) for group in _groups(sheet)]
    known = [part for part in looked_at if part]
    missing = _look_at(sheet, undos, values, sizes, Group("that miss", values[0] < HIT, is_of_things=True))
    best = max(known, key=_explained, default=None)
    if best and missing and _explained(missing) >= _BETTER * _explained(best):
        return missing
    return best or missing


def _explained(part: Part) -> int:
    return part.suspect.evidence.explained


def _ways(sheet: Sheet, base: Undo) -> Iterator[Undo]:
    """Nothing undone; every plain frame, and that of `base`, in every order; and every turn."""
    yield NOTHING
    for order in ORDERS:
        for grid in (base.grid, *known_grids(sheet, order)):
            if grid is base.grid or grid.kind in _PLAIN:
                yield base._replace(order=order, grid=grid)
    yield from turned_ways(base)


def _look_at(sheet: Sheet, undos: list[Undo], values: np.ndarray, sizes: np.ndarray, group: Group) -> Part | None:
    """What the answers of a group show; the first of `undos` is what is undone in all.

    `values` and `sizes`, (S, N), are what each makes of answers, and of the sizes of their boxes alone.
    """
    count = int(group.chosen.sum())
    if count < max(FEWEST, _LEAST_PART * len(sheet)):
        return None
    tried = _resizing(sizes[:, group.chosen]) if group.is_of_things else np.arange(len(undos))
    worth = values[:, group.chosen][tried]
    means = worth.mean(axis=1)
    if means.max() - means[0] < LEAST_GAIN_FREE:
        return None
    best = undos[tried[simplest([undos[place] for place in tried], worth)]]
    part = sheet.part(np.flatnonzero(group.chosen))
    evidence = weigh(part, undos[0], best)
    is_clear = evidence.is_clear(is_fitted=True) and evidence.after >= _LEAST_HITS
    return Part(group.words, group.chosen, part, Suspect(best, evidence)) if is_clear else None


def _resizing(sizes: np.ndarray) -> np.ndarray:
    """The first, and the places of those that clearly make sizes worth more: of (S, N)."""
    gains = sizes - sizes[0]
    errors = gains.std(axis=1) / np.sqrt(sizes.shape[1])
    return np.flatnonzero(np.append(True, (gains.mean(axis=1) > _SURE_OF_SIZES * errors)[1:]))


# ---- what answers have in common -------------------------------------------------------------------------------


def _size_of_target(case: Case) -> str | None:
    """Its name as reports give it, where there is one target."""
    if not case.is_single:
        return None
    share = float(case.truth.areas()[0]) / case.original.area
    return next(name for name, (least, limit) in SIZES.items() if least <= share < limit)


def _stored(case: Case) -> str | None:
    return f"EXIF orientation {case.orientation}" if case.orientation != 1 else None


def _shape(case: Case) -> str:
    return "wider than high" if case.original.width > case.original.height else "not wider than high"


class Trait(NamedTuple):
    """What tells a part, in words with its value; `is_of_things` if by what is asked for, not by picture or source."""

    words: str
    value_of: Callable[[Case], str | None]
    is_of_things: bool = False


_TRAITS = (
    Trait("about {!r}", class_of, is_of_things=True),
    Trait(
        "about pictures in the folder {!r}",
        lambda case: case.record.image.parent.name if case.record.image else None,
    ),
    Trait("about pictures stored with {}", _stored),
    Trait("about pictures of {}", lambda case: str(case.original)),
    Trait("about pictures that are {}", _shape),
    Trait("about {} targets", _size_of_target, is_of_things=True),
)
"""Of equal parts the first is told."""


class Group(NamedTuple):
    """Answers that share something: (N,) marks."""

    words: str
    chosen: np.ndarray
    is_of_things: bool


def _groups(sheet: Sheet) -> Iterator[Group]:
    """The answers that share a value, for the most frequent values of every trait."""
    for trait in (*_TRAITS, *_own_traits(sheet)):
        values = np.array([trait.value_of(case) or "" for case in sheet.cases], dtype=object)
        for value, count in Counter(values.tolist()).most_common(_MOST_VALUES):
            if value and count < len(sheet):
                yield Group(trait.words.format(value), values == value, trait.is_of_things)


def _own_traits(sheet: Sheet) -> Iterator[Trait]:
    """What else the records say of themselves in words, as a source or a split."""
    names = {name: None for case in sheet.cases for name, value in case.record.extra.items() if isinstance(value, str)}
    for name in names:
        yield Trait(f"whose {name} is {{!r}}", lambda case, name=name: _text(case.record.extra.get(name)))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
