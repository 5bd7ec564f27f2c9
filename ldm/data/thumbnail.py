"""Thumbnail of a prepared slide, assembled from its regions."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ldm.data.h5 import SlideFile
from ldm.scales import Scale

Pixels = NDArray[np.uint8]
Pictures = Callable[[SlideFile, str, Sequence[int]], Sequence[Pixels]]
"""images of regions, by scale and rows"""
LONGEST_PX = 1024
BLANK = 255


def thumbnail(slide: SlideFile, pictures: Pictures) -> tuple[Pixels, float]:
    """Thumbnail (H, W, 3), at most LONGEST_PX long where the ladder allows, and its full-resolution pixels per pixel.

    Assembled from the `pictures` of the finest scale that fits.
    """
    rows, cols = slide.grid
    tile_px = int(slide.attrs["tile_px"])
    scale = _fitting(slide, max(rows, cols) * tile_px)
    height, width = (length * tile_px // scale.downsample for length in (rows, cols))
    canvas = np.full((height, width, 3), BLANK, np.uint8)
    for row, (i, j) in enumerate((slide.ij(scale.name) * tile_px).tolist()):
        canvas[i : i + tile_px, j : j + tile_px] = pictures(slide, scale.name, [row])[0]
    return canvas, scale.downsample * slide.base_l0


def _fitting(slide: SlideFile, base_px: int) -> Scale:
    """The finest scale at which `base_px` base pixels are at most LONGEST_PX, or the coarsest."""
    return next((scale for scale in slide.ladder if base_px <= LONGEST_PX * scale.downsample), slide.ladder.scales[-1])
