"""Whether the images of a folder were resampled: what is left of their fine detail, and traces of interpolation.

fine detail     power at 0.375 to 0.5 cycles per pixel over that at 0.125 to 0.25, in dB, of one image: resizing, blur
                and strong compression lower it
interpolation   interpolated pixels are smoother than those between them, so the mean |second difference| of the columns
                is periodic: a line in its spectrum at the ratio of the sizes (Gallagher 2005)

Multiples of 1/8 are left out of the second: JPEG and the layers of networks that enlarge leave lines there.

Shapes: h, w pixels, k frequencies.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from ldm.evaluation.metrics.seams import LUMINANCE, radial_power_spectrum
from ldm.images.contact_sheet import Pixels

RINGS = 16
LENGTH = 256
"""frequencies of the spectrum of second differences, twice"""
AROUND = 15
LOWEST = 0.06
ENOUGH = 8
"""spectra whose mean has no lines by chance"""
LINE = 2.5
"""height of a line over the median around it that is taken for interpolation"""
Values = NDArray[np.float64]


class SpectralLine(NamedTuple):
    """The highest line in the spectrum of second differences."""

    frequency: float
    """cycles per pixel"""
    height: float
    """over the median around it; up to 1.7 by chance"""


def fine_detail(image: Pixels) -> float:
    """In dB; nan for an image without detail, or below 2 RINGS px."""
    if min(image.shape[:2]) < 2 * RINGS:
        return float("nan")
    power = radial_power_spectrum(image, RINGS)
    fine, middle = power[3 * RINGS // 4 :].mean(), power[RINGS // 4 : RINGS // 2].mean()
    return float(10 * np.log10(fine / middle)) if min(fine, middle) > 0 else float("nan")


def interpolation_line(spectra: Sequence[Values]) -> SpectralLine | None:
    """Of `difference_spectra` of several images; None for fewer than ENOUGH."""
    if len(spectra) < ENOUGH:
        return None
    spectrum, frequency = np.mean(spectra, 0), np.arange(LENGTH // 2 + 1) / LENGTH
    height = spectrum / scipy.signal.medfilt(spectrum, AROUND).clip(1e-12)
    away = np.abs(8 * frequency - np.rint(8 * frequency)) > 8 * 1.5 / LENGTH
    height[(frequency < LOWEST) | ~away] = 0
    return SpectralLine(float(frequency[height.argmax()]), float(height.max()))


def difference_spectra(image: Pixels) -> list[Values]:
    """Of columns and of rows: |spectrum| of the mean |second difference| (LENGTH / 2 + 1,), of unit mean.

    None of a side below LENGTH.
    """
    grey, found = image.astype(np.float64) @ LUMINANCE.astype(np.float64), []
    for lines in (grey, grey.T):
        profile = np.abs(np.diff(lines, 2, axis=1)).mean(0)
        if len(profile) + 2 >= LENGTH and profile.any():
            _, spectrum = scipy.signal.welch(
                profile / profile.mean(), nperseg=min(len(profile), LENGTH), nfft=LENGTH, detrend="linear"
            )
            found.append(np.sqrt(spectrum))
    return found
