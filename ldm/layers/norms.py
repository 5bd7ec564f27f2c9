"""Normalisation of feature maps (b, c, h, w): over groups of channels and space, or over the channels of each pixel."""

import math

import torch
from torch import Tensor, nn


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm of 32 groups, or as many as divide `channels` when they are no multiple of 32."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=eps)


class PixelNorm(nn.Module):
    """x / rms(x over channels) * weight + bias, at every pixel on its own (Zhang and Sennrich 2019).

    It takes no statistics over space, so a network made of it and convolutions gives a crop what it gives the whole
    image, away from the crop's border.
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
