"""Images as tensors in [-1, 1] and as bytes."""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from ldm.support.finite import checked


def from_uint8(images: NDArray[np.uint8]) -> Tensor:
    """Images (b, H, W, 3) -> (b, 3, H, W) in [-1, 1]."""
    return rearrange(torch.from_numpy(images), "b h w c -> b c h w").contiguous() / 127.5 - 1


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Images (b, 3, H, W), clamped to [-1, 1] -> (b, H, W, 3), rounded: the inverse of u / 127.5 - 1.

    NotFiniteError for NaN, which would become black, and for infinities.
    """
    levels = ((checked(x.detach(), "image").float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(levels, "b c h w -> b h w c").cpu().numpy()
