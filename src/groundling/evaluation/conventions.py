"""What the numbers of an answer may count, and in which order they may stand: the tables that calibrating tries.

An example, of a red square at [40, 30, 80, 60] of a 100x68 picture: "43, 26, 91, 51" counts pixels of that picture
resized to 108x58, "400, 441, 800, 882" counts thousandths, "30, 40, 60, 80" is pixels, y before x, and
"0.40, 0.46, 0.80, 0.76" counts shares of a square of 100x100 with the picture in its middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from groundling.data.formats.chat import resize_within
from groundling.dialect.family import Budget
from groundling.evaluation.cards import SHOWN
from groundling.evaluation.grids import SIDES, STEPS
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import THOUSANDTHS, Frame

Order = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Turned = Literal["upright", "stored"]
Padding = Literal["none", "middle", "corner"]
Numbers = tuple[float, ...]

ORDERS: dict[Order, Callable[[Numbers], Numbers]] = {  # to left, top, right, bottom
    "xyxy": lambda box: box,
    "yxyx": lambda box: (box[1], box[0], box[3], box[2]),
    "xywh": lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
    "cxcywh": lambda box: (
        *(box[0] - box[2] / 2, box[1] - box[3] / 2),
        *(box[0] + box[2] / 2, box[1] + box[3] / 2),
    ),
}
POINT_ORDERS: dict[Order, str] = {"xyxy": "x y", "yxyx": "y x"}  # what a point, as a box of no size, can tell


class Counts(NamedTuple):
    """What the numbers of a text count.

    `rule` is alike for those that differ in one number only, so that one found by trying is no other convention than a
    usual one beside it.
    """

    words: str  # of MEANINGS
    frame: Callable[[Frame, Frame | None], Frame | None]  # of a picture by its size, and as it was seen; None: unknown
    rule: str
    padding: Padding = "none"  # the frame is that of a square, with the picture so in it
    least: int = 0  # of that square's side, in pixels of the picture: it is the longer side where that is more
    budget: Budget | None = None  # of pixels of the resized picture
    size: int | None = None  # of a side, found by trying

    @property
    def is_usual(self) -> bool:
        """Whether others are known to use it."""
        if self.budget:
            return (self.budget.min_pixels, self.budget.max_pixels) in KNOWN
        return self.size is None or self.size in SIDES

    @property
    def meaning(self) -> str:
        """In words."""
        return MEANINGS[self.words].format(size=self.size)

    def place(self, boxes: Boxes, size: Frame) -> Boxes:
        """Boxes of its frame on the picture, in pixels of its `size`."""
        if self.padding == "none":
            return boxes.to(size)
        whole = max(*size.size_wh, self.least)
        gaps = [(whole - side) // 2 if self.padding == "middle" else 0 for side in size.size_wh]
        return boxes.to(_square(whole)).onto(size, -gaps[0], -gaps[1])


# Sources: `seen` is Qwen2.5-VL's, thousandths Qwen2-VL's and Qwen3-VL's (`dialect/family.py`), InternVL's, GLM-4.5V's;
# fractions LFM2-VL's, percent Molmo's, 1024ths PaliGemma's, thousandths with y first Gemini's (by their vendors' code);
# the picture in the middle of a square is LLaVA-1.5's, in its corner SAM's (by their code)
COUNTS: tuple[Counts, ...] = (
    Counts("seen", lambda size, seen: seen, "seen"),
    Counts("thousandths", lambda size, seen: THOUSANDTHS, "square"),
    Counts("original", lambda size, seen: size, "at_most"),
    Counts("fractions", lambda size, seen: Frame(1, 1), "square"),
    Counts("percent", lambda size, seen: Frame(100, 100), "square"),
    Counts("1024ths", lambda size, seen: Frame(1024, 1024), "square"),
    Counts("middle_thousandths", lambda size, seen: THOUSANDTHS, "letterbox", "middle"),
    Counts("middle_fractions", lambda size, seen: Frame(1, 1), "letterbox", "middle"),
    Counts("middle_pixels", lambda size, seen: _square(max(size.size_wh)), "middle_pixels", "middle"),
    Counts("corner_thousandths", lambda size, seen: THOUSANDTHS, "longer", "corner"),
    Counts("corner_fractions", lambda size, seen: Frame(1, 1), "longer", "corner"),
)
"""What is considered beside pixels within some budget and sizes, the likelier first."""


class Sizing(NamedTuple):
    """A way to resize that leaves one size open."""

    words: str  # of MEANINGS
    frame: Callable[[Frame, int], Frame]  # of a picture by its size, and the open one
    padding: Padding = "none"
    enlarges: bool = True  # pictures that are smaller

    def counts(self, side: int) -> Counts:
        """What numbers count where the open size is `side`."""
        return Counts(
            self.words,
            lambda size, seen: self.frame(size, side),
            self.words,
            padding=self.padding,
            least=0 if self.enlarges else side,
            size=side,
        )


def _square(side: int) -> Frame:
    return Frame(side, side)


def _shrunk(size: Frame, side: int) -> Frame:
    longer = max(size.size_wh)
    return size if longer <= side else Frame(*(max(round(each * side / longer), 1) for each in size.size_wh))


SIZINGS: tuple[Sizing, ...] = (
    Sizing("square", lambda size, side: _square(side)),
    Sizing("longer", lambda size, side: _square(side), "corner"),
    Sizing("at_most", _shrunk),
    Sizing("letterbox", lambda size, side: _square(side), "middle"),
    Sizing("shrunk_middle_pixels", lambda size, side: _square(side), "middle", enlarges=False),
    Sizing("shrunk_middle_thousandths", lambda size, side: THOUSANDTHS, "middle", enlarges=False),
    Sizing("shrunk_middle_fractions", lambda size, side: Frame(1, 1), "middle", enlarges=False),
    Sizing("shrunk_corner_thousandths", lambda size, side: THOUSANDTHS, "corner", enlarges=False),
    Sizing("shrunk_corner_fractions", lambda size, side: Frame(1, 1), "corner", enlarges=False),
)
"""What leaves a size open. In the corner of a square the pixels of a picture that is never enlarged are `at_most`'s."""

