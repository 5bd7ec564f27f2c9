"""An image as square tiles at powers of two (Deep Zoom's geometry), over the readers of `data_prep.slides`.

The last level is the image itself, pixel by pixel; k levels below, a pixel stands for 2^k x 2^k of them: their mean,
where the file has no such level of its own. Level 0 is the first that fits into one tile.

Shapes: h, w pixels. Tiles are uint8 (h, w, 3), TILE_PX a side and OVERLAP_PX of each neighbour, on the reader's
background.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
from einops import reduce
from PIL import Image

from data_prep.slides.readers import Pixels, Reader
from data_prep.slides.slide import Plane, Slide
from ldm.images.contact_sheet import on_background

TILE_PX, OVERLAP_PX = 510, 1
"""without overlap, OpenSeadragon stretches each tile by a pixel to close gaps, and the file's pixels are not shown"""
OVERVIEW_PX = 4096
"""an image whose coarsest level is larger is read once as a whole, for a level of at most this size"""
BLOCK_PX = 2048
"""side of the parts in which it is read"""


class TiledSize(NamedTuple):
    """Of a level, in pixels."""

    width: int
    height: int

    @property
    def tiles(self) -> tuple[int, int]:
        """(columns, rows)"""
        return math.ceil(self.width / TILE_PX), math.ceil(self.height / TILE_PX)


def level_sizes(width: int, height: int) -> list[TiledSize]:
    """Every level, coarsest first; halves are rounded up."""
    sizes = [TiledSize(width, height)]
    while max(sizes[0]) > TILE_PX:
        sizes.insert(0, TiledSize(*(-(-length // 2) for length in sizes[0])))
    return sizes


class Pyramid:
    """The tiles of one file, open; safe to use from several threads."""

    def __init__(self, path: Path, opened: Callable[[], Reader]) -> None:
        """`opened` opens the file, and again after damage. Raises what it raises."""
        self.reader = opened()
        self._slide = _Shown(path, "histology", _with_overview(self.reader), 1.0, "file", opened)
        self.levels = level_sizes(self.reader.extent.width, self.reader.extent.height)
        self._planes: dict[int, Plane] = {}
        self._lock = RLock()

    @property
    def size(self) -> TiledSize:
        """Of the full resolution."""
        return self.levels[-1]

    def tile(self, level: int, col: int, row: int) -> Pixels:
        """(h, w, 3). IndexError for a tile that is none of the image, UnreadableError for damage in the file."""
        if not 0 <= level < len(self.levels):
            raise IndexError(f"level {level}")
        size = self.levels[level]
        columns, rows = size.tiles
        if not (0 <= col < columns and 0 <= row < rows):
            raise IndexError(f"tile {col}, {row} of level {level}")
        left, top = (max(0, number * TILE_PX - OVERLAP_PX) for number in (col, row))
        right, bottom = (
            min(length, (number + 1) * TILE_PX + OVERLAP_PX) for number, length in zip((col, row), size, strict=True)
        )
        return self.window(level, left, top, right - left, bottom - top)

    def window(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width, 3) of a level, from (x, y) on. UnreadableError for damage in the file."""
        with self._lock:
            return self._plane(level).read(x, y, width, height)

    def _plane(self, level: int) -> Plane:
        if level not in self._planes:
            self._planes[level] = Plane(self._slide, float(2 ** (len(self.levels) - 1 - level)))
        return self._planes[level]


@dataclass
class _Shown(Slide):
    """A slide whose unit of length is its own pixel, in any format that `opened` opens."""

    opened: Callable[[], Reader]

    def reopen(self) -> None:
        self.reader = _with_overview(self.opened())


def _with_overview(reader: Reader) -> Reader:
    return _WithOverview(reader) if max(reader.sizes[-1]) > OVERVIEW_PX else reader


class _WithOverview:
    """A reader with one more level, computed from its coarsest one when it is first needed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.size_l0, self.extent, self.mpp = reader.size_l0, reader.extent, reader.mpp
        self.background, self.notes, self.place = reader.background, reader.notes, reader.place
        width, height = reader.sizes[-1]
        self._factor = 2 ** math.ceil(math.log2(max(width, height) / OVERVIEW_PX))
        self.sizes = [*reader.sizes, (-(-width // self._factor), -(-height // self._factor))]
        self._overview: Pixels | None = None

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        if level < len(self._reader.sizes):
            return self._reader.read(level, x_level, y_level, width, height)
        if self._overview is None:
            self._overview = self._shrunk()
        colours = self._overview[y_level : y_level + height, x_level : x_level + width]
        return np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])

    def _shrunk(self) -> Pixels:
        """(h, w, 3): means of factor x factor pixels, the last ones of those there are."""
        level, factor = len(self._reader.sizes) - 1, self._factor
        (width, height), (small_width, small_height) = self.sizes[-2], self.sizes[-1]
        shrunk = np.empty((small_height, small_width, 3), np.uint8)
        for y in range(0, height, BLOCK_PX):
            for x in range(0, width, BLOCK_PX):
                found = self._reader.read(level, x, y, min(BLOCK_PX, width - x), min(BLOCK_PX, height - y))
                block = on_background(found, self.background)
                h, w = (-(-length // factor) for length in block.shape[:2])
                block = np.pad(
                    block, ((0, h * factor - len(block)), (0, w * factor - block.shape[1]), (0, 0)), mode="edge"
                )
                means = reduce(block.astype(np.float32), "(h a) (w b) c -> h w c", "mean", a=factor, b=factor)
                shrunk[y // factor : y // factor + h, x // factor : x // factor + w] = means.round()
        return shrunk


def png(pixels: Pixels) -> bytes:
    """`pixels` (h, w, 3) as PNG, hardly compressed, as they do not travel far."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG", compress_level=1)
    return content.getvalue()
