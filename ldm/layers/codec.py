"""Parts of the autoencoder, under the names of the published VQ-f4 (Esser et al. 2021; Rombach et al. 2022).

Shapes: b images, c channels, h w the size of the feature map.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
"""channels -> normalisation"""


class ResnetBlock(nn.Module):
    """x + two rounds of (norm, SiLU, 3x3 convolution); a 1x1 shortcut where the channels change."""

    def __init__(self, channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class AttentionBlock(nn.Module):
    """x + self-attention over all pixels, one head."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(f(h), "b c h w -> b 1 (h w) c") for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)  # (b, 1, h w, c)
        return x + self.proj_out(rearrange(h, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Middle(nn.Module):
    """Block, attention, block at the coarsest size; the attention can be left out."""

    def __init__(self, channels: int, norm: Norm, attention: bool) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, norm)
        self.attn_1 = AttentionBlock(channels, norm) if attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class PaddedDownsample(nn.Module):
    """Half the size: 3x3 convolution of stride 2, zeros added on the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (b, c, h/2, w/2)


class Level(nn.Module):
    """One resolution: `blocks` residual blocks, then a change of size or none."""

    def __init__(self, channels: int, out_channels: int, blocks: int, norm: Norm) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, norm) for a, b in pairwise(widths))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(self.downsample(x))


class Head(nn.Module):
    """Convolutions at full resolution after a pixel shuffle, which alone leaves a pattern with a period of `patch`
    pixels.

    Two 3x3 convolutions of the image x (b, 3, f h, f w) and of its upsampled features h (b, channels, h, w), f = patch,
    are added to x. Initialised to add 0.
    """

    REACH = 2
    """pixels"""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.features = nn.Conv2d(channels, width * patch**2, 1)
        self.mix = nn.Conv2d(3 + width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        f = F.pixel_shuffle(self.features(h), self.patch)  # (b, width, f h, f w)
        return x + self.conv_out(F.silu(self.mix(torch.cat([x, F.silu(f)], dim=1))))
