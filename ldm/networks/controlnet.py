"""ControlNet beside a frozen U-Net (Zhang et al. 2023): a hint (b, hint_channels, h, w) steers what it denoises.

    results of the U-Net's input half  +=  zero convolutions(results of a trained copy of it that sees z_t and the hint)

The hint joins the copy's first result through a 1x1 convolution; a 1x1 convolution ends each of the copy's results. All
of them start at zero, so training starts from the U-Net as it is.
"""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from ldm.config.schema import Count
from ldm.layers.init import zeroed
from ldm.networks.unet import UNet


class Controlled(nn.Module):
    """`unet` steered by `control` under `hint` (b, hint_channels, h, w): a denoiser's network like any other."""

    def __init__(self, unet: nn.Module, control: nn.Module, hint: Tensor) -> None:
        super().__init__()
        self.unet, self.control, self.hint = unet, control, hint

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(z_t, t, context, self.control(z_t, t, context, self.hint))


class Control(nn.Module):
    """A copy of the input half of `unet`, and the convolutions around it; `unet` itself stays as it is."""

    def __init__(self, unet: UNet, hint_channels: Count = 3) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(unet)
        del self.trunk.output_blocks, self.trunk.out
        self.hint = zeroed(nn.Conv2d(hint_channels, unet.width, 1))
        self.ends = nn.ModuleList([zeroed(nn.Conv2d(channels, channels, 1)) for channels in unet.encoded])

    def trunk_of(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a U-Net's `weights` that `trunk` is a copy of."""
        return {name: tensor for name, tensor in weights.items() if not name.startswith(("output_blocks.", "out."))}

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        """What is added to the U-Net's results; its argument `control`."""
        time = self.trunk.embed(z_t, t, context)
        results = self.trunk.encode(z_t, time, context, self.hint(hint))
        return [end(result) for end, result in zip(self.ends, results, strict=True)]
