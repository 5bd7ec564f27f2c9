"""Frechet distance and KID: closed forms, numpy's moments, and their order for visibly different images."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from scipy import ndimage

from ldm.demo.histology import histology_slide
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError
from ldm.evaluation.metrics.frechet import Moments, Statistics, frechet_distance, statistics_of
from ldm.evaluation.metrics.kid import BLOCK, kid


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.random.default_rng(100 + seed).normal(size=(d, d)) + shift


def gaussian(mean: np.ndarray, covariance: np.ndarray, **named: str) -> Statistics:
    known = {"extractor": "e", "preprocessing": "p", "scale": "20x"}
    return Statistics(100, mean, covariance, **(known | named))


def test_gaussians_with_commuting_covariances_have_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    means, variances = rng.normal(size=(2, 5)), rng.uniform(0.1, 4, (2, 5))
    a, b = (gaussian(mean, turn @ np.diag(v) @ turn.T) for mean, v in zip(means, variances, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_it_is_that_of_the_matrix_square_root_and_symmetric() -> None:
    a, b = statistics_of(features(80, 12)), statistics_of(features(90, 12, seed=1, shift=0.5))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_fewer_images_than_channels_give_a_finite_distance_and_itself_is_near() -> None:
    a, b = statistics_of(features(10, 64)), statistics_of(features(7, 64, seed=1))
    between = frechet_distance(a, b)
    assert np.isfinite(between)
    assert between > 100
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4 * np.trace(a.covariance))
    # of low rank the trace of the root is the nuclear norm of the product of the centred features
    x, y = (features(n, 64, seed) for n, seed in ((10, 0), (7, 1)))
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    nuclear = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * nuclear
    assert between == pytest.approx(expected, rel=1e-6)


def test_more_images_of_one_distribution_come_nearer() -> None:
    everything = features(4000, 16)
    halves = [frechet_distance(statistics_of(everything[:n]), statistics_of(everything[-n:])) for n in (20, 200, 2000)]
    assert halves[0] > 5 * halves[1] > 25 * halves[2]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_moments_are_numpys_whatever_the_batches_and_their_order(size: int) -> None:
    x = features(100, 6, shift=3.0).astype(np.float32)
    for rows in (x, x[np.random.default_rng(1).permutation(100)]):
        moments = Moments(6)
        for first in range(0, len(rows), size):
            moments.add(rows[first : first + size])
        found = moments.statistics()
        exact = x.astype(np.float64)
        np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(exact.T), rtol=1e-10)
        assert found.n == 100


def test_a_mean_far_from_zero_loses_nothing() -> None:
    x = features(1000, 3) + 1e7
    moments = Moments(3)
    for batch in np.split(x, 10):
        moments.add(batch)
    np.testing.assert_allclose(moments.statistics().covariance, np.cov((x - 1e7).T), rtol=1e-5)


def test_features_that_are_not_finite_and_single_images_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        statistics_of(np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(UserError, match="1 images at 5x; expected at least 2"):
        statistics_of(np.zeros((1, 2)), scale="5x")


def test_statistics_come_back_from_disk(tmp_path: Path) -> None:
    kept = statistics_of(features(30, 4), extractor="demo-1", preprocessing="as it is", scale="20x")
    kept.save(tmp_path / "s.npz")
    found = Statistics.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(found.covariance, kept.covariance)
    np.testing.assert_array_equal(found.mean, kept.mean)
    named = ("n", "extractor", "preprocessing", "scale")
    assert [getattr(found, key) for key in named] == [30, "demo-1", "as it is", "20x"]


@pytest.mark.parametrize("key", ["extractor", "preprocessing", "scale"])
def test_statistics_of_different_things_are_not_compared(key: str) -> None:
    a = gaussian(np.zeros(2), np.eye(2))
    with pytest.raises(UserError, match=f"{key} other against"):
        frechet_distance(gaussian(np.zeros(2), np.eye(2), **{key: "other"}), a)


def test_other_files_are_refused_as_statistics(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", mean=np.zeros(2))
    np.savez(tmp_path / "code.npz", mean=np.array([object()]))
    statistics_of(features(5, 2)).save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:300])
    replace(statistics_of(features(5, 2)), mean=np.array([0, np.nan])).save(tmp_path / "nan.npz")
    for name in ("text", "other", "code", "cut", "missing", "nan"):
        with pytest.raises(UserError, match=rf"{name}\.npz") as refusal:
            Statistics.load(tmp_path / f"{name}.npz")
        assert "\n" not in str(refusal.value)


def test_kid_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(9, 3), features(7, 3, seed=1)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y).value == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr("ldm.evaluation.metrics.kid.BLOCK", 4)
    assert kid(x, y).value == pytest.approx(expected, rel=1e-10)
    assert BLOCK > 4


def test_kid_is_unbiased_where_the_frechet_distance_is_not() -> None:
    pool = np.random.default_rng(0).normal(size=(6000, 8))
    pairs = [(pool[i : i + 20], pool[i + 20 : i + 40]) for i in range(0, 6000, 40)]
    values = np.array([kid(x, y).value for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    distances = np.array([frechet_distance(statistics_of(x), statistics_of(y)) for x, y in pairs])
    assert distances.mean() > 10 * distances.std() / np.sqrt(len(distances))


def test_the_error_of_kid_is_the_spread_of_repeated_ones() -> None:
    rng = np.random.default_rng(0)
    repeated = [kid(rng.normal(size=(60, 4)), 1 + rng.normal(size=(80, 4))) for _ in range(100)]
    spread = np.std([estimate.value for estimate in repeated])
    assert np.mean([estimate.error for estimate in repeated]) == pytest.approx(spread, rel=0.25)


def test_the_error_of_kid_counts_crops_of_one_image_as_one() -> None:
    rng = np.random.default_rng(0)

    def crops(images: int) -> np.ndarray:
        return np.repeat(rng.normal(size=(images, 4)), 8, axis=0) + 0.1 * rng.normal(size=(8 * images, 4))

    repeated = [(crops(20), 1 + crops(30)) for _ in range(100)]
    spread = np.std([kid(x, y).value for x, y in repeated])
    assert np.mean([kid(x, y, together=8).error for x, y in repeated]) == pytest.approx(spread, rel=0.25)
    assert np.mean([kid(x, y).error for x, y in repeated]) < 0.6 * spread
    x, y = repeated[0]
    assert kid(x, y, together=1) == kid(x, y)
    assert np.isnan(kid(x[:8], y, together=8).error)


def test_kid_refuses_single_features_and_two_widths() -> None:
    with pytest.raises(UserError, match="at least 2"):
        kid(np.zeros((1, 2)), np.zeros((5, 2)))
    with pytest.raises(UserError, match="one width"):
        kid(np.zeros((5, 2)), np.zeros((5, 3)))


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """64 px tiles (n, 64, 64, 3) of a demo slide, those with most tissue."""
    slide = histology_slide(310, 1024)
    tiles = slide.reshape(16, 64, 16, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    return tiles[np.argsort(tiles.std((1, 2, 3)))[-96:]]


def blurred(tiles: np.ndarray, much: float) -> np.ndarray:
    return ndimage.gaussian_filter(tiles, (0, much, much, 0))


def noisy(tiles: np.ndarray, much: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=12 * much, size=tiles.shape)
    return (tiles + noise).clip(0, 255).astype(np.uint8)


def compressed(tiles: np.ndarray, much: float) -> np.ndarray:
    def one(tile: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, "JPEG", quality=round(60 / much**2))
        return np.array(Image.open(buffer))

    return np.stack([one(tile) for tile in tiles])


@pytest.mark.parametrize("damage", [blurred, noisy, compressed])
def test_both_grow_with_blur_noise_and_jpeg(damage, tissue: np.ndarray) -> None:
    encoder = load_encoder("demo")
    real = encoder(torch.from_numpy(tissue)).numpy()
    harmed = [encoder(torch.from_numpy(damage(tissue, much))).numpy() for much in (0.7, 1.4, 2.8)]
    distances = [frechet_distance(statistics_of(x), statistics_of(real)) for x in harmed]
    assert 1e-3 < distances[0] < distances[1] < distances[2]
    values = [kid(x, real).value for x in harmed]
    assert values[0] < values[1] < values[2]
    halves = kid(real[::2], real[1::2])
    assert abs(halves.value) < 2 * halves.error
