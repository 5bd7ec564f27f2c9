"""Distances of images: closed forms, and invariances of the encoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from benchmarks.fixtures import toy
from ldm.errors import UserError
from ldm.evaluation.metrics.fidelity import Lpips, alexnet_file, encoder_distance, encoder_similarity, psnr, ssim
from ldm.support.files import sha256


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


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights in place of AlexNet's in torch's download folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    alexnet_file().parent.mkdir()
    return toy.alexnet_weights(alexnet_file())


def test_lpips_is_that_of_torchmetrics_with_the_weights_of_the_file(images: np.ndarray, weights: Path) -> None:
    own = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    changed = images.copy()
    changed[1] += 50
    found = Lpips(weights.rename(weights.with_name("elsewhere.pth")))(changed, images)
    a, b = (rearrange(torch.from_numpy(values) / 255, "n h w c -> n 1 c h w") for values in (changed, images))
    expected = [float(own(image, truth)) for image, truth in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert found[0] == found[2] == 0 < found[1]


def test_lpips_grows_with_noise_and_names_its_weights(images: np.ndarray, weights: Path) -> None:
    lpips = Lpips.found()
    assert lpips is not None
    assert lpips.id == f"alexnet-{sha256(weights)[:12]}"
    noise = np.random.default_rng(1).integers(-1, 2, images.shape)
    distances = [lpips((images + size * noise).astype(np.uint8), images) for size in (0, 5, 15)]
    assert np.isfinite(distances).all()
    assert (distances[0] == 0).all()
    assert (distances[0] < distances[1]).all()
    assert (distances[1] < distances[2]).all()


def test_lpips_without_weights_is_refused_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert Lpips.found() is None
    for path in (None, tmp_path / "nowhere.pth"):
        with pytest.raises(UserError, match=r"\.pth is missing; put .* https://.* --weights lpips=") as refusal:
            Lpips(path)
        assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_lpips_refuses_the_weights_of_another_network(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth is another network's; expected the file of https://") as refusal:
        Lpips.found(tmp_path / "other.pth")
    assert "\n" not in str(refusal.value)


def test_images_that_cannot_be_compared_are_refused(images: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"images \(3, 32, 40, 3\) and truth \(2, 32, 40, 3\)"):
        psnr(images, images[:2])
    with pytest.raises(UserError, match="images are float32, truth uint8; expected uint8"):
        ssim(images.astype(np.float32), images)
    with pytest.raises(UserError, match="expected one shape"):
        encoder_distance(colours, images, images[:, :8])
