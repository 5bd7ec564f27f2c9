"""A small classifier trained on generated images and tested on real ones, beside one trained on real images.

Multinomial logistic regression on standardised features, with a ridge of 1. The area under the ROC curve is the mean
over the labels, each against the rest. Its standard error is that of a bootstrap over the patients of the test images,
since images of one patient are alike.

Shapes: n training, m test images, d channels, k labels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from ldm.evaluation.metrics.kid import Estimate

RIDGE, RESAMPLES = 1.0, 200
Values = NDArray[np.float64]


class Labelled(NamedTuple):
    """Images with labels."""

    features: Values
    """(n, d)"""
    labels: Sequence[str]
    patients: Sequence[str]


def auc_on(test: Labelled, training: Labelled, seed: int = 0) -> Estimate:
    """The area under the ROC curve on `test` of a classifier learnt from `training`; nan without two common labels."""
    names = sorted(set(training.labels) & set(test.labels))
    if len(names) < 2:
        return Estimate(math.nan, math.nan)
    chances = _learnt(training, names, test.features)
    truth = np.array([names.index(label) if label in names else -1 for label in test.labels])
    patients = sorted(set(test.patients))
    rows = {patient: np.flatnonzero(np.array(test.patients) == patient) for patient in patients}
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rows[patients[i]] for i in rng.integers(len(patients), size=len(patients))])
        drawn.append(_auc(chances[chosen], truth[chosen]))
    known = [value for value in drawn if not math.isnan(value)]
    error = float(np.std(known, ddof=1)) if len(patients) > 1 and len(known) > RESAMPLES // 2 else math.nan
    return Estimate(_auc(chances, truth), error)


def _learnt(training: Labelled, names: Sequence[str], features: Values) -> Values:
    """Logits (m, k) of `features` (m, d)."""
    kept = [i for i, label in enumerate(training.labels) if label in names]
    x = training.features[kept]
    mean, std = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / std
    target = np.eye(len(names))[[names.index(training.labels[i]) for i in kept]]
    size = (x.shape[1] + 1, len(names))
    x1 = np.column_stack([x, np.ones(len(x))])

    def loss(flat: Values) -> tuple[float, Values]:
        weights = flat.reshape(size)
        logits = x1 @ weights
        shift = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        ridge = RIDGE * np.vstack([weights[:-1], np.zeros((1, size[1]))])
        gradient = x1.T @ (np.exp(shift) - target) + ridge
        return float(-(shift * target).sum() + (ridge * weights).sum() / 2), gradient.ravel()

    found = scipy.optimize.minimize(
        loss, np.zeros(math.prod(size)), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    return np.column_stack([(features - mean) / std, np.ones(len(features))]) @ found.x.reshape(size)


def _auc(logits: Values, truth: NDArray[np.int64]) -> float:
    """Mean over the labels, each against the rest; nan unless every label and another occur."""
    found = []
    for label in range(logits.shape[1]):
        own, rest = logits[truth == label], logits[truth != label]
        if not len(own) or not len(rest):
            return math.nan
        chance = np.concatenate([own, rest])
        score = scipy.special.log_softmax(chance, axis=1)[:, label]
        ranks = scipy.stats.rankdata(score)[: len(own)].sum()
        found.append((ranks - len(own) * (len(own) + 1) / 2) / (len(own) * len(rest)))
    return float(np.mean(found))
