"""Normalisation of feature maps (b, c, h, w): over groups of channels and space, or over the channels of each pixel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """GroupNorm in float32 for any dtype of x: the published precision, also needed by forward derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


def group_norm(channels: int, eps: float) -> GroupNorm:
    """GroupNorm of 32 groups, or as many as divide `channels` when they are no multiple of 32."""
    return GroupNorm(math.gcd(32, channels), channels, eps=eps)


class PixelNorm(nn.Module):
    """x / rms(x over channels) * weight + bias, at every pixel on its own (Zhang and Sennrich 2019).

    It uses no statistics over space, so a network of it and convolutions gives the same result for a crop as for the
    whole image, away from the crop's border.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1]  # (b, 1, h, w)
        scale = torch.rsqrt(mean_square + self.eps)
        return torch.addcmul(self.bias[:, None, None], x * scale, self.weight[:, None, None])
