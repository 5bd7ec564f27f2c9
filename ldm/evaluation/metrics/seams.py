"""Measures of a large image made of tiles: seam strength, and texture against that of real images.

An image that is too strongly constrained loses texture, and independent tiles show their borders: both are measured.

Shapes: H, W pixels, n bins. Images are uint8 (H, W, 3); their values are taken from 0 to 1.
"""

import math
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ldm.errors import UserError

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating[Any]]
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""of red, green and blue (ITU-R BT.601)"""
LATTICE = 8
"""pixels: common multiple of the periods of latents (4) and of JPEG's blocks (8)"""
STRIP = 512
"""rows at a time"""


def _between_lines(image: Pixels, power: int) -> tuple[Values, Values]:
    """Sums of |difference of neighbours|^power between rows (H - 1,) and between columns (W - 1,)."""
    height, width = image.shape[:2]
    between_rows, between_columns = np.zeros(height - 1), np.zeros(width - 1)
    for row in range(0, height, STRIP):
        strip = image[row : row + STRIP + 1].astype(np.float32) / 255
        down = np.abs(np.diff(strip, axis=0)) ** power
        across = np.abs(np.diff(strip[:STRIP], axis=1)) ** power
        between_rows[row : row + len(down)] = down.sum((1, 2), dtype=np.float64)
        between_columns += across.sum((0, 2), dtype=np.float64)
    return between_rows, between_columns


def line_gradients(image: Pixels) -> tuple[Values, Values]:
    """Mean |difference| of neighbours between rows (H - 1,) and between columns (W - 1,), summed over channels."""
    between_rows, between_columns = _between_lines(image, 1)
    return between_rows / image.shape[1], between_columns / image.shape[0]


def gradient_energy(image: Pixels) -> float:
    """Mean squared difference of neighbouring pixels, over both axes and all channels."""
    height, width = image.shape[:2]
    total = sum(lines.sum() for lines in _between_lines(image, 2))
    return float(total / (3 * ((height - 1) * width + height * (width - 1))))


def seam_strength(image: Pixels, tile_px: int, offset: tuple[int, int] = (0, 0), lattice: int = 1) -> float:
    """Mean |gradient| across tile borders divided by that at other lines, over both axes; 1 is seamless.

    Borders lie at `offset` (row, column) and every `tile_px` from there. They are compared with lines a multiple of 8
    and of `lattice` px away, or of their greatest common divisor with `tile_px`: the lattices of latents
    (`cell_pattern`), of JPEG's blocks, and of the latents of a coarser canvas that constrains the image, `lattice` px
    wide here, are no seams. NaN where there is no gradient elsewhere. UserError for an image no larger than a tile.
    """
    height, width = image.shape[:2]
    if max(height, width) <= tile_px:
        raise UserError(f"seam strength: image of {width}x{height} px; expected more than one tile of {tile_px} px")
    sums, counts = np.zeros(2), np.zeros(2)  # elsewhere, at borders
    for lines, length, first in zip(_between_lines(image, 1), (width, height), offset, strict=True):
        place = np.arange(len(lines)) + 1 - first
        alike = place % math.gcd(tile_px, math.lcm(LATTICE, lattice)) == 0
        at_border = place % tile_px == 0
        for number, where in enumerate((alike & ~at_border, at_border)):
            sums[number] += lines[where].sum()
            counts[number] += where.sum() * length
    elsewhere, borders = sums / counts
    return float(borders / elsewhere) if elsewhere else math.nan


def cell_pattern(image: Pixels | Values, period: int = 4) -> float:
    """Strength of a lattice of `period` pixels, the side of a latent: 0 is none; in grey levels of 255.

    The standard deviation of the mean luminance (period, period) of the pixels at each place in a cell.
    """
    height, width = (length - length % period for length in image.shape[:2])
    cells = (image[:height, :width] @ LUMINANCE).reshape(height // period, period, width // period, period)
    return float(cells.mean((0, 2), dtype=np.float64).std())


def radial_power_spectrum(image: Pixels, bins: int) -> Values:
    """Mean power (n,) of the luminance at 0 to 0.5 cycles per pixel, in rings of equal width, under a Hann window.

    Normalised so that white noise has its variance in every ring, for any image size; the mean is subtracted first.
    UserError when the image is so small that a ring contains no frequency.
    """
    luminance = image @ LUMINANCE / 255
    height, width = luminance.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    spectrum = scipy.fft.fft2((luminance - luminance.mean()) * window)
    power = np.square(np.abs(spectrum)) / np.square(window).sum()
    radius = np.hypot(scipy.fft.fftfreq(height)[:, None], scipy.fft.fftfreq(width))
    ring = (radius * 2 * bins).astype(int)
    inside = ring < bins
    counts = np.bincount(ring[inside], minlength=bins)
    if not counts.all():
        raise UserError(f"power spectrum: {bins} bins for an image of {width}x{height} px; ask for fewer")
    return np.bincount(ring[inside], power[inside], minlength=bins) / counts


def spectral_distance(a: Values, b: Values) -> float:
    """Mean |log(a / b)| of two power spectra (n,): 0.69 means twice or half the power on average."""
    return float(np.abs(np.log(a / b)).mean())
