"""One pass over the base level that yields the patches of every scale.

A pixel of scale k is the mean of 2^k x 2^k base pixels. Integer sums are passed up the quadtree and divided once, so
rounding does not accumulate: a patch of any scale is the exact mean of its base pixels, rounded half up. Memory holds
one block of base pixels and one patch per level of the tree, for any slide size.

Shapes: r, c patches of a block; p tile_px.
"""

from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from data_prep.slides.grid import BLOCK_TILES, Field, Mask
from ldm.images.contact_sheet import Pixels

Sums = NDArray[np.uint32]
ReadBlock = Callable[[int, int], Pixels]
"""(row, col) of a block's first tile -> its base pixels (8 p, 8 p, 3)"""


class Patches(NamedTuple):
    """The patches of one scale in one square: `pixels` (r, c, p, p, 3), the first of them region (i, j)."""

    scale: int
    i: int
    j: int
    pixels: Pixels

    @property
    def place(self) -> tuple[slice, slice]:
        """Their slice of the scale's grid."""
        rows, cols = self.pixels.shape[:2]
        return slice(self.i, self.i + rows), slice(self.j, self.j + cols)

    @property
    def tiles(self) -> tuple[slice, slice]:
        """The slice of the base tiles under them."""
        rows, cols = (slice(part.start << self.scale, part.stop << self.scale) for part in self.place)
        return rows, cols


def field_patches(field: Field, read: ReadBlock, needed: Mask, scales: int) -> Generator[Patches, None, Sums | None]:
    """Yield the patches of the `scales` finest scales over `field`, reading each block once.

    Blocks without a `needed` base tile are skipped, and so are the patches above. Returns the sums (p, p, 3) of the
    field's coarsest patch, None when a part of it was skipped.
    """
    row, col, tiles = field
    if not needed[row : row + tiles, col : col + tiles].any():
        return None
    if tiles == BLOCK_TILES:
        return (yield from _block_patches(row, col, read(row, col), scales))
    quarters: list[Sums] = []
    for quarter in field.quarters():
        sums = yield from field_patches(quarter, read, needed, scales)
        if sums is not None:
            quarters.append(sums)
    if len(quarters) < 4:
        return None
    sums = _halve(rearrange(quarters, "(a b) h w c -> (a h) (b w) c", a=2))  # (p, p, 3)
    scale = tiles.bit_length() - 1
    if scale < scales:
        yield Patches(scale, row >> scale, col >> scale, _mean(sums, scale)[None, None])
    return sums


def _block_patches(row: int, col: int, pixels: Pixels, scales: int) -> Generator[Patches, None, Sums]:
    """The patches inside one block of base pixels (8 p, 8 p, 3); returns the sums of the coarsest one."""
    sums = pixels.astype(np.uint32)
    for scale in range(BLOCK_TILES.bit_length()):
        if scale:
            sums = _halve(sums)
        if scale < scales:
            side = BLOCK_TILES >> scale
            patches = rearrange(_mean(sums, scale), "(r p) (c q) d -> r c p q d", r=side, c=side)
            yield Patches(scale, row >> scale, col >> scale, patches)
    return sums


def _halve(sums: Sums) -> Sums:
    """(2 h, 2 w, 3) -> (h, w, 3), each the sum of 2x2."""
    rows = sums[0::2] + sums[1::2]
    return rows[:, 0::2] + rows[:, 1::2]


def _mean(sums: Sums, scale: int) -> Pixels:
    """Sums of 4^scale base pixels -> their mean, rounded half up."""
    return ((sums + (4**scale >> 1)) >> (2 * scale)).astype(np.uint8)
