"""A tiled pyramidal TIFF for OpenSlide and QuPath, written in bands of rows.

Rows are buffered until they fill a row of tiles. The tiles are stored as JPEG in one temporary file per level, and
their 2x2 means are the rows of the next level. After the last row, tifffile assembles the levels. Memory: 4/3 of a row
of tiles; disk space: at most twice the file.

Shapes: h, w pixels. Images and bands are uint8 (h, w, 3), sRGB.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels, check_band, check_image
from ldm.support.files import atomic_write, report_disk_full

UM_PER_CM = 1e4
JPEG_QUALITY = 90
CLASSIC_BYTES = 4_000_000_000
"""most bytes of tiles in a classic TIFF, whose offsets, tables included, end at 2^32"""


def halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rounded 2x2 means of `image` (h, w, bands); an odd last row or column is repeated first."""
    h, w = image.shape[:2]
    even = np.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    even = even.astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)  # (h/2, w/2, bands)


def level_sizes(height: int, width: int, tile_px: int) -> list[tuple[int, int]]:
    """(h, w) of an image and of its halves, down to the first that is no taller or no wider than one tile."""
    sizes = [(height, width)]
    while min(sizes[-1]) > tile_px:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def write_pyramid(path: str | Path, image: Pixels, mpp: float, tile_px: int = 256) -> None:
    """Write a complete `image` (h, w, 3). UserError as `PyramidWriter`."""
    check_image(image, str(path))
    height, width = image.shape[:2]
    with PyramidWriter(path, height, width, mpp, tile_px) as writer:
        writer.write(image)


class PyramidWriter:
    """Writes an image of known size from top to bottom; the file appears once its last row has been written.

        with PyramidWriter("slide.tiff", height, width, mpp=0.5) as writer:
            for band in bands:
                writer.write(band)

    Levels are 2x2 means, JPEG quality 90 without chroma subsampling; um per pixel stands in the resolution tags. It is
    a BigTIFF when a classic one could not hold it. A full disk raises UserError, and no files are left.
    """

    def __init__(self, path: str | Path, height: int, width: int, mpp: float, tile_px: int = 256) -> None:
        """`mpp`: um per pixel (1 m is 1e6 um). UserError for a size, resolution or tile size that TIFF lacks."""
        if min(height, width) < 1:
            raise UserError(f"{path}: {width}x{height} px; expected at least 1x1")
        if not 0 < mpp < float("inf"):
            raise UserError(f"{path}: mpp is {mpp}; expected um per pixel above 0, for example 0.5")
        if tile_px < 16 or tile_px % 16:
            raise UserError(f"{path}: tile_px is {tile_px}; expected a positive multiple of 16, for example 256")
        self.path, self.mpp, self.tile_px = Path(path), mpp, tile_px
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.levels: list[_Level] = []
        for size in reversed(level_sizes(height, width, tile_px)):
            self.levels.insert(0, _Level(self.path.parent, size, tile_px, self.levels[0] if self.levels else None))

    def __enter__(self) -> Self:
        return self

    def write(self, band: Pixels) -> None:
        """The next rows, uint8 (rows, width, 3), any number of them. UserError for another type, width or too many."""
        finest = self.levels[0]
        check_band(self.path, band, finest.received + len(band), finest.height, finest.width)
        with report_disk_full(self.path, self._needed):
            finest.write(band)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Assemble the file unless the body failed. UserError when rows are missing."""
        with ExitStack() as stack:
            for level in self.levels:
                stack.callback(level.close)
            if kind is None:
                finest = self.levels[0]
                if finest.received < finest.height:
                    raise UserError(f"{self.path}: {finest.received} rows written; expected {finest.height}")
                with atomic_write(self.path, self._needed) as temporary:
                    self._assemble(temporary)

    def _assemble(self, temporary: Path) -> None:
        import tifffile

        big = sum(sum(level.sizes) for level in self.levels) > CLASSIC_BYTES
        with tifffile.TiffWriter(temporary, bigtiff=big) as tiff:
            for index, level in enumerate(self.levels):
                per_cm = UM_PER_CM / (self.mpp * 2**index)
                tiff.write(
                    level.tiles(),
                    shape=(level.height, level.width, 3),
                    dtype=np.uint8,
                    tile=(self.tile_px, self.tile_px),
                    photometric="rgb",
                    subsampling=(1, 1),
                    compression="jpeg",
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=1 if index else 0,
                    metadata=None,
                )
                level.close()

    def _needed(self) -> int:
        """Bytes on disk, with temporary files."""
        return 2 * sum(level.expected_bytes() for level in self.levels)


class _Level:
    """One resolution: rows that do not fill a row of tiles yet, and the finished tiles."""

    def __init__(self, folder: Path, size: tuple[int, int], tile_px: int, below: "_Level | None") -> None:
        self.height, self.width = size
        self.tile_px, self.below = tile_px, below
        self.rows = np.empty((tile_px, self.width, 3), np.uint8)
        self.waiting = self.received = 0
        self.sizes: list[int] = []
        """size of each tile in bytes, in file order"""
        self.file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (its writer closes it)

    def write(self, band: Pixels) -> None:
        while len(band):
            taken, band = np.split(band, [self.tile_px - self.waiting])
            self.rows[self.waiting : self.waiting + len(taken)] = taken
            self.waiting += len(taken)
            self.received += len(taken)
            if self.waiting == self.tile_px or self.received == self.height:
                self._encode(self.rows[: self.waiting])
                self.waiting = 0

    def _encode(self, rows: Pixels) -> None:
        import imagecodecs

        for left in range(0, self.width, self.tile_px):
            tile = rows[:, left : left + self.tile_px]
            missing = [(0, self.tile_px - side) for side in tile.shape[:2]]
            jpeg = imagecodecs.jpeg8_encode(
                np.pad(tile, (*missing, (0, 0)), mode="edge"),
                level=JPEG_QUALITY,
                colorspace="RGB",
                outcolorspace="YCBCR",
                subsampling=(1, 1),
            )
            self.sizes.append(len(jpeg))
            self.file.write(jpeg)
        if self.below is not None:
            self.below.write(halve(rows))

    def tiles(self) -> Iterator[bytes]:
        """The tiles, row by row, as JPEG."""
        self.file.seek(0)
        for size in self.sizes:
            yield self.file.read(size)

    def expected_bytes(self) -> int:
        """Estimated bytes of all tiles, from the mean size so far."""
        tiles = -(-self.height // self.tile_px) * -(-self.width // self.tile_px)
        return tiles * sum(self.sizes) // max(1, len(self.sizes))

    def close(self) -> None:
        """Remove the temporary file, also after a failed write."""
        with suppress(OSError):
            self.file.close()
