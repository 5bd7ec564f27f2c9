"""Standard errors of measures of two sets: their spread over random halves of both (delete-half jackknife, Shao and Wu
1989).

Halves are drawn without replacement. A bootstrap with replacement repeats images, and a repeated image is its own
nearest neighbour, which measures of neighbours cannot bear. The variance over halves estimates the variance at full
size, since half of the images has twice the variance and is half independent of the whole.

Shapes: n, m images of the two sets.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.intp]
Measure = Callable[[Numbers, Numbers], Mapping[str, float]]
"""the figures of some images of the first set, and some of the second, by their numbers"""
HALVES = 50


def standard_errors(measure: Measure, n: int, m: int, count: int = HALVES, seed: int = 0) -> dict[str, float]:
    """The standard error of every figure of `measure`; nan where it is unknown for halves."""
    rng = np.random.default_rng(seed)
    found = [
        measure(np.sort(rng.permutation(n)[: n // 2]), np.sort(rng.permutation(m)[: m // 2])) for _ in range(count)
    ]
    return {name: _spread([values[name] for values in found]) for name in found[0]}


def _spread(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else float(np.std(values, ddof=1))
