"""A U-Net without context that is given an image: channels of z_t and of the image side by side.

As the super-resolution LDM of Rombach et al. 2022 (section 4.4; the paper's Table 3, row CompVis).
"""

import torch
from torch import Tensor, nn

from ldm.networks.unet import UNet


class Concatenated(nn.Module):
    """`unet` of z_t (b, 3, h, w) beside `image` (b, 3, h, w), with the interface of a U-Net; no context is used."""

    def __init__(self, unet: UNet, image: Tensor) -> None:
        super().__init__()
        self.unet, self.image = unet, image

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        nothing = z_t.new_zeros(len(z_t), 1, self.unet.context_dim)
        return self.unet(torch.cat([z_t, self.image.to(z_t.dtype)], dim=1), t, nothing)
