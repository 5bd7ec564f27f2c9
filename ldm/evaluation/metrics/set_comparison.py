"""Every figure that compares a set of generated images with a set of real ones, each with its standard error.

Frechet distance, KID, the statistic of CMMD, and the figures of `ldm.evaluation.metrics.neighbours`. All but the first
two need all pairs of images, so they are of at most PAIRED images of each set.

Shapes: n generated, m real images, d channels of the space.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ldm.evaluation.metrics.cmmd import kernels
from ldm.evaluation.metrics.frechet import frechet_distance, statistics_of
from ldm.evaluation.metrics.half_samples import Numbers, standard_errors
from ldm.evaluation.metrics.kid import Estimate
from ldm.evaluation.metrics.neighbours import distances, neighbour_figures

PAIRED = 5_000
FRECHET_HALVES = 20
"""fewer than of other figures: each takes two decompositions of a matrix (d, d)"""
Features = NDArray[np.floating]
PAIR_FIGURES = ("precision", "recall", "density", "coverage", "authenticity", "mmd")


def pair_figures(generated: Features, real: Features) -> dict[str, Estimate]:
    """PAIR_FIGURES of features (n, d) and (m, d); nan where there are too few images."""
    generated, real = generated[:PAIRED], real[:PAIRED]
    apart, alike = distances(generated, real), kernels(generated, real)
    values = {**neighbour_figures(apart), "mmd": alike.mmd()}

    def of_halves(i: Numbers, j: Numbers) -> dict[str, float]:
        return {**neighbour_figures(apart.part(i, j)), "mmd": alike.mmd(i, j)}

    errors = standard_errors(of_halves, len(generated), len(real))
    return {name: Estimate(value, errors[name]) for name, value in values.items()}


def unknown_pairs() -> dict[str, Estimate]:
    """PAIR_FIGURES where only the statistics of a set are known."""
    return dict.fromkeys(PAIR_FIGURES, Estimate(math.nan, math.nan))


def frechet_error(generated: Features, real: Features) -> float:
    """Standard error of the Frechet distance of features (n, d) and (m, d); nan for fewer than four of either."""
    if min(len(generated), len(real)) < 4:
        return math.nan

    def of_halves(i: Numbers, j: Numbers) -> dict[str, float]:
        return {"frechet": _frechet(generated[i], real[j])}

    return standard_errors(of_halves, len(generated), len(real), FRECHET_HALVES)["frechet"]


def _frechet(x: Features, y: Features) -> float:
    """The Frechet distance of features (n, d) and (m, d), by a matrix (n, m) where that is smaller than (d, d).

    With C_1 = A^T A and C_2 = B^T B of centred features, the trace of (C_1 C_2)^(1/2) is the sum of the singular values
    of A B^T.
    """
    if max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(statistics_of(x), statistics_of(y))
    a, b = ((values - values.mean(0)) / np.sqrt(len(values) - 1) for values in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * cross)
