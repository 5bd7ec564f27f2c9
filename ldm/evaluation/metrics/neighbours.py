"""Which generated images are like real ones, and which real ones are covered, by nearest neighbours.

    precision     share of generated images within the ball of some real image         Kynkaanniemi et al. 2019, k = 3
    recall        share of real images within the ball of some generated image                     the same
    density       number of real balls that a generated image lies in, over k          Naeem et al. 2020, k = 5
    coverage      share of real images whose ball holds a generated image                          the same
    authenticity  share of generated images farther from their nearest real image
                  than that image is from the nearest other real one                   Alaa et al. 2022

The ball of an image reaches to the k-th nearest other image of its own set. A set that collapsed has low recall and
coverage; copies of the real images have an authenticity near 0, where new real images have about 0.5 or more.

Shapes: n generated, m real images, d channels of the space.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ldm.evaluation.metrics.half_samples import Numbers

PRECISION_K = 3
DENSITY_K = 5
Values = NDArray[np.float64]


class Distances(NamedTuple):
    """Euclidean distances within and between two sets."""

    generated: Values
    """(n, n)"""
    real: Values
    """(m, m)"""
    across: Values
    """(n, m)"""

    def part(self, i: Numbers, j: Numbers) -> "Distances":
        """Of the generated images `i` and the real images `j`."""
        return Distances(self.generated[np.ix_(i, i)], self.real[np.ix_(j, j)], self.across[np.ix_(i, j)])


def distances(generated: ArrayLike, real: ArrayLike) -> Distances:
    """Of features (n, d) and (m, d), in float64; exactly 0 for equal ones, as a product of matrices would not give."""
    x, y = (torch.from_numpy(np.asarray(features, np.float64)) for features in (generated, real))
    pairs = ((x, x), (y, y), (x, y))
    return Distances(*(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy() for a, b in pairs))


def neighbour_figures(given: Distances) -> dict[str, float]:
    """Precision, recall, density, coverage and authenticity; nan where a set has too few images for them."""
    n, m = given.across.shape
    names = ("precision", "recall", "density", "coverage", "authenticity")
    found = dict.fromkeys(names, math.nan)
    if min(n, m) > PRECISION_K:
        found["precision"] = float((given.across <= _radii(given.real, PRECISION_K)).any(1).mean())
        found["recall"] = float((given.across <= _radii(given.generated, PRECISION_K)[:, None]).any(0).mean())
    if m > DENSITY_K and n:
        inside = given.across <= _radii(given.real, DENSITY_K)
        found["density"] = float(inside.sum(1).mean() / DENSITY_K)
        found["coverage"] = float(inside.any(0).mean())
    if m > 1 and n:
        nearest = given.across.argmin(1)
        found["authenticity"] = float((given.across.min(1) > _radii(given.real, 1)[nearest]).mean())
    return found


def _radii(within: Values, k: int) -> Values:
    """Distance of each image to the k-th nearest other one; the nearest of all, at 0, is the image itself."""
    return np.partition(within, k, axis=1)[:, k]
