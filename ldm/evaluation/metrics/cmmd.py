"""The statistic of CMMD (Jayasumana et al. 2024): the squared maximum mean discrepancy under a Gaussian kernel.

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)),  sigma = 10,  of features of unit length
    MMD = 1000 (mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y))     over all pairs of different features

In the space of CLIP ViT-L/14 at 336 px (the encoder clip-l-336) it is CMMD. It is unbiased, as in the paper's equation
4, so it may be negative; the published code counts a feature with itself and lies above by at most 20 (1/n + 1/m).

Shapes: n, m features of the two sets, d channels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldm.errors import UserError
from ldm.evaluation.metrics.half_samples import Numbers

SIGMA, TIMES = 10.0, 1000.0
Values = NDArray[np.float64]


class Kernels(NamedTuple):
    """1 - k of all pairs, which keeps the digits that k itself would lose."""

    x: Values
    """(n, n)"""
    y: Values
    """(m, m)"""
    across: Values
    """(n, m)"""

    def mmd(self, i: Numbers | None = None, j: Numbers | None = None) -> float:
        """The statistic of the features `i` and `j`, or of all; nan for fewer than two."""
        i = np.arange(len(self.x)) if i is None else i
        j = np.arange(len(self.y)) if j is None else j
        if min(len(i), len(j)) < 2:
            return float("nan")
        within = (part[np.ix_(k, k)].sum() / (len(k) * (len(k) - 1)) for part, k in ((self.x, i), (self.y, j)))
        return float(TIMES * (2 * self.across[np.ix_(i, j)].mean() - sum(within)))


def kernels(x: ArrayLike, y: ArrayLike) -> Kernels:
    """Of features (n, d) and (m, d). UserError for a feature of length 0, or two widths."""
    a, b = _unit(x), _unit(y)
    if a.shape[1] != b.shape[1]:
        raise UserError(f"cmmd: features {a.shape} and {b.shape}; expected one width")
    return Kernels(_distance(a, a), _distance(b, b), _distance(a, b))


def _unit(features: ArrayLike) -> Values:
    values = np.asarray(features, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if not lengths.all():
        raise UserError("cmmd: a feature is all zeros; expected a direction: check the images and the encoder")
    return values / lengths


def _distance(a: Values, b: Values) -> Values:
    return -np.expm1(-(2 - 2 * a @ b.T).clip(0) / (2 * SIGMA**2))
