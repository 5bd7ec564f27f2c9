"""A discriminator of image detail for the autoencoder's adversarial loss.

Convolutions with spectral normalisation (Miyato et al. 2018), and a low-pass filter before every downsampling (Zhang
2019): without the filter, aliasing makes the discriminator depend on the phase of the finest patterns and favour
stripes. It is also given the coarse image, so that it judges whether the detail fits.

Shapes: b images (b, 3, h, w) in [-1, 1].
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

COARSE = 4
"""side in pixels of the means that form the coarse image"""
DETAIL, LAYER, LOGIT = 4.0, 1.6, 10.0
"""gains of the detail image, of every layer's output and of the logits: spectral normalisation bounds the difference of
the logits of two images, and without gains it is too small for faint detail"""


class Halve(nn.Module):
    """Half the size through a binomial low-pass filter of 4 pixels a side."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(weights, weights)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x).expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


def _coarse(x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, COARSE), scale_factor=float(COARSE), mode="bilinear")


class DetailDiscriminator(nn.Module):
    """Image and coarse original -> logits (b, 1, h/4, w/4)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [6, width, 2 * width, 3 * width, 3 * width]
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 3, padding=1)) for a, b in pairwise(widths))
        self.halve = Halve()
        self.out = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False))

    def forward(self, image: Tensor, original: Tensor) -> Tensor:
        """`original`: the image whose means over COARSE pixels a side `image` should share."""
        detail = DETAIL * (image - _coarse(image))
        h = torch.cat([detail, _coarse(original)], dim=1)
        for number, layer in enumerate(self.layers):
            h = LAYER * F.leaky_relu(layer(h), 0.2)
            if number < 2:
                h = self.halve(h)
        return LOGIT * self.out(h)
