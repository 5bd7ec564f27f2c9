"""Foreground of a slide, from a thumbnail of 8x8 pixels per base tile.

Histology: Otsu's threshold (1979) on the saturation relative to the slide's glass finds stain; it is limited to a
range, so that an empty slide has no tissue and a full one no holes. Scratches, dust, shadows and edges are grey, and
small. Ink is recognised by its hue in optical density, where the ratios of the channels do not depend on thickness
(Beer-Lambert): haematoxylin, eosin and DAB absorb more green than red; blue, green and black ink absorb more red; red
ink absorbs hardly any red, and blue as much as green. Satellite: everything but nodata.
"""

from typing import NamedTuple

import numpy as np
from einops import reduce, repeat
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.slides.readers import Pixels
from data_prep.slides.slide import Plane, Read, read_with_recovery

PER_TILE = 8
"""thumbnail pixels per base tile side"""
READ_PX = 2048
"""side in pixels of the part of a level that is read at a time"""
GLASS = 200
"""all channels of glass are above this"""
SATURATION = (12, 25)
"""bounds of the threshold, of 255"""
DARKEST = 30
"""all channels of black ink and of the slide's edge are below this"""
INK_DENSITY = 0.1
"""least optical density to determine a hue"""
COLD_INK = 1.2
"""least ratio of red to green density of blue, green and black ink; haematoxylin has 0.93 (Ruifrok, Johnston 2001)"""
RED_INK = (0.25, 0.75)
"""red ink: largest ratio of red to green density, and least of blue to green; eosin has 0.07 and 0.11, DAB 0.47
and 1.4"""
HALO_PX = 2
"""margin around ink, which has soft edges"""
CLOSING_PX = 2
SPECK_PX = 16
"""least size of a piece of tissue, and of an ink mark"""


def foreground(thumbnail: Pixels) -> NDArray[np.bool_]:
    """Tissue mask of an H&E or IHC thumbnail (h, w, 3) -> (h, w)."""
    smooth = ndimage.median_filter(thumbnail, (3, 3, 1))
    balanced = _on_white(smooth)
    brightest = balanced.max(-1)
    saturation = brightest - balanced.min(-1)
    stained = (saturation > np.clip(otsu(saturation), *SATURATION)) & (brightest > DARKEST)
    marks = ndimage.binary_dilation(_large(ink(balanced)), iterations=HALO_PX)
    mask = ndimage.binary_closing(np.pad(stained & ~marks, CLOSING_PX), iterations=CLOSING_PX)
    return _large(mask[CLOSING_PX:-CLOSING_PX, CLOSING_PX:-CLOSING_PX] & ~marks)


def ink(balanced: Pixels) -> NDArray[np.bool_]:
    """Mask of pen marks by hue, for (h, w, 3) with white glass."""
    red, green, blue = np.moveaxis(-np.log10((balanced + 1.0) / 256), -1, 0)
    cold = (red > INK_DENSITY) & (red > COLD_INK * green)
    most_red, least_blue = RED_INK
    return cold | ((green > INK_DENSITY) & (red < most_red * green) & (blue > least_blue * green))


def _on_white(pixels: Pixels) -> Pixels:
    """Colours normalised to white glass."""
    glass = pixels[pixels.min(-1) > GLASS]
    if not len(glass):
        return pixels
    return np.clip(pixels * (255 / np.median(glass, axis=0)), 0, 255).astype(np.uint8)


def _large(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected components of at least SPECK_PX pixels."""
    pieces, count = ndimage.label(mask)
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= SPECK_PX
    return mask & large[pieces]


def otsu(values: Pixels) -> int:
    """Otsu's threshold: minimises the variance within the two classes; values above it are the upper class."""
    share = np.bincount(values.ravel(), minlength=256) / values.size
    below = share.cumsum()
    mean = (share * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * below - mean) ** 2 / (below * (1 - below))
    return int(np.nan_to_num(between, posinf=0).argmax())


class Foreground(NamedTuple):
    """Foreground of (rows, cols) base tiles, from a thumbnail."""

    mask: NDArray[np.bool_]
    """(8 rows, 8 cols)"""
    background: tuple[int, int, int]
    """colour of the background"""
    lost: NDArray[np.bool_]
    """(rows, cols) base tiles that could not be read"""
    thumbnail: Pixels
    """(8 rows, 8 cols, 3)"""


def read_foreground(plane: Plane, rows: int, cols: int) -> Foreground:
    """Foreground of (rows, cols) base tiles; `plane` has 8 pixels to a base tile."""
    blank = np.array(plane.slide.reader.background, np.uint8)
    thumbnail, lost = _thumbnail(plane, plane.read, rows, cols, blank)
    if plane.slide.kind == "satellite":
        coverage, _ = _thumbnail(plane, plane.coverage, rows, cols, np.zeros((), np.uint8))
        return Foreground(coverage > 127, plane.slide.reader.background, lost, thumbnail)
    mask = foreground(thumbnail)
    inside = np.zeros_like(mask)
    inside[: plane.height, : plane.width] = True
    glass = thumbnail[inside & ~mask & ~repeat(lost, "r c -> (r a) (c b)", a=PER_TILE, b=PER_TILE)]
    if not len(glass):
        return Foreground(mask, plane.slide.reader.background, lost, thumbnail)
    red, green, blue = np.median(glass, axis=0).astype(int).tolist()
    return Foreground(mask, (red, green, blue), lost, thumbnail)


def _thumbnail(plane: Plane, read: Read, rows: int, cols: int, blank: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
    """Read (8 rows, 8 cols) in parts, to limit memory for slides without levels."""
    step = max(1, int(READ_PX / (PER_TILE * max(plane.source.step_x, plane.source.step_y))))
    pixels, lost = [], []
    for row in range(0, rows, step):
        windows = [_window(row, col, min(step, rows - row), min(step, cols - col)) for col in range(0, cols, step)]
        pieces = [read_with_recovery(read, window, PER_TILE, blank) for window in windows]
        pixels.append(np.concatenate([piece[0] for piece in pieces], 1))
        lost.append(np.concatenate([piece[1] for piece in pieces], 1))
    return np.concatenate(pixels), np.concatenate(lost)


def _window(row: int, col: int, rows: int, cols: int) -> tuple[int, int, int, int]:
    """x, y, width, height in thumbnail pixels of a rectangle of tiles."""
    return col * PER_TILE, row * PER_TILE, cols * PER_TILE, rows * PER_TILE


def tile_shares(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Share of foreground of each base tile, (8 rows, 8 cols) -> (rows, cols)."""
    return reduce(mask.astype(np.float32), "(r a) (c b) -> r c", "mean", a=PER_TILE, b=PER_TILE)
