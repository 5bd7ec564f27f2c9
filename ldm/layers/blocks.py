"""Convolutional blocks of the U-Net, under the published names (Dhariwal and Nichol 2021; Rombach et al. 2022)."""

from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ldm.layers.init import zeroed
from ldm.layers.norms import group_norm

FOLDED_FROM = 32 * 32
"""pixels of a feature map"""
LAYOUT = torch.channels_last


class ResBlock(nn.Module):
    """x + (norm, SiLU, conv, + time, norm, SiLU, conv); a 1x1 convolution on x where the channels change.

    out_layers.2 is the published model's dropout, which is 0.
    """

    def __init__(self, channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            group_norm(channels, eps=1e-5), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Identity(),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (b, channels, h, w), time (b, time_dim) -> (b, out_channels, h, w)."""
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """Half the size: 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # (b, c, h/2, w/2)


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then a 3x3 convolution.

    Of the nine pixels under the kernel, several are copies of one. Where `folded`, their weights are added first: each
    of the four pixels made of one is a 2x2 convolution of x, 4 / 9 of the products, equal up to rounding. Sums of
    weights are made at every call, which pays from FOLDED_FROM pixels on.
    """

    folded = False
    """set where a network is loaded; trained ones are not folded"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.folded and x.shape[-2] * x.shape[-1] >= FOLDED_FROM:
            return self._by_folded_weights(x)
        doubled = repeat(x, "b c h w -> b (h i) (w j) c", i=2, j=2)  # its gradient is a sum, interpolation's a scatter
        return self.conv(rearrange(doubled, "b h w c -> b c h w"))  # (b, c, 2h, 2w)

    def _by_folded_weights(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows = _folded(self.conv.weight, 2)  # two kernels (c, c, 2, 3): of even and of odd rows
        parts = [  # even and odd rows of even and odd columns, (b, c, h, w) each
            [
                F.conv2d(F.pad(x, (1 - j, j, 1 - i, i)), kernel.contiguous(memory_format=LAYOUT), self.conv.bias)
                for j, kernel in enumerate(_folded(row, 3))  # (c, c, 2, 2)
            ]
            for i, row in enumerate(rows)
        ]
        out = torch.empty(len(x), x.shape[1], 2 * height, 2 * width, dtype=parts[0][0].dtype, device=x.device)
        out = out.to(memory_format=LAYOUT)
        for i, j in product((0, 1), (0, 1)):
            out[:, :, i::2, j::2] = parts[i][j]
        return out


def _folded(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """A kernel's three taps along `dim` on pixels that stand twice, as two on single ones: for even, for odd places."""
    before, here, after = weight.split(1, dim)
    return torch.cat([before, here + after], dim), torch.cat([before + here, after], dim)
