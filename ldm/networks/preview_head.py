"""The preview head: latents to the image at half its resolution, in place of a decoder where a small image is enough.

Joint sampling compares a decoded canvas with a coarser image. For that, a few convolutions from latents to a small
image replace the decoder, and their Jacobian the encoder's (`ldm.multiscale.least_squares`), at about a thousandth of
their operations. A head belongs to one decoder, on whose images it was trained from latents alone.

Shapes: b latents, h, w their sides; a latent stands for a square of `downsample` pixels, here for half as many a side.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.config.schema import Count

LEVELS = 4
"""resolutions at which its error is known: 1/2, 1/4, 1/8 and 1/16 of the image's"""


class Linearised(NamedTuple):
    """A function at one point: its value, and its Jacobian and the transposed one as maps of directions."""

    value: Tensor
    forward: Callable[[Tensor], Tensor]
    transposed: Callable[[Tensor], Tensor]


class PreviewHead(nn.Module):
    """z (b, 3, h, w) -> image (b, 3, h downsample / 2, w downsample / 2) in [-1, 1], not clamped."""

    error: Tensor
    """(LEVELS,) root mean square of its error at each resolution on validation latents, measured after training"""

    def __init__(
        self, *, width: Count = 48, layers: Count = 3, latent_channels: Count = 3, downsample: Count = 4
    ) -> None:
        """`width` and number of the hidden 3x3 convolutions; `downsample` of the autoencoder, even."""
        super().__init__()
        self.pixels = downsample // 2
        channels = 3 * self.pixels**2
        convolution: dict[str, Any] = {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}
        widths = [latent_channels, *layers * [width]]
        self.hidden = nn.ModuleList(nn.Conv2d(a, b, **convolution) for a, b in pairwise(widths))
        self.conv_out = nn.Conv2d(width, channels, **convolution)
        self.linear = nn.Conv2d(latent_channels, channels, 1)
        self.register_buffer("error", torch.zeros(LEVELS))

    def forward(self, z: Tensor) -> Tensor:
        return self.linearised(z).value

    def linearised(self, z: Tensor) -> Linearised:
        """The image of z, and the Jacobian there as two maps, each about as expensive as the image itself."""
        x, slopes = z, []
        for convolution in self.hidden:
            before = convolution(x)  # (b, width, h, w)
            share = before.sigmoid()
            x = before * share  # SiLU
            slopes.append(share * (1 + before - x))

        def forward(dz: Tensor) -> Tensor:
            dx = dz
            for convolution, slope in zip(self.hidden, slopes, strict=True):
                dx = _convolved(convolution, dx) * slope
            return F.pixel_shuffle(_convolved(self.conv_out, dx) + F.conv2d(dz, self.linear.weight), self.pixels)

        def transposed(image: Tensor) -> Tensor:
            folded = F.pixel_unshuffle(image, self.pixels)
            dx = _spread(self.conv_out, folded)
            for convolution, slope in zip(reversed(self.hidden), reversed(slopes), strict=True):
                dx = _spread(convolution, dx * slope)
            return dx + F.conv_transpose2d(folded, self.linear.weight)

        value = F.pixel_shuffle(self.conv_out(x) + self.linear(z), self.pixels)  # (b, 3, h pixels, w pixels)
        return Linearised(value, forward, transposed)

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all of an image passes: `ldm.networks.trained`."""
        return {"linear": [self.linear.weight], "conv_out": [self.conv_out.weight]}


def _convolved(convolution: Any, x: Tensor) -> Tensor:
    """A 3x3 convolution with repeated edges, without its bias."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), convolution.weight)


def _spread(convolution: Any, x: Tensor) -> Tensor:
    """The transpose of `_convolved`."""
    padded = F.conv_transpose2d(x, convolution.weight)
    for inner, outer in ((1, 0), (-2, -1)):
        padded[..., inner, :] += padded[..., outer, :]
    for inner, outer in ((1, 0), (-2, -1)):
        padded[..., inner] += padded[..., outer]
    return padded[..., 1:-1, 1:-1]
