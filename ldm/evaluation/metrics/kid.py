"""KID: the squared maximum mean discrepancy of two sets of features (Binkowski et al. 2018).

    k(x, y) = (x . y / d + 1)^3
    KID = mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y)          over all pairs of different features

Unbiased for any number of images, so it may be negative; prefer it for few images.

Shapes: n, m features of the two sets, d channels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldm.errors import UserError

BLOCK = 1024
"""rows of the kernel matrix at a time"""
Values = NDArray[np.float64]


class Estimate(NamedTuple):
    value: float
    error: float
    """its standard error"""


def kid(x: ArrayLike, y: ArrayLike, *, together: int = 1) -> Estimate:
    """KID of features (n, d) and (m, d), over all of them.

    The standard error is that of the first-order (Hoeffding) term, which vanishes for equal distributions. Every
    `together` features in a row, of crops of one image for example, are taken for dependent: the error counts them as
    one. UserError for fewer than two features, or two widths.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"kid: features {x.shape} and {y.shape}; expected at least 2 of each, of one width")
    within_x, within_y = _means(x, x, skip_self=True), _means(y, y, skip_self=True)
    x_to_y, y_to_x = _means(x, y), _means(y, x)
    value = within_x.mean() + within_y.mean() - 2 * x_to_y.mean()
    variance = _variance(within_x - x_to_y, together) + _variance(within_y - y_to_x, together)
    return Estimate(float(value), float(2 * np.sqrt(variance)))


def _variance(terms: Values, together: int) -> float:
    """Variance of the mean of terms (n,), of which those `together` depend on each other; nan for fewer than two."""
    whole = len(terms) // together
    if whole < 2:
        return np.nan
    return float(terms[: whole * together].reshape(whole, together).mean(1).var(ddof=1) / whole)


def _means(x: Values, y: Values, skip_self: bool = False) -> Values:
    """The mean of k(x_i, y_j) over j (n,); without j = i where both sets are one."""
    means = [((x[i : i + BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum(1) for i in range(0, len(x), BLOCK)]
    sums = np.concatenate(means)
    if not skip_self:
        return sums / len(y)
    return (sums - (np.square(x).mean(1) + 1) ** 3) / (len(x) - 1)
