"""Mean, spread and intervals of several samples: closed forms, and shares that are as stated."""

import numpy as np
import pytest

from ldm.multiscale.posterior import Load, covered, needed, posterior, shrunk


def drawn(count: int, spread: float, seed: int = 0) -> tuple[list[Load], np.ndarray]:
    """Samples and a truth of one distribution: (32, 32, 3) with a mean of its own at each pixel."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(90, 160, (32, 32, 3))
    images = [(mean + rng.normal(0, spread, mean.shape)).round().astype(np.uint8) for _ in range(count + 1)]
    return [lambda image=image: image for image in images[1:]], images[0]


def test_mean_and_spread_are_those_of_numpy() -> None:
    samples, _ = drawn(5, 9.0)
    found = posterior(samples)
    stacked = np.stack([load() for load in samples]).astype(float)
    np.testing.assert_allclose(found.mean, stacked.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, stacked.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(posterior(samples, 4).mean, shrunk(stacked.mean(0), 4), rtol=1e-5)


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize("factor", [1, 2])
def test_as_many_true_pixels_are_inside_as_is_stated(count: int, factor: int) -> None:
    samples, truth = drawn(count, 9.0)
    found = posterior(samples, factor)
    assert covered(found, truth, factor, level=0.9) == pytest.approx(0.9, abs=0.03)
    assert covered(found, truth, factor, level=0.5) == pytest.approx(0.5, abs=0.05)


def test_one_number_widens_the_intervals_of_samples_that_are_too_alike() -> None:
    samples, truth = drawn(8, 3.0)
    _, other = drawn(1, 9.0)  # the same means, and a truth that lies farther away
    found = posterior(samples)
    assert covered(found, other) < 0.6
    multiplier = float(np.quantile(needed(found, other), 0.9))
    assert multiplier > 2
    assert covered(found, other, multiplier=multiplier) == pytest.approx(0.9, abs=1e-3)
    assert covered(found, truth) > 0.85


def test_equal_samples_leave_no_more_than_rounding() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    found = posterior([lambda: image] * 6)
    assert not found.spread.any()
    assert covered(found, image) == 1
    assert covered(found, image + np.uint8(2)) == 0
