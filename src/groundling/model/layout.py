"""How a packed row is made up: samples and pictures end to end, and who sees whom.

A row's layout is told to every layer. What the layers need to know of it is worked out once, on their device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens of a packed row that see themselves, and the first `prefix` tokens of the stretch `root`.

    That is an earlier one, by its place in the row's list of stretches, which itself sees no other's prefix.
    """

    length: int
    prefix: int = 0
    root: int = 0


class Bounds(NamedTuple):
    """A packed row as kernels for sequences of many lengths take it."""

    queries: torch.Tensor  # (sequences + 1,) int32, cumulative from 0
    keys: torch.Tensor  # the same of the keys, of which a sequence may have more, those before its own queries
    longest_query: int
    longest_keys: int
    chosen: torch.Tensor | None = None  # (keys,) the tokens that are keys, in order; None: all, once


@dataclass(frozen=True)
class Layout:
    """The stretches that cover a packed row, in order."""

    stretches: Sequence[Stretch]
    _masks: dict[tuple[int, int, torch.device], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)
    _bounds: dict[torch.device, Bounds] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each stretch."""
        return [stretch.length for stretch in self.stretches]

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(self.lengths, initial=0))

    @cached_property
    def by_shape(self) -> list[list[int]]:
        """Places of the stretches that are alike in length and prefix."""
        return equal_places([(stretch.length, stretch.prefix) for stretch in self.stretches])

    def mask_behind(self, prefix: int, length: int, device: torch.device) -> torch.Tensor:
        """(length, prefix + length): each token sees the prefix, those before it and itself."""
        place = (prefix, length, device)
        if place not in self._masks:
            self._masks[place] = torch.ones(length, prefix + length, dtype=torch.bool, device=device).tril(prefix)
        return self._masks[place]

    def bounds(self, device: torch.device) -> Bounds:
        """Each stretch as a sequence, its keys behind once more those of the prefix that it sees."""
        if device not in self._bounds:
            keys = [stretch.prefix + stretch.length for stretch in self.stretches]
            self._bounds[device] = Bounds(
                queries=torch.tensor(self._starts, dtype=torch.int32, device=device),
                keys=torch.tensor([0, *accumulate(keys)], dtype=torch.int32, device=device),
                longest_query=max(self.lengths),
                longest_keys=max(keys),
                chosen=self._chosen().to(device) if any(stretch.prefix for stretch in self.stretches) else None,
            )
        return self._bounds[device]

    def _chosen(self) -> torch.Tensor:
        return torch.cat([self.seen_by(place) for place in range(len(self.stretches))])

    def seen_by(self, place: int) -> torch.Tensor:
        """Places in the row of the tokens that a stretch's last one sees, in order, itself the last."""
        stretch, starts = self.stretches[place], self._starts
        root = starts[stretch.root]
        return torch.cat([torch.arange(root, root + stretch.prefix), torch.arange(starts[place], starts[place + 1])])


def equal_places(shapes: Sequence[Hashable]) -> list[list[int]]:
    """Where each shape stands in `shapes`: places 0, 2 and place 1 for shapes a, b, a."""
    places: dict[Hashable, list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    return list(places.values())
