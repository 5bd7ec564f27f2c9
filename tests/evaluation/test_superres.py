"""Distances of images: closed forms, and what the encoder's eye does not see."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation import superres
from ldm.evaluation.superres import encoder_distance, encoder_similarity, lpips, lpips_available, psnr, ssim


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(20, 200, (3, 32, 40, 3), dtype=np.uint8)


def test_psnr_is_the_log_of_the_mean_square_of_each_image(images: np.ndarray) -> None:
    changed = images.copy()
    changed[0] += 4
    changed[1, :16] += 10
    expected = [20 * np.log10(255 / 4), 20 * np.log10(255 / np.sqrt(50)), np.inf]
    np.testing.assert_allclose(psnr(changed, images), expected, rtol=1e-5)


def test_ssim_of_flat_images_compares_their_means(images: np.ndarray) -> None:
    a, b = np.full((1, 32, 32, 3), 100, np.uint8), np.full((1, 32, 32, 3), 150, np.uint8)
    constant = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + constant) / (100**2 + 150**2 + constant)
    np.testing.assert_allclose(ssim(a, b), [expected], rtol=1e-3)
    np.testing.assert_allclose(ssim(images, images), [1, 1, 1], rtol=1e-5)


def colours(images: Tensor) -> Sequence[Tensor]:
    """Two depths of features: the pixels, and their 2x2 means."""
    maps = rearrange(images, "n h w c -> n c h w").float()
    return [maps, torch.nn.functional.avg_pool2d(maps, 2)]


def test_encoder_distance_of_right_angles_is_two_and_ignores_brightness(images: np.ndarray) -> None:
    red, green = np.zeros((2, 1, 8, 8, 3), np.uint8)
    red[..., 0], green[..., 1] = 200, 50
    np.testing.assert_allclose(encoder_distance(colours, red, green), [2.0], rtol=1e-6)
    np.testing.assert_allclose(encoder_distance(colours, red, red // 2), [0.0], atol=1e-6)
    half = red.copy()
    half[:, :4] = green[:, :4]
    np.testing.assert_allclose(encoder_distance(colours, half, red), [1.0], rtol=1e-6)
    assert encoder_distance(colours, images, images[::-1].copy()).shape == (3,)


def test_encoder_similarity_is_the_cosine() -> None:
    def embed(images: Tensor) -> Tensor:
        return images.float().mean((1, 2))  # (n, 3)

    a, b = np.zeros((2, 2, 4, 4, 3), np.uint8)
    a[..., 0], b[0, ..., 0], b[1, ..., 1] = 10, 90, 90
    np.testing.assert_allclose(encoder_similarity(embed, a, b), [1.0, 0.0], atol=1e-6)


def test_lpips_without_weights_is_refused_and_downloads_nothing(
    images: np.ndarray, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert not lpips_available()
    with pytest.raises(UserError, match=r"alexnet-owt-\w+.pth is missing; put the file there: https://") as refusal:
        lpips(images, images)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_lpips_measures_each_pair_in_the_range_of_the_network(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distance(image: Tensor, truth: Tensor) -> Tensor:
        assert image.shape == (1, 3, 32, 40)
        assert 0 <= image.min() < image.max() <= 1
        return (image - truth).abs().mean()

    monkeypatch.setattr(superres, "lpips_available", lambda: True)
    monkeypatch.setattr(superres, "_lpips", lambda: distance)
    changed = images.copy()
    changed[1] += 51
    np.testing.assert_allclose(lpips(changed, images), [0, 0.2, 0], atol=1e-6)


def test_images_that_cannot_be_compared_are_refused(images: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"images \(3, 32, 40, 3\) and truth \(2, 32, 40, 3\)"):
        psnr(images, images[:2])
    with pytest.raises(UserError, match="images are float32, truth uint8; expected uint8"):
        ssim(images.astype(np.float32), images)
    with pytest.raises(UserError, match="expected one shape"):
        encoder_distance(colours, images, images[:, :8])