_SHRUNK_IN = "a square of {size}x{size} with the picture, never enlarged, in its"
MEANINGS: dict[str, str] = {
    "seen": "pixels of the picture as it was resized",
    "thousandths": "thousandths of its sides",
    "original": "pixels of the picture itself",
    "fractions": "shares of its sides, 0 to 1",
    "percent": "hundredths of its sides",
    "1024ths": "1024ths of its sides",
    "middle_thousandths": "thousandths of a square with the picture in its middle",
    "middle_fractions": "shares, 0 to 1, of a square with the picture in its middle",
    "middle_pixels": "pixels of a square of its longer side with the picture in its middle",
    "corner_thousandths": "thousandths of its longer side",
    "corner_fractions": "shares of its longer side, 0 to 1",
    "square": "pixels of the picture stretched to {size}x{size}",
    "longer": "pixels of the picture with its longer side resized to {size}",
    "at_most": "pixels of the picture shrunk to a longer side of at most {size}",
    "letterbox": "pixels of a square of {size}x{size} with the picture in its middle",
    "shrunk_middle_pixels": f"pixels of {_SHRUNK_IN} middle",
    "shrunk_middle_thousandths": f"thousandths of {_SHRUNK_IN} middle",
    "shrunk_middle_fractions": f"shares, 0 to 1, of {_SHRUNK_IN} middle",
    "shrunk_corner_thousandths": f"thousandths of {_SHRUNK_IN} corner",
    "shrunk_corner_fractions": f"shares, 0 to 1, of {_SHRUNK_IN} corner",
}

_LONGER, _SHRUNK = "L = max(width, height)", "L = max(width, height, {size})"
_OF_SIDES = "x * width / {of}, y * height / {of}"
_OF_MIDDLE = "x * L / {of} - (L - width) / 2, y * L / {of} - (L - height) / 2, "
_OF_CORNER = "x * L / {of}, y * L / {of}, "
_SHARES_OF_MIDDLE = "x * L - (L - width) / 2, y * L - (L - height) / 2, "
_SHARES_OF_CORNER = "x * L, y * L, "
_TO_PIXELS: dict[str, tuple[str, int | None]] = {  # and how many its numbers count, where the words tell it
    "thousandths": (_OF_SIDES, 1000),
    "original": ("x, y", None),
    "fractions": ("x * width, y * height", None),
    "percent": (_OF_SIDES, 100),
    "1024ths": (_OF_SIDES, 1024),
    "middle_thousandths": (_OF_MIDDLE + _LONGER, 1000),
    "middle_fractions": (_SHARES_OF_MIDDLE + _LONGER, None),
    "middle_pixels": ("x - (L - width) / 2, y - (L - height) / 2, " + _LONGER, None),
    "corner_thousandths": (_OF_CORNER + _LONGER, 1000),
    "corner_fractions": (_SHARES_OF_CORNER + _LONGER, None),
    "square": (_OF_SIDES, None),
    "longer": (_OF_CORNER + _LONGER, None),
    "at_most": ("x * L / M, y * L / M, L = max(width, height), M = min(L, {size})", None),
    "letterbox": (_OF_MIDDLE + _LONGER, None),
    "shrunk_middle_pixels": (_OF_MIDDLE + _SHRUNK, None),
    "shrunk_middle_thousandths": (_OF_MIDDLE + _SHRUNK, 1000),
    "shrunk_middle_fractions": (_SHARES_OF_MIDDLE + _SHRUNK, None),
    "shrunk_corner_thousandths": (_OF_CORNER + _SHRUNK, 1000),
    "shrunk_corner_fractions": (_SHARES_OF_CORNER + _SHRUNK, None),
}


