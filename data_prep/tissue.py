"""Foreground of a slide, from a thumbnail of 8x8 pixels per base tile.

Histology: Otsu's threshold (1979) on saturation finds stain; it is kept between two bounds so that an empty slide has
no tissue and a full one no holes, and grey levels guard against pen and shadow. Satellite: everything but nodata.
"""

from collections.abc import Callable

import numpy as np
from einops import reduce
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.slide import Pixels, Plane

PER_TILE = 8
"""thumbnail pixels per base tile side"""
READ_PX = 512
SATURATION = (12, 40)
"""bounds of the threshold, of 255"""
DARKEST = 30
"""the brightest channel of ink and of the slide's edge is below this"""
CLOSING_PX = 2
SPECK_PX = 16
"""smallest piece of tissue"""


def foreground(thumbnail: Pixels) -> NDArray[np.bool_]:
    """Tissue of an H&E thumbnail (h, w, 3) -> (h, w)."""
    smooth = ndimage.median_filter(thumbnail, (3, 3, 1))
    brightest = smooth.max(-1)
    saturation = brightest - smooth.min(-1)
    mask = (saturation > np.clip(otsu(saturation), *SATURATION)) & (brightest > DARKEST)
    mask = ndimage.binary_closing(np.pad(mask, CLOSING_PX), iterations=CLOSING_PX)
    mask = mask[CLOSING_PX:-CLOSING_PX, CLOSING_PX:-CLOSING_PX]
    pieces, count = ndimage.label(mask)
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= SPECK_PX
    return mask & large[pieces]


def otsu(values: Pixels) -> int:
    """The threshold that separates `values` into two classes of least variance; values above it are the upper one."""
    share = np.bincount(values.ravel(), minlength=256) / values.size
    below = share.cumsum()
    mean = (share * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * below - mean) ** 2 / (below * (1 - below))
    return int(np.nan_to_num(between, posinf=0).argmax())


def read_mask(plane: Plane, kind: str, rows: int, cols: int) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """Foreground of (rows, cols) base tiles as (8 rows, 8 cols), and the colour of what is not.

    `plane` has 8 pixels to a base tile.
    """
    if kind == "satellite":
        return _thumbnail(plane.coverage, rows * PER_TILE, cols * PER_TILE) > 127, plane.slide.reader.background
    thumbnail = _thumbnail(plane.read, rows * PER_TILE, cols * PER_TILE)
    mask = foreground(thumbnail)
    if mask.all():
        return mask, plane.slide.reader.background
    red, green, blue = np.median(thumbnail[~mask], axis=0).astype(int).tolist()
    return mask, (red, green, blue)


def _thumbnail(read: Callable[[int, int, int, int], Pixels], height: int, width: int) -> Pixels:
    """Read (height, width) in pieces, so that a slide without levels stays small in memory."""
    bands = []
    for y in range(0, height, READ_PX):
        size = min(READ_PX, height - y)
        bands.append(np.concatenate([read(x, y, min(READ_PX, width - x), size) for x in range(0, width, READ_PX)], 1))
    return np.concatenate(bands)


def tile_shares(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Share of foreground of each base tile, (8 rows, 8 cols) -> (rows, cols)."""
    return reduce(mask.astype(np.float32), "(r a) (c b) -> r c", "mean", a=PER_TILE, b=PER_TILE)
