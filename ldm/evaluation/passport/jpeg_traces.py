"""Whether an image went through JPEG, and at which quality: by its file, or by traces in the pixels of a lossless one.

A JPEG file states its quantisation tables. JPEG rounds each coefficient of the 8x8 blocks to a multiple of a step q, so
in an image that was decoded from JPEG and stored again, the coefficients c of a frequency lie at multiples of q (Fan
and de Queiroz 2003): the mean of cos(2 pi c / q), over those that were not rounded to 0, is near 1. Without JPEG it is
near 0, and negative where few coefficients are as large as q, since smaller ones are more frequent.

An autoencoder's or a network's own pattern of 8 px does not round coefficients, so it is not mistaken for JPEG.

Shapes: h, w pixels, n blocks, k frequencies.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.fft import dctn

from ldm.evaluation.metrics.seams import LUMINANCE
from ldm.images.contact_sheet import Pixels

FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
STEPS = np.arange(2, 41)
MULTIPLES, AGREE, LEAST = 0.3, 3, 60
"""mean above which coefficients are at multiples; frequencies that must agree; coefficients needed"""
SIDE_PX = 256
"""of the middle of an image that is searched"""
Values = NDArray[np.float64]


class Trace(NamedTuple):
    """What is known of an image's JPEG compression."""

    quality: int
    """1 to 100, of the standard's tables"""
    stored: bool
    """whether the file is a JPEG, or was lossless with traces of one"""


def jpeg_trace(path: Path, pixels: Pixels, everywhere: bool = False) -> Trace | None:
    """None for an image without traces. `everywhere`: search all 64 places of the blocks' grid, as of a crop."""
    if (table := _stored_table(path)) is not None:
        return Trace(1 + int(np.abs(_tables() - np.array(table)).sum(1).argmin()), True)
    grey = pixels.astype(np.float64) @ LUMINANCE.astype(np.float64)
    top, left = (8 * (max(0, length - SIDE_PX) // 16) for length in grey.shape)
    grey = grey[top : top + SIDE_PX, left : left + SIDE_PX]
    places = [(y, x) for y in range(8) for x in range(8)] if everywhere else [(0, 0)]
    for y, x in places:
        steps = _steps(_coefficients(grey[y:, x:]))
        if steps is not None:
            return Trace(_quality(np.array(steps)), False)
    return None


def _stored_table(path: Path) -> Sequence[int] | None:
    """The luminance table of a JPEG file, in the order of its rows; None for another format."""
    with PillowImage.open(path) as image:
        tables = getattr(image, "quantization", None)
        return tables[0] if image.format in ("JPEG", "MPO") and tables else None


def _coefficients(grey: Values) -> Values:
    """Coefficients (k, n) of FREQUENCIES of all whole blocks of (h, w)."""
    height, width = (length - length % 8 for length in grey.shape)
    blocks = grey[:height, :width].reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    blocks = blocks[np.ptp(blocks, axis=(1, 2)) > 0]  # flat ones say nothing
    found = dctn(blocks - 128, axes=(1, 2), norm="ortho")
    return np.array([found[:, u, v] for u, v in FREQUENCIES])


def _steps(coefficients: Values) -> list[float] | None:
    """The step of each frequency, nan where it is unknown; None unless AGREE of them have one."""
    found: list[float] = []
    for values in coefficients:
        found.append(_step(values))
        if np.isnan(found).sum() > len(FREQUENCIES) - AGREE:
            return None
    return found


def _step(values: Values) -> float:
    """The largest step whose multiples `values` (n,) are; nan for none."""
    kept = np.abs(values) > 0.5 * STEPS[:, None]  # (steps, n)
    count = kept.sum(1)
    mean = (np.cos(2 * np.pi * values / STEPS[:, None]) * kept).sum(1) / count.clip(1)
    mean[count < LEAST] = 0
    if mean.max() <= MULTIPLES:
        return np.nan
    return float(STEPS[mean > 0.9 * mean.max()][-1])  # its divisors fit too, and with few coefficients its neighbours


def _quality(steps: Values) -> int:
    """The quality whose steps of FREQUENCIES are nearest to those known, in the least squares of their logarithms."""
    known = np.isfinite(steps)
    places = np.array([8 * u + v for u, v in FREQUENCIES])[known]
    return 1 + int(np.square(np.log(_tables()[:, places] / steps[known])).sum(1).argmin())


@cache
def _tables() -> Values:
    """The standard's luminance tables of the qualities 1 to 100 (100, 64), row by row."""
    found = []
    for quality in range(1, 101):
        file = io.BytesIO()
        PillowImage.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        with PillowImage.open(file) as image:
            found.append(image.quantization[0])  # type: ignore[attr-defined]
    return np.array(found, np.float64)
