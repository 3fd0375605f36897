"""A frame: the pixel grid that a coordinate counts in.

One photograph has several: its own upright pixels (`original`), the grid it was resized to for the model (`seen`), and
the 0..1000 grid that some model families write. All cover the same picture, so a point moves between them by scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groundling.errors import FrameError

SWAPS_SIDES = (5, 6, 7, 8)  # EXIF 2.3, section 4.6.4 A: where row 0 of the stored picture is the left or right side


@dataclass(frozen=True)
class Frame:
    """A picture's size as the units of its coordinates: x runs 0..width to the right, y 0..height down."""

    width: int
    height: int

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if type(side) is not int or side < 1:  # a bool is an int too, but no size
                raise FrameError(f"a frame's {name} is an int of at least 1, not {side!r}")

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width, height: the order of PIL's `Image.size`."""
        return self.width, self.height

    @property
    def area(self) -> int:
        """Width times height, in the frame's own units squared."""
        return self.width * self.height

    def turned(self, orientation: int) -> Frame:
        """The frame of the picture once it is turned as its EXIF orientation, 1 to 8, says; FrameError for another."""
        if orientation not in range(1, 9):
            raise FrameError(f"an orientation is 1 to 8, as in EXIF, not {orientation!r}")
        return Frame(self.height, self.width) if orientation in SWAPS_SIDES else self

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


THOUSANDTHS = Frame(1000, 1000)  # Qwen2-VL's and Qwen3-VL's grid: x / width * 1000, whatever the resize


def seen_frame(grid: Sequence[int], patch_side: int) -> Frame:
    """The picture as the model saw it, from the processor's own (time, rows, columns) grid of patches."""
    _, rows, columns = (int(count) for count in grid)
    return Frame(width=columns * patch_side, height=rows * patch_side)
