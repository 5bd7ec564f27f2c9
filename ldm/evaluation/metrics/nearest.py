"""Memorisation: distances of samples to their nearest training images, compared with those of held-out images.

A near neighbour alone is not evidence, since tissue images resemble each other. So the distances are compared with
those of held-out real images to the same training images (the data-copying test of Meehan, Chaudhuri and Dasgupta
2020): a model that copies lies nearer to its training images than new real images do.

Shapes: n images, m training images, d channels of the space.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from ldm.errors import UserError

BLOCK = 1024
"""images at a time"""


class Nearest(NamedTuple):
    """The training image nearest to each of n."""

    distance: NDArray[np.float64]
    training: NDArray[np.intp]
    """which one"""


def nearest(images: ArrayLike, training: ArrayLike, left_out: Sequence[int] | None = None) -> Nearest:
    """Euclidean, of features (n, d) to features (m, d).

    `left_out`: for each image the training image that is not counted. UserError for two widths, and for too few
    training images.
    """
    x, bank = np.asarray(images, np.float64), np.asarray(training, np.float64)
    fewest = 1 if left_out is None else 2
    if len(bank) < fewest or x.shape[1] != bank.shape[1]:
        raise UserError(
            f"memorisation: features {x.shape} and training ones {bank.shape}; expected at least {fewest}, of one width"
        )
    squares, found = np.square(bank).sum(1), [np.zeros(0, np.intp)]
    for first in range(0, len(x), BLOCK):
        distances = squares - 2 * x[first : first + BLOCK] @ bank.T
        if left_out is not None:
            distances[np.arange(len(distances)), left_out[first : first + BLOCK]] = np.inf
        found.append(distances.argmin(1))
    index = np.concatenate(found)
    return Nearest(np.linalg.norm(x - bank[index], axis=1), index)  # exact, where a - 2ab + b would round


class Verdict(NamedTuple):
    """How the distances of n samples compare with those of held-out images."""

    nearer: float
    """probability that a sample is nearer to the training images than a held-out image; 0.5: no copying"""
    p_value: float
    """p-value for a model that does not copy (Mann-Whitney, one-sided)"""
    below: int
    """samples nearer than every held-out image"""
    expected: float
    """their expected number for a model that does not copy"""


def judge(samples: ArrayLike, held_out: ArrayLike) -> Verdict:
    """Compare distances (n,) with those of held-out images (k,). UserError if either is empty."""
    ours, theirs = np.asarray(samples, np.float64), np.asarray(held_out, np.float64)
    if not len(ours) or not len(theirs):
        raise UserError(f"memorisation: {len(ours)} samples, {len(theirs)} held-out images; expected some of both")
    test = scipy.stats.mannwhitneyu(theirs, ours, alternative="greater")
    return Verdict(
        float(test.statistic / (len(ours) * len(theirs))),
        float(test.pvalue),
        int((ours < theirs.min()).sum()),
        len(ours) / (len(theirs) + 1),
    )


class NearerByPatient(NamedTuple):
    """The probability `nearer` of a Verdict, with what is known of its precision."""

    value: float
    error: float
    """standard error; nan for one patient"""
    p_value: float
    """one-sided, for a model that does not copy"""


def nearer_by_patient(samples: ArrayLike, held_out: ArrayLike, patients: Sequence[str]) -> NearerByPatient:
    """As `judge`, but held-out images (k,) of one patient are not taken as independent.

    The error is that of an area under the ROC curve (DeLong et al. 1988) with clusters (Obuchowski 1997); the p-value
    is of Student's t with one degree of freedom less than patients.
    """
    ours, theirs = np.asarray(samples, np.float64), np.asarray(held_out, np.float64)
    nearer = (ours[:, None] < theirs) + 0.5 * (ours[:, None] == theirs)
    value, of_held_out = float(nearer.mean()), nearer.mean(0)
    names, members = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 2 or len(ours) < 2:
        return NearerByPatient(value, np.nan, np.nan)
    sums = np.bincount(members, of_held_out - value)
    by_patient = np.square(sums).sum() * len(names) / (len(names) - 1) / len(theirs) ** 2
    error = float(np.sqrt(nearer.mean(1).var(ddof=1) / len(ours) + by_patient))
    distance = (value - 0.5) / error if error else np.inf * np.sign(value - 0.5) if value != 0.5 else 0.0
    return NearerByPatient(value, error, float(scipy.stats.t.sf(distance, len(names) - 1)))


def check_apart(training: Mapping[str, str], held_out: Mapping[str, str]) -> None:
    """UserError when a held-out slide, or its patient, is among the training ones; maps from slides to patients."""
    patients = set(training.values())
    leaks = [slide for slide, patient in held_out.items() if slide in training or patient in patients]
    if leaks:
        more = f" and {len(leaks) - 1} more" if len(leaks) > 1 else ""
        raise UserError(
            f"held out: {leaks[0]}{more} of a patient that was trained on ({held_out[leaks[0]]}); give other slides"
        )


def closest(found: Mapping[str, Nearest], count: int) -> Iterable[tuple[str, int]]:
    """The `count` images nearest to a training image, over all methods: (method, number)."""
    everything = [(distance, method, i) for method, near in found.items() for i, distance in enumerate(near.distance)]
    return [(method, i) for _, method, i in sorted(everything)[:count]]
