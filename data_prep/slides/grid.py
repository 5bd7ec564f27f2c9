"""Regions of every scale on a slide: geometry only, no pixels.

The base level is divided into tiles of `tile_px`. Fields, the coarsest regions (at least 8x8 tiles), partition the
grid; a slide's last fields are padded with background. A region (i, j) of scale k covers tiles [i 2^k, (i+1) 2^k) x [j
2^k, (j+1) 2^k), so regions nest, and one pass over the fields reads all scales.

Shapes: rows, cols base tiles; k index of a scale.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Self

import numpy as np
from einops import reduce, repeat
from numpy.typing import NDArray

from ldm.scales import Ladder

Shares = NDArray[np.float32]
Mask = NDArray[np.bool_]
BLOCK_TILES = 8
"""side of a block, the unit of reading; no field is smaller"""


class Field(NamedTuple):
    """A square of `tiles` x `tiles` base tiles whose first is (row, col)."""

    row: int
    col: int
    tiles: int

    def quarters(self) -> "list[Field]":
        """Its four quadrants, row by row."""
        half = self.tiles // 2
        return [Field(row, col, half) for row, col in product((self.row, self.row + half), (self.col, self.col + half))]


@dataclass(frozen=True)
class Grid:
    """Base tiles of a padded slide, in whole fields."""

    ladder: Ladder
    rows: int
    cols: int

    @classmethod
    def over(cls, ladder: Ladder, width: int, height: int, tile_px: int) -> Self:
        """The grid that covers `width` x `height` base pixels."""
        side = cls.field_tiles(ladder)
        rows, cols = (math.ceil(size / (tile_px * side)) * side for size in (height, width))
        return cls(ladder, rows, cols)

    @staticmethod
    def field_tiles(ladder: Ladder) -> int:
        return max(BLOCK_TILES, ladder.scales[-1].downsample)

    def fields(self) -> Iterator[Field]:
        """The fields, row by row."""
        side = self.field_tiles(self.ladder)
        for row, col in product(range(0, self.rows, side), range(0, self.cols, side)):
            yield Field(row, col, side)


def halve(values: Shares) -> Shares:
    """2x2 means over the first two axes."""
    return reduce(values, "(r a) (c b) ... -> r c ...", "mean", a=2, b=2)


def region_shares(tiles: Shares, ladder: Ladder) -> list[Shares]:
    """Share of tissue of each region of each scale, from that of the base tiles (rows, cols)."""
    shares = [tiles]
    while len(shares) < len(ladder):
        shares.append(halve(shares[-1]))
    return shares


def valid_shares(grid: Grid, extent: tuple[float, float, float, float], tile_px: int) -> Shares:
    """(rows, cols) share of each base tile that lies in `extent`: left, top, right, bottom in base pixels."""
    left, top, right, bottom = (edge / tile_px for edge in extent)
    across, down = (
        np.clip(np.minimum(end, np.arange(count) + 1) - np.maximum(start, np.arange(count)), 0, 1)
        for start, end, count in ((left, right, grid.cols), (top, bottom, grid.rows))
    )
    return np.outer(down, across).astype(np.float32)


def touched(tiles: Mask, scales: int) -> list[Mask]:
    """Which regions of each of `scales` scales have one of `tiles` under them."""
    masks = [tiles]
    while len(masks) < scales:
        masks.append(reduce(masks[-1], "(r a) (c b) -> r c", "any", a=2, b=2))
    return masks


def choose(shares: Sequence[Shares], eligible: Sequence[Mask], cap: int | None, key: tuple[int, str]) -> list[Mask]:
    """Which regions to keep: those `eligible` with any tissue, at most `cap` per scale.

    Beyond the cap, a random choice determined by `key`, (seed, slide id).
    """
    seed, slide_id = key
    kept = []
    for index, (share, mask) in enumerate(zip(shares, eligible, strict=True)):
        mask = mask & (share > 0)
        found = np.flatnonzero(mask)
        if cap is not None and len(found) > cap:
            rng = np.random.default_rng((seed, zlib.crc32(slide_id.encode()), index))
            mask = np.zeros_like(mask)
            mask.flat[rng.choice(found, cap, replace=False)] = True
        kept.append(mask)
    return kept


def needed_tiles(tiles: Shares, kept: Sequence[Mask]) -> Mask:
    """Base tiles whose pixels are needed: those with tissue, and those under a kept region."""
    wanted = tiles > 0
    for index, mask in enumerate(kept):
        wanted = wanted | repeat(mask, "r c -> (r a) (c b)", a=2**index, b=2**index)
    return wanted
