"""Figures of two sets: collapsed and memorised sets are caught, and standard errors are the spread of repetitions."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from ldm.errors import UserError
from ldm.evaluation.metrics.cmmd import kernels
from ldm.evaluation.metrics.half_samples import standard_errors
from ldm.evaluation.metrics.neighbours import distances, neighbour_figures
from ldm.evaluation.metrics.set_comparison import PAIR_FIGURES, frechet_error, pair_figures

SPREAD = np.random.default_rng(1).normal(size=(6, 6))


def features(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6)) @ SPREAD + shift


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    generated, real = features(90, 0, 0.7), features(110, 1)
    theirs = prc_features_to_metric(
        *map(torch.from_numpy, (generated, real)),
        prc_neighborhood=3,
        prc_batch_size=1000,
        save_cpu_ram=False,
        verbose=False,
    )
    ours = neighbour_figures(distances(generated, real))
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0.2 < ours["recall"] < 1


def test_density_and_coverage_count_as_they_are_defined() -> None:
    generated, real = features(30, 0), features(40, 1)

    def radius(i: int) -> float:
        return sorted(np.linalg.norm(real[i] - other) for k, other in enumerate(real) if k != i)[4]

    inside = np.array([[np.linalg.norm(x - real[i]) <= radius(i) for i in range(40)] for x in generated])
    found = neighbour_figures(distances(generated, real))
    assert found["density"] == pytest.approx(inside.sum() / (5 * 30))
    assert found["coverage"] == pytest.approx(inside.any(0).mean())


def test_new_images_of_the_same_kind_pass() -> None:
    found = pair_figures(features(200, 0), features(200, 1))
    assert min(found["precision"].value, found["recall"].value, found["coverage"].value) > 0.8
    assert found["density"].value == pytest.approx(1, abs=0.25)
    assert found["authenticity"].value > 0.4
    assert abs(found["mmd"].value) < 4 * found["mmd"].error


def test_a_collapsed_set_is_caught() -> None:
    """A few kinds of image, each many times with small changes: every image is good, most real ones are not covered."""
    kinds = features(4, 0)[np.arange(200) % 4]
    found = pair_figures(kinds + features(200, 2) / 100, features(200, 1))
    for name in ("recall", "coverage"):
        assert found[name].value + 5 * found[name].error < 0.4, name
    assert found["mmd"].value > 4 * found["mmd"].error


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_memorised_set_is_caught(noise: float) -> None:
    """Copies of the real images, exact or nearly so: perfect by every other figure."""
    real = features(200, 1)
    found = pair_figures(real + noise * features(200, 2), real)
    assert found["precision"].value == found["coverage"].value == 1
    assert found["authenticity"].value + 3 * found["authenticity"].error < 0.2  # of new images above 0.4


def test_images_of_another_kind_are_caught() -> None:
    found = pair_figures(features(200, 0, shift=20.0), features(200, 1))
    assert found["precision"].value == found["density"].value == found["coverage"].value == 0


def test_too_few_images_have_no_figure_instead_of_a_wrong_one() -> None:
    found = pair_figures(features(2, 0), features(3, 1))
    assert {name for name, estimate in found.items() if np.isnan(estimate.value)} == {
        *("precision", "recall", "density", "coverage")
    }
    assert np.isnan(pair_figures(features(9, 0), features(9, 1))["density"].error)  # halves of four have no fifth
    assert np.isnan(frechet_error(features(3, 0), features(50, 1)))


def test_standard_errors_are_the_spread_of_repeated_measurements() -> None:
    """Of a mean, whose standard error is known, and of the figures of sets drawn anew."""
    x, y = features(400, 0)[:, 0], features(300, 1)[:, 0]
    found = standard_errors(lambda i, j: {"difference": x[i].mean() - y[j].mean()}, 400, 300, 400)
    assert found["difference"] == pytest.approx(np.sqrt(x.var() / 400 + y.var() / 300), rel=0.15)
    repeated = [pair_figures(features(100, 2 * i, 1.0), features(100, 2 * i + 1)) for i in range(24)]
    for name in PAIR_FIGURES:
        spread = np.std([found[name].value for found in repeated])
        assert 0.5 < np.mean([found[name].error for found in repeated]) / spread < 2, name


def test_the_statistic_of_cmmd_is_the_mean_over_pairs() -> None:
    x, y = features(9, 0), features(7, 1, 0.5)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        return np.exp(-np.square(a - b).sum() / 200)

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    expected = 1000 * (sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))
    assert kernels(x, y).mmd() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(UserError, match="all zeros"):
        kernels(np.zeros((3, 2)), np.ones((3, 2)))
