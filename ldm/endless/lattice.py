"""Windows at fixed places of an endless plane, and what covers an area.

    WindowLattice(side=32, stride=32, offset=16).numbers(0, 32)     # range(-1, 1): windows -1 and 0 overlap 0 to 32

Rows and columns are integers of either sign. Where windows overlap, their values are averaged with weights that fall
linearly to both sides of a window, so that they sum to one.

Shapes: s side of a window.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.errors import UserError

FARTHEST = 2**31
"""numbers of windows and blocks are below it, as they are 32 bits of a random generator's key"""


class Area(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right`, both without the last."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def grown(self, margin: int) -> "Area":
        """The area with `margin` more on every side."""
        return Area(self.top - margin, self.left - margin, self.bottom + margin, self.right + margin)

    def times(self, factor: int) -> "Area":
        """The area in units of which `factor` are one of now."""
        return Area(*(factor * edge for edge in self))

    def over(self, factor: int) -> "Area":
        """The smallest area that contains it, in units `factor` times as large."""
        return Area(self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor))

    def common(self, other: "Area") -> "Area":
        """What both contain."""
        return Area(*map(max, self[:2], other[:2]), *map(min, self[2:], other[2:]))

    def within(self, outer: "Area") -> tuple[slice, slice]:
        """Rows and columns of this area, counted from the first of `outer`."""
        return slice(self.top - outer.top, self.bottom - outer.top), slice(
            self.left - outer.left, self.right - outer.left
        )


@dataclass(frozen=True)
class WindowLattice:
    """Windows of `side`, every `stride` (at most `side`), shifted by `offset` on both axes."""

    side: int
    stride: int
    offset: int = 0

    def numbers(self, start: int, stop: int) -> range:
        """Numbers of the windows that overlap `start` to `stop` on an axis. UserError beyond FARTHEST."""
        first = (start - self.offset - self.side) // self.stride + 1
        last = (stop - 1 - self.offset) // self.stride
        if first < -FARTHEST or last >= FARTHEST:
            far = FARTHEST * self.stride
            raise UserError(f"world: latents {start} to {stop}; expected places between {-far} and {far}")
        return range(first, last + 1)

    def covering(self, area: Area) -> list[tuple[int, int]]:
        """(row, column) of the windows that overlap an area, row by row."""
        columns = self.numbers(area.left, area.right)
        return [(i, j) for i in self.numbers(area.top, area.bottom) for j in columns]

    def area(self, row: int, col: int) -> Area:
        """The place of a window."""
        top, left = (number * self.stride + self.offset for number in (row, col))
        return Area(top, left, top + self.side, left + self.side)

    def weight(self) -> Tensor:
        """(s, s) weight of a window's latents; those of all windows at a latent sum to one where at most two overlap
        along an axis."""
        overlap = self.side - self.stride
        axis = torch.ones(self.side)
        if overlap:
            ramp = (torch.arange(overlap) + 0.5) / overlap
            axis[:overlap] = ramp
            axis[-overlap:] = torch.minimum(axis[-overlap:], ramp.flip(0))
        return axis[:, None] * axis


def key_of(number: int) -> int:
    """A number of either sign as 32 bits, for a random generator's key; numbers from 0 on are their own."""
    return number % (2 * FARTHEST)
