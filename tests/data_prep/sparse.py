"""Slides of any size that are mostly empty: no tile is stored where there is nothing, as scanners do it."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from ldm.images.pyramid_tiff import halve

GLASS = 243
TILE_PX = 256


def write_sparse_slide(path: Path, side: int, island: NDArray[np.uint8], places: Sequence[tuple[int, int]]) -> Path:
    """A pyramidal BigTIFF of `side` px at 0.5 um with `island` (h, w, 3) at `places` (x, y); no other tile is stored.

    Places are multiples of 256 px at every level on which an island is larger than a tile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = [side]
    while sides[-1] > TILE_PX:
        sides.append(-(-sides[-1] // 2))
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, side_level in enumerate(sides):
            corners = [(x >> level, y >> level) for x, y in places]
            tiff.write(
                _sparse_tiles(side_level, island, corners),
                shape=(side_level, side_level, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                subsampling=(1, 1),
                compression="jpeg",
                resolution=(2e4 / 2**level, 2e4 / 2**level),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )
            island = halve(island)
    return path


def _sparse_tiles(side: int, island: NDArray[np.uint8], corners: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """The tiles of one level, row by row, as JPEG; nothing where there is no island."""
    height, width = island.shape[:2]
    known: dict[tuple[int, int], bytes] = {}
    for top, left in product(range(0, side, TILE_PX), repeat=2):
        canvas = np.full((TILE_PX, TILE_PX, 3), GLASS, np.uint8)
        here = [(left - x, top - y) for x, y in corners if _meets(left - x, width) and _meets(top - y, height)]
        if len(here) == 1 and here[0] in known:
            yield known[here[0]]
            continue
        for x, y in here:
            part = island[max(0, y) : y + TILE_PX, max(0, x) : x + TILE_PX]
            canvas[max(0, -y) :, max(0, -x) :][: part.shape[0], : part.shape[1]] = part
        jpeg = b""
        if here:
            options: dict[str, Any] = {"colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": (1, 1)}
            jpeg = bytes(imagecodecs.jpeg8_encode(canvas, level=90, **options))
        if len(here) == 1:
            known[here[0]] = jpeg
        yield jpeg


def _meets(offset: int, length: int) -> bool:
    return -TILE_PX < offset < length
