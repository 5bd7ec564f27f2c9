"""Attention map: a classifier's attention over a picture of the slide, and as regions for QuPath.

Shapes: n tiles, H, W pixels.
"""

import numpy as np
from numpy.typing import NDArray

from ldm.data.bags import Bag
from ldm.images.geojson import ClassRegion

Pixels = NDArray[np.uint8]
COLD, HOT = np.array([60.0, 90, 190]), np.array([225.0, 40, 30])
VEIL = 0.55
"""opacity of the colour"""


def attention_map(
    picture: Pixels, attention: NDArray[np.floating], corners: NDArray[np.floating], side: float
) -> Pixels:
    """`picture` (H, W, 3) with its tiles coloured from COLD (no attention) to HOT (the largest attention of a tile).

    attention (n,) of square tiles of `side` pixels whose first pixels are at x, y `corners` (n, 2). Other pixels
    are unchanged.
    """
    shown = picture.astype(np.float64)
    begins, ends = (np.rint(edge).astype(int).tolist() for edge in (corners, corners + side))
    for share, (left, top), (right, bottom) in zip(attention / attention.max(), begins, ends, strict=True):
        colour = COLD + share * (HOT - COLD)
        tile = shown[top:bottom, left:right]
        tile += VEIL * (colour - tile)
    return np.rint(shown).astype(np.uint8)


HIGHEST = 0.1
"""share of the tiles that are named as those of most attention"""


def attention_regions(bag: Bag, attention: NDArray[np.floating]) -> list[ClassRegion]:
    """The tiles of a bag in pixels of full resolution, with their attention (n,) as a measurement relative to the mean;
    those with most of it have a class."""
    import shapely

    corners = bag.coords.astype(float)
    squares = shapely.box(*corners.T, *(corners + bag.side_l0).T)
    least = np.quantile(attention, 1 - HIGHEST)
    colour = (int(HOT[0]), int(HOT[1]), int(HOT[2]))
    relative = attention / attention.mean()
    return [
        ClassRegion("most attention", square, colour, {"attention": float(value)})
        if share >= least
        else ClassRegion("", square, None, {"attention": float(value)})
        for square, share, value in zip(squares, attention, relative, strict=True)
    ]
