"""The bundled tile encoders, which need no download: uint8 tiles (n, h, w, 3) -> embeddings (n, 256).

A random ResNet-18 up to its second stage takes the tile at half resolution; the spatial mean and standard deviation of
each channel are standardised by statistics measured once on demo slides (data_prep/fit_demo_encoder.py). There is one
for histology, "demo", and one for satellite scenes, "satellite": the same network with statistics of their own.
"""

from pathlib import Path

import timm
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ldm.checkpoint import load_strict, load_weights
from ldm.support.bundled_models import MODELS
from ldm.support.files import sha256

FITTED = {name: model.encoder for name, model in MODELS.items() if not model.teacher}
"""weights files by the encoder's name"""
DEMO_WEIGHTS = FITTED["demo"]
DEMO_CHANNELS = 128
DEMO_TILE_PX = 128


class DemoEncoder(nn.Module):
    """Random features with measured statistics: 128 channel means and 128 standard deviations."""

    mean: Tensor
    std: Tensor
    width = 2 * DEMO_CHANNELS
    preprocessing = "2x2 means, / 127.5 - 1"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(2,))
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))
        self.id = "demo"
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path, device: str, name: str = "demo") -> "DemoEncoder":
        """`name`: what its id begins with."""
        encoder = cls()
        load_strict(encoder, load_weights(path), str(path))
        encoder.id = f"{name}-{sha256(path)[:12]}"
        return encoder.to(device)

    @torch.inference_mode()
    def forward(self, tiles: Tensor) -> Tensor:
        return ((self.features(tiles) - self.mean) / self.std).cpu()

    def features(self, tiles: Tensor) -> Tensor:
        """uint8 (n, h, w, 3) -> (n, 256), before standardisation; without the last row or column of an odd size."""
        height, width = (length - length % 2 for length in tiles.shape[1:3])
        x = (
            reduce(
                tiles[:, :height, :width].to(self.mean.device).float(), "n (h a) (w b) c -> n c h w", "mean", a=2, b=2
            )
            / 127.5
            - 1
        )
        maps = self.backbone(x)[0]  # (n, 128, h / 16, w / 16)
        return torch.cat([reduce(maps, "n c h w -> n c", "mean"), maps.std((2, 3))], 1)

    @torch.inference_mode()
    def maps(self, images: Tensor) -> list[Tensor]:
        """uint8 (n, h, w, 3) -> [(n, 128, h / 8, w / 8)], at full resolution: features used in place of LPIPS'."""
        x = rearrange(images.to(self.mean.device).float(), "n h w c -> n c h w") / 127.5 - 1
        return self.backbone(x)
