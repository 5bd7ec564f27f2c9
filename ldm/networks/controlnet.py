"""ControlNet beside a frozen U-Net (Zhang et al. 2023): a hint (b, hint_channels, h, w) steers what it denoises.

    features of the U-Net's input half  +=  zero convolutions(features of a trained copy of it, given z_t and the hint)

The hint is added to the copy's first feature map through a 1x1 convolution; another one follows each of the copy's
outputs. All of them start at zero, so training starts from the unchanged U-Net.
"""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from ldm.config.schema import Count
from ldm.layers.init import zeroed
from ldm.networks.unet import UNet


class Controlled(nn.Module):
    """`unet` steered by `control` with `hint` (b, hint_channels, h, w), with the interface of a U-Net."""

    def __init__(self, unet: nn.Module, control: nn.Module, hint: Tensor) -> None:
        super().__init__()
        self.unet, self.control, self.hint = unet, control, hint

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(z_t, t, context, self.control(z_t, t, context, self.hint))


class Control(nn.Module):
    """A copy of the input half of `unet`, and zero convolutions; `unet` itself is not changed."""

    def __init__(self, unet: UNet, hint_channels: Count = 3) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(unet)
        del self.trunk.output_blocks, self.trunk.out
        self.hint = zeroed(nn.Conv2d(hint_channels, unet.width, 1))
        self.ends = nn.ModuleList([zeroed(nn.Conv2d(channels, channels, 1)) for channels in unet.encoded])

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """What the hint passes, and what the U-Net is given: `ldm.networks.trained`."""
        return {"hint": [self.hint.weight], "ends": [end.get_parameter("weight") for end in self.ends]}

    def trunk_of(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The part of a U-Net's `weights` that `trunk` copies."""
        return {name: tensor for name, tensor in weights.items() if not name.startswith(("output_blocks.", "out."))}

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        """The features to add to the U-Net's, for its argument `control`."""
        time = self.trunk.embed(z_t, t, context)
        results = self.trunk.encode(z_t, time, context, self.hint(hint))
        return [end(result) for end, result in zip(self.ends, results, strict=True)]
