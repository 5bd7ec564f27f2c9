"""What several super-resolutions of one image have in common, and where they differ: mean, spread, intervals.

The samples of a posterior and the truth are alike if the model is right. Then, with probability `level`, the truth lies
in

    mean ± multiplier * t * sqrt((s^2 + 1/12) (1 + 1/n))

where s is the standard deviation of n samples, t the quantile of Student's distribution with n - 1 degrees of freedom,
and 1/12 the variance of rounding to 8 bits. The multiplier is 1, or one number fitted to images whose truth is known:
a sampler that invents too little has one above 1. At coarser scales, means of pixels are compared likewise.

Shapes: H, W pixels, n samples, f how many times smaller. Values are grey levels of 255.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from einops import reduce
from numpy.typing import NDArray

from ldm.images.contact_sheet import Pixels

LEVEL = 0.9
ROUNDING = 1 / 12
Values = NDArray[np.float32]
Load = Callable[[], Pixels]
"""one sample (H, W, 3)"""


class PosteriorSamples(NamedTuple):
    """Mean and standard deviation of n samples."""

    mean: Values
    """(H / f, W / f, 3)"""
    std: Values
    """unbiased: over n - 1"""
    n: int

    def half_width(self, multiplier: float = 1.0, level: float = LEVEL) -> Values:
        """Half of the interval that holds the truth with probability `level` (H / f, W / f, 3)."""
        quantile = scipy.stats.t.ppf((1 + level) / 2, self.n - 1)
        return np.asarray(multiplier * quantile * np.sqrt((self.std**2 + ROUNDING) * (1 + 1 / self.n)), np.float32)

    @property
    def spread(self) -> Values:
        """Standard deviation (H / f, W / f), root mean square of the channels."""
        return np.sqrt(np.square(self.std).mean(2))


def shrunk(image: NDArray[np.generic], factor: int) -> Values:
    """Means of factor x factor pixels; incomplete ones at the edge are dropped."""
    height, width = (length - length % factor for length in image.shape[:2])
    whole = image[:height, :width].astype(np.float32)
    return reduce(whole, "(h a) (w b) c -> h w c", "mean", a=factor, b=factor)


def posterior(samples: Sequence[Load], factor: int = 1) -> PosteriorSamples:
    """Of at least two samples, one in memory at a time (Welford 1962)."""
    mean = squares = np.zeros(())
    for count, load in enumerate(samples, 1):
        away = shrunk(load(), factor).astype(np.float64) - mean
        mean = mean + away / count
        squares = squares + away**2 * (count - 1) / count
    return PosteriorSamples(
        mean.astype(np.float32), np.sqrt(squares / (len(samples) - 1)).astype(np.float32), len(samples)
    )


def covered(
    found: PosteriorSamples, truth: Pixels, factor: int = 1, multiplier: float = 1.0, level: float = LEVEL
) -> float:
    """Share of the true values inside their interval; `level` where the spread is right."""
    return float((np.abs(shrunk(truth, factor) - found.mean) <= found.half_width(multiplier, level)).mean())


def needed(found: PosteriorSamples, truth: Pixels, level: float = LEVEL) -> Values:
    """The multiplier at which each true value is on the border of its interval, of the finest scale (3 H W,)."""
    return (np.abs(truth.astype(np.float32) - found.mean) / found.half_width(1.0, level)).ravel()
