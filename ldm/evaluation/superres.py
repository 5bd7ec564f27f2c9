"""How near images are to the truth, pixel by pixel and in the eyes of a network (paper, Table 3).

PSNR rewards blur, the others do not. LPIPS (Zhang et al. 2018) needs AlexNet's weights, which are not in the package;
a frozen encoder's features stand in for it where they are missing.

Letters: n images, H, W pixels, d channels, h, w positions of a feature map. Images are uint8 (n, H, W, 3), and every
measure gives a value an image (n,), so that a table can have mean and spread.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from ldm.errors import UserError

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating[Any]]
Embed = Callable[[Tensor], Tensor]
"""uint8 (n, H, W, 3) -> embeddings (n, d)"""
Features = Callable[[Tensor], Sequence[Tensor]]
"""uint8 (n, H, W, 3) -> feature maps (n, d, h, w) of several depths"""


def psnr(images: Pixels, truth: Pixels) -> Values:
    """Peak signal-to-noise ratio (n,) in dB, over all channels; infinite for equal images."""
    return peak_signal_noise_ratio(*_pair(images, truth), data_range=255.0, reduction="none", dim=(1, 2, 3)).numpy()


def ssim(images: Pixels, truth: Pixels) -> Values:
    """Structural similarity (n,), mean of the channels (Wang et al. 2004: Gaussian window, sigma 1.5)."""
    similarity = structural_similarity_index_measure(*_pair(images, truth), data_range=255.0, reduction="none")
    return cast(Tensor, similarity).numpy()


def _alexnet() -> Path:
    """Where torchvision keeps the weights that LPIPS looks for."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name


def lpips_available() -> bool:
    """Whether `lpips` has its weights on this disk; nothing is downloaded."""
    return _alexnet().is_file()


def lpips_remedy() -> str:
    """What to do where it has not."""
    return f"{_alexnet()} is missing; put the file there: {AlexNet_Weights.IMAGENET1K_V1.url}"


@cache
def _lpips() -> LearnedPerceptualImagePatchSimilarity:
    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)


@torch.no_grad()
def lpips(images: Pixels, truth: Pixels) -> Values:
    """LPIPS (n,) with AlexNet. UserError where its weights are missing: they are not downloaded."""
    if not lpips_available():
        raise UserError(f"lpips: {lpips_remedy()}")
    pairs = zip(*(values.div(255).split(1) for values in _pair(images, truth)), strict=True)
    return np.array([float(_lpips()(image, true)) for image, true in pairs])


@torch.no_grad()
def encoder_similarity(embed: Embed, images: Pixels, truth: Pixels) -> Values:
    """Cosine (n,) of the embeddings of both."""
    _pair(images, truth)
    return F.cosine_similarity(embed(torch.from_numpy(images)), embed(torch.from_numpy(truth)), dim=1).cpu().numpy()


@torch.no_grad()
def encoder_distance(features: Features, images: Pixels, truth: Pixels) -> Values:
    """LPIPS without learnt weights (n,): squared distance of unit feature vectors, mean over positions, then depths."""
    _pair(images, truth)
    maps = zip(features(torch.from_numpy(images)), features(torch.from_numpy(truth)), strict=True)
    return torch.stack([(_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in maps]).mean(0).cpu().numpy()


def _unit(maps: Tensor) -> Tensor:
    return F.normalize(maps.float(), dim=1)  # (n, d, h, w)


def _pair(images: Pixels, truth: Pixels) -> tuple[Tensor, Tensor]:
    """Both as float (n, 3, H, W), 0 to 255. UserError unless they are uint8 (n, H, W, 3) of one shape."""
    if images.shape != truth.shape or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"images {images.shape} and truth {truth.shape}; expected one shape (n, H, W, 3)")
    if images.dtype != np.uint8 or truth.dtype != np.uint8:
        raise UserError(f"images are {images.dtype}, truth {truth.dtype}; expected uint8")
    a, b = (rearrange(torch.from_numpy(values), "n h w c -> n c h w").float() for values in (images, truth))
    return a, b
