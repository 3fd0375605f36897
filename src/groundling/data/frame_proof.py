"""What the numbers of a text may count: each known frame held against all that a source names.

A frame is impossible where a box leaves it. It is proven where it has room for all, each other one is left by more than
a few stray boxes, and the boxes reach its borders: small boxes in one corner fit every frame and prove none. A frame of
pixels must also be closer than a budget that is not listed, a tenth smaller. An example, a 640x428 picture and the box
[228, 320, 961, 970]: no pixel of the picture is at 961, so it counts thousandths (numbers from the vendor's
process_bbox notebook, 2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from groundling.data.formats.chat import Unplaced, declared_frame
from groundling.data.formats.detection import FRACTIONS
from groundling.data.formats.found import TextFrame
from groundling.dialect.answer import is_outside
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame

# The budgets that the vendor's own code resizes within: sft.sh, argument.py of qwen-vl-finetune, the notebook and
# transformers' class, the published configuration (all 2025)
CANDIDATES = (
    "original",
    "thousandths",
    "fractions",
    "resized:50176",
    "resized:451584",
    "resized:1003520",
    "resized:12845056",
)
"""The frames that are considered, in the words of `declared_frame`."""

# When a frame is ruled out for good: fewer boxes than that may be mistakes
_FEWEST = 3
_STRAY = 0.01  # of all boxes

_REACH = 0.95  # of each side: where the boxes stop short of that, they may count in a smaller frame that is not listed
_SMALLER = 0.9  # of a budget: what is still told from it, about 5 % of each side


class Fit(NamedTuple):
    """How one frame fits what a source names."""

    words: tuple[str, ...]  # of `declared_frame`; several where they are one and the same on these pictures
    fits: int  # boxes and points inside it
    leaves: int  # and outside, or too small for it
    reach_wh: tuple[float, float]  # how far any inside reaches, in shares of the frame's width and height

    @property
    def is_possible(self) -> bool:
        """Whether nothing contradicts it."""
        return self.leaves == 0


class Proof(NamedTuple):
    """The only frame that is possible."""

    words: str
    boxes: int  # and points, all of them inside it
    against: int  # how many of them leave the frame that fits best beside it

    @property
    def note(self) -> str:
        """What a user is told."""
        meaning = _MEANINGS.get(self.words, f"pixels of the resized picture ({self.words})")
        return (
            f"the numbers count {meaning}: proven by its {self.boxes} boxes, all of which fit, "
            f"and at least {self.against} of which leave each other frame"
        )


_MEANINGS = {
    "original": "pixels of the picture itself (original)",
    "thousandths": "thousandths of its sides (thousandths)",
    "fractions": "shares of its sides, 0 to 1 (fractions)",
}


@dataclass(frozen=True)
class FrameFits:
    """How every candidate fits, and by how many boxes it is told."""

    fits: tuple[Fit, ...]
    boxes: int  # and points, those out of order left out

    def prove(self) -> Proof | None:
        """The frame that is proven; None where several are possible, or none, or too little speaks for it."""
        possible = [fit for fit in self.fits if fit.is_possible]
        if len(possible) != 1 or min(possible[0].reach_wh) < _REACH:
            return None
        against = min((fit.leaves for fit in self.fits if not fit.is_possible), default=0)
        if against < max(_FEWEST, _STRAY * self.boxes):
            return None
        return Proof(possible[0].words[0], self.boxes, against)

    def as_lines(self) -> list[str]:
        """One line a candidate, the possible ones first."""
        ordered = sorted(self.fits, key=lambda fit: (fit.leaves, -min(fit.reach_wh)))
        return [f"{' = '.join(fit.words)}: {self._describe(fit)}" for fit in ordered]

    def _describe(self, fit: Fit) -> str:
        if not fit.is_possible:
            return f"impossible, {fit.leaves} of {self.boxes} boxes leave it or are too small for it"
        width, height = fit.reach_wh
        return f"possible, the boxes reach {width:.0%} of its width and {height:.0%} of its height"


def possible_frames(named: Iterable[Unplaced]) -> FrameFits:
    """How each candidate fits all the boxes and points of a source; those with corners out of order tell nothing."""
    tallies = {words: _Tally(declared_frame(words)) for words in CANDIDATES}
    originals: set[Frame] = set()
    boxes = 0
    for each in named:
        originals.add(each.original)
        frames = {words: tally.frame(each.original) for words, tally in tallies.items()}
        for numbers in (item.numbers for item in each.items if _is_in_order(item.numbers)):
            boxes += 1
            for words, tally in tallies.items():
                tally.count_(numbers, frames[words])
    groups = _alike(tallies, originals)
    return FrameFits(tuple(tallies[words[0]].as_fit(words) for words in groups), boxes)


def prove_frame(named: Sequence[Unplaced], format: str) -> Proof:
    """The frame of a source's numbers, where they prove one. SettingsError with what is possible otherwise."""
    found = possible_frames(named)
    proof = found.prove()
    if proof is not None and _excludes_smaller(proof, named):
        return proof
    cure = "declare it: --frame original, thousandths or resized:PIXELS (or fractions, of 0 to 1)"
    if not found.boxes:
        raise SettingsError(f"{format} does not say what its numbers count, and no box in it could prove it; {cure}")
    lines = "".join(f"\n  {line}" for line in found.as_lines())
    raise SettingsError(
        f"{format} does not say what its numbers count, and its {found.boxes} boxes do not prove it; {cure}.{lines}"
    )


