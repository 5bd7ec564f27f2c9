"""Frechet distance of two sets of images in the space of an extractor (Heusel et al. 2017), and the moments it needs.

    d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

It is biased: for two samples of one distribution it is above 0, by about tr(C) (1/n_1 + 1/n_2), and by more where n is
below d. So n is part of the statistics, and only rows of equal n can be compared. KID
(`ldm.evaluation.metrics.kid`) has no such bias.

Shapes: n images, b images of a batch, d channels of the space.
"""

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldm.errors import UserError
from ldm.support.files import atomic_write
from ldm.support.typed import typed

FORMAT = "zoomldm-statistics-1"
SAME = ("extractor", "preprocessing", "scale")
"""attributes that must be equal to compare two statistics"""
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of a set of images in the space of an extractor."""

    n: int
    mean: Values
    """(d,)"""
    covariance: Values
    """(d, d), unbiased: divided by n - 1"""
    extractor: str
    """names its weights"""
    preprocessing: str
    """description of the steps from 8-bit pixels to the extractor's input"""
    scale: str
    """scale of the images; "" for none"""

    def save(self, path: str | Path) -> None:
        """Write an .npz; readable without running code."""
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, format=FORMAT, **asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """UserError for a file that is missing, damaged or of another format."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {key: file[key] for key in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be read as statistics ({reason}); make them again") from error
        if str(found.pop("format", "none")) != FORMAT or set(found) != set(cls.__annotations__):
            raise UserError(f"{path}: not {FORMAT}; expected statistics that {typed('evaluate')} wrote")
        if not (np.isfinite(found["mean"]).all() and np.isfinite(found["covariance"]).all()):
            raise UserError(f"{path}: statistics that are not finite; make them again")
        texts = {key: str(found[key]) for key in SAME}
        return cls(int(found["n"]), found["mean"], found["covariance"], **texts)


class Moments:
    """Mean and covariance of features that come in batches, in float64.

    Batches are combined by the pairwise update of Chan, Golub and LeVeque (1979), which is exact for means far from 0.
    """

    def __init__(self, width: int) -> None:
        self.n = 0
        self.mean = np.zeros(width)  # (d,)
        self._scatter = np.zeros((width, width))

    def add(self, features: ArrayLike) -> None:
        """The next features (b, d). UserError when one is not finite."""
        batch = np.asarray(features, np.float64)
        if not np.isfinite(batch).all():
            raise UserError("features: some are not finite; the extractor's weights or the images are damaged")
        count, mean = len(batch), batch.mean(0)
        away, total = mean - self.mean, self.n + count
        centred = batch - mean
        self._scatter += centred.T @ centred + np.outer(away, away) * (self.n * count / total)
        self.mean = self.mean + away * (count / total)
        self.n = total

    def statistics(self, extractor: str = "", preprocessing: str = "", scale: str = "") -> Statistics:
        """The statistics so far. UserError for fewer than two images."""
        if self.n < 2:
            raise UserError(f"statistics: {self.n} images{f' at {scale}' if scale else ''}; expected at least 2")
        covariance = self._scatter / (self.n - 1)
        return Statistics(self.n, self.mean, covariance, extractor, preprocessing, scale)


def statistics_of(features: ArrayLike, **named: Any) -> Statistics:
    """Statistics of features (n, d) in memory; `named` as for `Moments.statistics`."""
    moments = Moments(np.shape(features)[1])
    moments.add(features)
    return moments.statistics(**named)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """d^2 of two statistics, never negative. UserError unless both are of one extractor, preprocessing and scale.

    The trace of (C_1 C_2)^(1/2) is that of (S C_2 S)^(1/2) with S = C_1^(1/2), which is symmetric and positive
    semidefinite: its eigenvalues are real for any rank, and those that rounding makes negative are set to 0.
    """
    for key in SAME:
        found, expected = getattr(a, key), getattr(b, key)
        if found != expected:
            raise UserError(f"statistics: {key} {found} against {expected}; compare like with like: make one again")
    root = _root(a.covariance)
    cross = np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(cross).sum()
    return max(0.0, float(np.square(a.mean - b.mean).sum() + spread))


def _root(covariance: Values) -> Values:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
