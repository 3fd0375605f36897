"""Which systematic mistake, if any, the answers show: all that is known is tried, and little is believed.

A mistake is named where undoing it makes the answers worth clearly more, measured in pairs over the same answers and
over what chance gains: the same boxes, held against the truths of other records. A weak model's wrong boxes gain
nothing but chance, and a right model's boxes lose; a mistake is found though half of the answers are simply wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from groundling.evaluation.fits import fitted
from groundling.evaluation.grids import FITTED, ORDERS, known_grids
from groundling.evaluation.sheet import Sheet, shuffled
from groundling.evaluation.undo import NOTHING, Undo, turned_ways

FEWEST = 10  # answers; below that nothing systematic can be told from chance
HIT = 0.5  # a value that counts as right

_SEARCHED = 200  # answers that all is tried on
_FINALISTS = 40  # that are tried on all
_SHUFFLES = 4
_AS_GOOD = 2.5  # standard errors of the paired difference: within them the simpler is believed
_ALIKE = 0.003  # of value, or as near as that

# What it takes to name a mistake
_LEAST_GAIN = 0.02  # of mean value, over what chance gains
_SURE = 3.5  # standard errors
LEAST_GAIN_FREE, _SURE_FREE = 0.05, 5.0  # the same where a size, or scale and offset, are free
_CHANCE = 1e-6  # probability of so many hits by chance; some thousand mistakes are tried
_LEAST_HITS = 0.15  # of the answers, undone
_FITTED = ("xyxy", "yxyx", "xywh")  # orders that sizes are fitted for
_GOOD_ALREADY = 0.5  # mean value: so much is explained that a size can only be a little off, in the same order


class Evidence(NamedTuple):
    """N answers as they are and with a mistake undone; shares of them that hit, and median values."""

    n: int
    before: float
    after: float
    value_before: float
    value_after: float
    explained: int  # answers that hit undone, and are worth more than they were
    chance: float  # share that hits undone, held against other records
    gain: float  # of mean value, over what chance gains
    sure: float  # the same in standard errors

    def is_clear(self, *, is_fitted: bool) -> bool:
        """Whether it is more than noise, chance and search can bring about; more is asked of what was fitted."""
        hits = round(self.after * self.n)
        return (
            self.n >= FEWEST
            and self.gain >= (LEAST_GAIN_FREE if is_fitted else _LEAST_GAIN)
            and self.sure >= (_SURE_FREE if is_fitted else _SURE)
            and self.after >= _LEAST_HITS
            and float(binom.sf(hits - 1, self.n, self.chance)) < _CHANCE
        )


class Suspect(NamedTuple):
    """A mistake that the answers show."""

    undo: Undo
    evidence: Evidence


def find_suspect(sheet: Sheet, *, seed: int = 0) -> Suspect | None:
    """The simplest of the mistakes that explain most of the answers; None where none is clear."""
    if len(sheet) < FEWEST:
        return None
    part = sheet
    if len(sheet) > _SEARCHED:
        part = sheet.part(np.random.default_rng(seed).choice(len(sheet), _SEARCHED, replace=False))
    listed = distinct(part, _listed(part))
    best_undo, best_values = max(listed, key=lambda pair: pair[1].mean())
    orders = (best_undo.order,) if best_values.mean() >= _GOOD_ALREADY else _FITTED
    tried = [*listed, *distinct(part, fitted(part, orders, seed))]
    finalists = [undo for undo, _ in sorted(tried, key=lambda pair: -pair[1].mean())[:_FINALISTS]]
    undos = [NOTHING, *finalists]
    best = undos[simplest(undos, np.array([sheet.values(undo.place(sheet)) for undo in undos]))]
    if best.is_nothing:
        return None
    evidence = weigh(sheet, NOTHING, best)
    return Suspect(best, evidence) if evidence.is_clear(is_fitted=best.grid.kind in FITTED) else None


def _listed(sheet: Sheet) -> Iterator[Undo]:
    for order in ORDERS:
        yield from (Undo(order, grid) for grid in known_grids(sheet, order))
    yield from turned_ways()


def distinct(sheet: Sheet, suspects: Iterable[Undo]) -> list[tuple[Undo, np.ndarray]]:
    """Each with its values; of those that come to the same, the one that is believed most readily."""
    found: dict[bytes, tuple[Undo, np.ndarray]] = {}
    for undo in sorted(suspects, key=lambda undo: undo.cost):
        values = sheet.values(undo.place(sheet))
        found.setdefault(values.round(9).tobytes(), (undo, values))
    return list(found.values())


def simplest(undos: Sequence[Undo], values: np.ndarray) -> int:
    """The place of the one that is believed most readily of those as good as the best; the first is to undo nothing.

    `values`, (S, N), are what the answers are worth with each.
    """
    differences = values[values.mean(axis=1).argmax()] - values
    errors = differences.std(axis=1) / np.sqrt(values.shape[1])
    as_good = differences.mean(axis=1) <= np.maximum(_AS_GOOD * errors, _ALIKE)
    return min(
        np.flatnonzero(as_good).tolist(), key=lambda place: (place > 0, undos[place].cost, -values[place].mean())
    )


def weigh(sheet: Sheet, before: Undo, after: Undo, chosen: np.ndarray | None = None) -> Evidence:
    """What undoing `after` rather than `before` does to the answers; to the `chosen` (N,) of them alone."""
    kept = np.ones(len(sheet), dtype=bool) if chosen is None else chosen
    old, new = (sheet.values(undo.place(sheet))[kept] for undo in (before, after))
    others = [shuffled(sheet, seed) for seed in range(_SHUFFLES)]
    old_chance, new_chance = (
        np.mean([other.values(undo.place(other))[kept] for other in others], axis=0) for undo in (before, after)
    )
    gains = (new - old) - (new_chance - old_chance)
    hits = sum(float((other.values(after.place(other))[kept] >= HIT).sum()) for other in others)
    count = int(kept.sum())
    error = gains.std() / np.sqrt(count) if count else 0.0
    gain = float(gains.mean()) if count else 0.0
    return Evidence(
        n=count,
        before=float((old >= HIT).mean()) if count else 0.0,
        after=float((new >= HIT).mean()) if count else 0.0,
        value_before=float(np.median(old)) if count else 0.0,
        value_after=float(np.median(new)) if count else 0.0,
        explained=int(((new >= HIT) & (new > old)).sum()),
        chance=(hits + 1) / (count * _SHUFFLES + 1),
        gain=gain,
        sure=gain / max(float(error), 1e-9),
    )


def weigh_chance(sheet: Sheet) -> float:
    """By how many standard errors the answers, as they are, are worth more than boxes of other questions."""
    placed = NOTHING.place(sheet)
    chance = np.mean([shuffled(sheet, seed).values(placed) for seed in range(_SHUFFLES)], axis=0)
    gains = sheet.values(placed) - chance
    return float(gains.mean() / max(gains.std() / np.sqrt(len(sheet)), 1e-9))