class _Tally:
    """What one candidate has room for, counted box by box."""

    def __init__(self, frame: TextFrame) -> None:
        self.frame = frame
        self.fits = self.leaves = 0
        self.reach_wh = (0.0, 0.0)

    def count_(self, numbers: Sequence[float], frame: Frame) -> None:
        """One box or point more, on a picture of which the candidate is this frame."""
        if not _has_room(numbers, frame):
            self.leaves += 1
            return
        self.fits += 1
        width, height = self.reach_wh
        self.reach_wh = max(width, numbers[-2] / frame.width), max(height, numbers[-1] / frame.height)

    def as_fit(self, words: tuple[str, ...]) -> Fit:
        """The sums, under these words."""
        return Fit(words, self.fits, self.leaves, self.reach_wh)


def _excludes_smaller(proof: Proof, named: Sequence[Unplaced]) -> bool:
    """Whether the boxes also leave the frame of a budget a tenth smaller, which is not listed; shares have none."""
    if proof.words in ("thousandths", "fractions"):
        return True
    largest = max(each.original.area for each in named)
    budget = largest if proof.words == "original" else min(largest, int(proof.words.partition(":")[2]))
    smaller = _Tally(declared_frame(f"resized:{math.floor(_SMALLER * budget)}"))
    for each in named:
        for item in each.items:
            smaller.count_(item.numbers, smaller.frame(each.original))
    return smaller.leaves >= _FEWEST


def _alike(tallies: dict[str, _Tally], originals: set[Frame]) -> list[tuple[str, ...]]:
    """The candidates, in groups that give the same frame for each of these pictures."""
    groups: dict[tuple[Frame, ...], list[str]] = {}
    pictures = list(originals)
    for words, tally in tallies.items():
        groups.setdefault(tuple(tally.frame(original) for original in pictures), []).append(words)
    return [tuple(words) for words in groups.values()]


def _is_in_order(numbers: Sequence[float]) -> bool:
    return len(numbers) == 2 or (numbers[0] < numbers[2] and numbers[1] < numbers[3])


def _has_room(numbers: Sequence[float], frame: Frame) -> bool:
    """Whether a box or point lies inside; a box of less than one unit a side is none that was written in such units."""
    if is_outside(numbers, frame):
        return False
    is_speck = len(numbers) == 4 and max(numbers[2] - numbers[0], numbers[3] - numbers[1]) < 1
    return frame == FRACTIONS or not is_speck