def write_conversion(counts: Counts) -> str | None:
    """How x and y become pixels of the picture, as a formula; None where a budget has to tell."""
    if counts.words not in _TO_PIXELS:
        return None
    formula, of = _TO_PIXELS[counts.words]
    return formula.format(of=of or counts.size, size=counts.size)


# ---- budgets and sizes that are tried --------------------------------------------------------------------------

# Of the vendor's own code and configurations (2025): sft.sh; argument.py of qwen-vl-finetune; the notebook and
# transformers' class; the published configurations of Qwen2.5-VL and of Qwen3-VL, and the latter's for detection
KNOWN: tuple[tuple[int, int], ...] = (
    (3136, 1_003_520),
    (3136, 12_845_056),
    (3136, 50_176),
    (3136, 451_584),
    (65_536, 16_777_216),
    (786_432, 13_107_200),
    (200_704, 1_003_520),
)
LEASTS = (3136, 4096, 784, 12_544, 50_176, 65_536, 200_704, 262_144, 786_432)
_SMALLEST = 4 * 32**2
LARGEST_SHOWN = max(width * height for width, height, _ in SHOWN)  # larger budgets cannot be told from each other
_COARSE, _FINE = 1.15, 1.005  # from one that is tried to the next; of a budget, that is 7 % and 0.25 % of a side

_SMALLEST_SIZE, _LARGEST_SIZE = 196, 2048


def within(budget: Budget) -> Counts:
    """Pixels of a picture that is resized within a budget."""
    return Counts("seen", lambda size, seen: resize_within(size, budget), "seen", budget=budget)


def first_budgets() -> list[Counts]:
    """Those that others use, and a ladder of budgets."""
    return [
        within(Budget(family, least, most))
        for family in STEPS
        for least, most in (*KNOWN, *((4 * family.token_side**2, most) for most in _ladder(_SMALLEST, LARGEST_SHOWN)))
    ]


def budgets_around(budget: Budget) -> list[Counts]:
    """Budgets near one, in small steps."""
    return _with_mosts(budget, _near(budget.max_pixels))


def budgets_with_mosts(budget: Budget) -> list[Counts]:
    """A budget with the whole ladder of mosts."""
    return _with_mosts(budget, _ladder(_SMALLEST, LARGEST_SHOWN))


def budgets_with_leasts(budget: Budget) -> list[Counts]:
    """A budget with every least that is tried."""
    leasts = [least for least in LEASTS if budget.family.token_side**2 <= least <= budget.max_pixels]
    return [within(Budget(budget.family, least, budget.max_pixels)) for least in leasts]


def _with_mosts(budget: Budget, mosts: Sequence[int]) -> list[Counts]:
    least = budget.min_pixels
    return [within(Budget(budget.family, least, most)) for most in mosts if most >= least]


def first_sizes() -> list[Counts]:
    """A ladder of sizes for each way to resize."""
    return [sizing.counts(side) for sizing in SIZINGS for side in _ladder(_SMALLEST_SIZE, _LARGEST_SIZE)]


def sizes_around(sizing: Sizing, size: int) -> list[Counts]:
    """Sizes near one: the usual ones, and small steps."""
    near = _near(size)
    usual = [side for side in SIDES if near[0] <= side <= near[-1]]
    return [sizing.counts(side) for side in (*usual, *near)]


def _ladder(least: int, most: int) -> list[int]:
    """From the least to what exceeds the most."""
    steps = math.ceil(math.log(most / least, _COARSE))
    return [round(least * _COARSE**number) for number in range(steps + 1)]


def _near(value: int) -> list[int]:
    """In small steps from one coarse step below to one above, in order."""
    steps = math.ceil(math.log(_COARSE, _FINE))
    return [round(value * _FINE**number) for number in range(-steps, steps + 1)]
