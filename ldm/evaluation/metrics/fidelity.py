"""Similarity of images to the truth: of pixels and of network features (paper, Table 3).

PSNR rewards blur, the others do not. LPIPS (Zhang et al. 2018) needs AlexNet's weights, which are not in the package;
without them, a frozen encoder's features are used instead.

Shapes: n images, H, W pixels, d channels, h, w positions of a feature map. Images are uint8 (n, H, W, 3), and every
measure gives one value per image (n,), so that tables can show mean and standard deviation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import AlexNet_Weights, alexnet

from ldm.checkpoint import check_strict, load_weights
from ldm.errors import UserError
from ldm.support.files import sha256

ALEXNET_URL = AlexNet_Weights.IMAGENET1K_V1.url
LPIPS_REMEDY = f"put the file of {ALEXNET_URL} there or give --weights lpips=PATH"

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


class Lpips:
    """LPIPS (n,) as torchmetrics has it, with the learnt weights of its channels, over AlexNet's features.

    AlexNet's weights are read from `weights`, or from torch's download folder; nothing is downloaded. UserError when
    they are missing or another network's.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        path = alexnet_file() if weights is None else Path(weights)
        if not path.is_file():
            raise UserError(f"lpips: {path} is missing; {LPIPS_REMEDY}")
        state = load_weights(path)
        with torch.device("meta"):
            published = alexnet()
        try:
            check_strict(published, state, str(path))
        except UserError as error:
            raise UserError(f"lpips: {path} is another network's; expected the file of {ALEXNET_URL}") from error
        self.network = _LPIPS(net="alex", pnet_rand=True)
        own = self.network.net.state_dict()  # slice1.0.weight is features.0.weight
        self.network.net.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in own})
        self.id = f"alexnet-{sha256(path)[:12]}"

    @classmethod
    def found(cls, weights: str | Path | None = None) -> "Lpips | None":
        """LPIPS, or None where no weights are given or found."""
        return None if weights is None and not alexnet_file().is_file() else cls(weights)

    @torch.no_grad()
    def __call__(self, images: Pixels, truth: Pixels) -> Values:
        a, b = (values / 255 for values in _pair(images, truth))
        return self.network(a, b, normalize=True).flatten().numpy()


def alexnet_file() -> Path:
    """Path of AlexNet's weights in torch's download folder."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(ALEXNET_URL).name


@torch.no_grad()
def encoder_similarity(embed: Embed, images: Pixels, truth: Pixels) -> Values:
    """Cosine similarity (n,) of the embeddings."""
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
