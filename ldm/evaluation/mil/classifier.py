"""Multiple-instance learning: a slide's label from the bag of its tiles' features (paper, Table 4).

Gated-attention pooling (ABMIL, Ilse et al. 2018), cross-validated by patient. Each fold is the test fold once, with the
next one as validation fold for early stopping; the test fold is used once, at the end. Features are standardised by the
training bags and, where sets of features of different widths are compared, reduced to principal components of the
training bags' tiles, as many for each set. Results depend on the seed alone.

Shapes: m slides, n tiles of one of them, d channels, c components, k folds, b bags in a batch.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics.functional.classification import binary_auroc
from torchmil.models import ABMIL

from ldm.errors import UserError


class Bags(Protocol):
    """m bags (n, d): a list, or files that are read on access."""

    def __getitem__(self, number: int, /) -> Tensor: ...


Labels = NDArray[np.int64]
"""(m,) 0 or 1"""
WIDTH, ATTENTION = 64, 32
"""channels that features are projected to, and of the attention's hidden layer"""
DROPOUT = 0.25
BATCH, EPOCHS, PATIENCE = 4, 40, 12
LR, WEIGHT_DECAY = 1.5e-3, 1e-2


class Standardiser(NamedTuple):
    """Mean and standard deviation (d,) of the tiles of some bags, and their principal components if asked for."""

    mean: Tensor
    std: Tensor
    axes: Tensor | None = None
    """(d, c) the first principal components of standardised tiles, if they are reduced"""

    @classmethod
    def of(cls, bags: Bags, chosen: Sequence[int], components: int | None = None) -> "Standardiser":
        """Of the bags `chosen`; with fewer `components` than channels, tiles are reduced to them."""
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for i in chosen:
            bag = bags[i].double()
            count, total, square = count + len(bag), total + bag.sum(0), square + bag.square().sum(0)
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt()
        plain = cls(mean.float(), std.clamp(min=1e-6).float())
        if components is None or components >= len(mean):
            return plain
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.double)  # (d, d)
        for i in chosen:
            tiles = plain(bags[i]).double()
            covariance += tiles.T @ tiles / count
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :components]
        return plain._replace(axes=axes.float())

    def __call__(self, bag: Tensor) -> Tensor:
        tiles = (bag - self.mean) / self.std
        return tiles if self.axes is None else tiles @ self.axes


class SlidePrediction(NamedTuple):
    """A classifier's output for a bag: the logit of label 1, and the attention of the tiles (n,), which sums to 1."""

    logit: float
    attention: Tensor


@dataclass
class Classifier:
    """A trained network and how its input is scaled."""

    network: ABMIL
    scale: Standardiser

    @torch.no_grad()
    def __call__(self, bag: Tensor) -> SlidePrediction:
        logit, attention = self.network(self.scale(bag)[None], return_att=True)
        return SlidePrediction(float(logit), attention[0].softmax(0))


def build_network(width_in: int) -> ABMIL:
    """Gated-attention pooling over projected features."""
    projection = nn.Sequential(nn.Linear(width_in, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT))
    return ABMIL((width_in,), att_dim=ATTENTION, gated=True, feat_ext=projection)


def fit(
    bags: Bags,
    labels: Labels,
    training: Sequence[int],
    validation: Sequence[int],
    seed: int,
    components: int | None = None,
) -> Classifier:
    """Train on the bags `training` until the `validation` loss has not improved for PATIENCE epochs; keep the best."""
    scale = Standardiser.of(bags, training, components)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(scale(bags[training[0]]).shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        best, best_epoch, weights = math.inf, 0, deepcopy(network.state_dict())
        for epoch in range(EPOCHS):
            network.train()
            order = [training[i] for i in torch.randperm(len(training)).tolist()]
            for start in range(0, len(order), BATCH):
                optimizer.zero_grad()
                _loss(network, bags, labels, order[start : start + BATCH], scale).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                loss = float(_loss(network, bags, labels, validation, scale))
            if not math.isfinite(loss):
                raise UserError(f"bags: the loss is {loss} in epoch {epoch}; extract their features again")
            if loss < best:
                best, best_epoch, weights = loss, epoch, deepcopy(network.state_dict())
            if epoch - best_epoch >= PATIENCE:
                break
    network.load_state_dict(weights)
    return Classifier(network.eval(), scale)


def _loss(network: ABMIL, bags: Bags, labels: Labels, chosen: Sequence[int], scale: Standardiser) -> Tensor:
    """Mean cross-entropy of the bags `chosen`."""
    scaled = [scale(bags[i]) for i in chosen]
    x = pad_sequence(scaled, batch_first=True)  # (b, n, d)
    mask = pad_sequence([torch.ones(len(bag)) for bag in scaled], batch_first=True)  # (b, n)
    logits = network(x, mask)  # (b,)
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[chosen]).float())


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Predictions for slides by classifiers that were not trained on them."""

    labels: Labels
    fold: NDArray[np.int64]
    """(m,) the fold in which each slide was tested"""
    predictions: list[SlidePrediction]
    aucs: list[float]
    """of each fold"""

    @property
    def mean(self) -> float:
        return float(np.mean(self.aucs))

    @property
    def std(self) -> float:
        return float(np.std(self.aucs, ddof=1))


def cross_validate(
    bags: Bags, labels: Labels, fold: NDArray[np.int64], seed: int, components: int | None = None
) -> CrossValidation:
    """Test every slide with a classifier that was neither trained nor validated on its fold.

    Features are reduced to `components`, where they have more channels. `fold` (m,) from 0 to k - 1, k at least 3.
    UserError when some fold lacks one of the labels.
    """
    k = int(fold.max()) + 1
    for number in range(k):
        if len(set(labels[fold == number].tolist())) < 2:
            raise UserError(
                f"folds: fold {number} of {k} holds one label only, so it has no AUC; ask for fewer folds or label more"
            )
    predictions: dict[int, SlidePrediction] = {}
    aucs = []
    for number in range(k):
        test, validation = fold == number, fold == (number + 1) % k
        training = np.flatnonzero(~test & ~validation).tolist()
        classifier = fit(bags, labels, training, np.flatnonzero(validation).tolist(), seed + number, components)
        tested = np.flatnonzero(test).tolist()
        predictions |= {i: classifier(bags[i]) for i in tested}
        aucs.append(auc([predictions[i].logit for i in tested], labels[tested]))
    return CrossValidation(labels, fold, [predictions[i] for i in range(len(labels))], aucs)


def auc(logits: Sequence[float], labels: Labels) -> float:
    """Area under the ROC curve: the share of (1, 0) pairs that the logits order rightly, ties counted half."""
    return float(binary_auroc(torch.tensor(logits, dtype=torch.float64), torch.from_numpy(labels), thresholds=None))


def half_interval(means: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the mean (Student's t).

    For mean AUCs of several label shuffles: folds of one shuffle share slides, but shuffles are independent.
    """
    m = len(means)
    return float(stdtrit(m - 1, 0.975) * np.std(means, ddof=1) / math.sqrt(m)) if m > 1 else math.inf
