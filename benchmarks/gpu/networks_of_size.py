"""Networks with random weights, and how much is done with them, by size.

Shapes: d embedding width, n base tiles a side.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.hub import fast_form
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.preview_head import PreviewHead
from ldm.networks.summarizer import Summarizer
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM
from ldm.preview_model import PreviewModel
from ldm.scales import ladder


@dataclass(frozen=True)
class Size:
    """Sizes of the networks and of the tasks."""

    unet: dict[str, Any] = field(default_factory=dict)
    summarizer: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, Any] = field(default_factory=dict)
    encoder: str = "uni"
    """a published tile encoder"""
    tiles: int = 512
    """that it embeds"""
    context_dim: int = 512
    embedding_dim: int = 1024
    tile_px: int = 256
    train_steps: int = 20
    train_batch: int = 32
    batch: int = 16
    """samples at a time of single evaluations"""
    repeats: int = 10
    patches: int = 64
    toy_batch: int = 64
    large_px: int = 1024
    windows: int = 64
    """of a large image, at a time"""
    steps: int | None = None
    """steps of sampling; None: the defaults"""
    product: int = 8192
    """side of the matrices whose product is the peak"""
    check_px: int = 256
    check_steps: int = 4


SIZES = {
    "full": Size(),
    "bundled": Size(
        unet={
            "width": 64,
            "multipliers": (1, 1, 2),
            "blocks": 1,
            "attention": (4,),
            "heads": 4,
            "context_dim": 128,
            "shortcuts": True,
        },
        summarizer={"embedding_dim": 256, "width": 128, "layers": 3, "heads": 4, "mlp": 512, "stretch": True},
        autoencoder={
            "width": 48,
            "multipliers": (1, 2),
            "blocks": 1,
            "codes": None,
            "patch": 2,
            "norm": "pixel",
            "attention": False,
            "head": 24,
        },
        context_dim=128,
        embedding_dim=256,
        tile_px=128,
        product=1024,
    ),
    "tiny": Size(
        unet={"width": 32, "multipliers": (1, 1), "blocks": 1, "attention": (2,), "context_dim": 32},
        summarizer={"embedding_dim": 8, "width": 32, "layers": 1, "heads": 2, "mlp": 32},
        autoencoder={"width": 16, "multipliers": (1, 1, 1), "blocks": 1, "codes": 64, "attention": False},
        encoder="hipt",
        tiles=2,
        context_dim=32,
        embedding_dim=8,
        tile_px=32,
        train_steps=2,
        train_batch=2,
        batch=2,
        repeats=2,
        toy_batch=2,
        patches=2,
        large_px=64,
        windows=2,
        steps=2,
        product=256,
        check_px=128,
        check_steps=1,
    ),
}


def random_model(size: Size, device: str | torch.device, precision: str) -> ZoomLDM:
    """The networks of `size` with random weights, none of them zero, so that nothing is degenerate."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(**size.autoencoder)
    head = PreviewHead(downsample=autoencoder.downsample)
    parts: list[nn.Module] = [UNet(**size.unet), Summarizer(**size.summarizer), autoencoder, head]
    for part in parts:
        for weight in part.eval().requires_grad_(False).parameters():
            if not weight.any():
                weight.normal_(std=0.02)
        fast_form(part)
    unet, summarizer, *_ = parts
    model = ZoomLDM(
        unet=unet,  # type: ignore[arg-type]
        summarizer=summarizer,  # type: ignore[arg-type]
        autoencoder=autoencoder,
        alpha_bar=scaled_linear_alpha_bar(),
        prediction="eps",
        ladder=ladder("histology", 8),
        tile_px=size.tile_px,
        encoder="random",
        precision=precision,
        preview=PreviewModel(head),
    )
    return model.to(device)


def tokens(size: Size, pixels: int) -> Tensor:
    """Embeddings (d, n, n) of the base tiles under an image."""
    side = -(-pixels // size.tile_px)
    return torch.randn(size.embedding_dim, side, side, generator=torch.Generator().manual_seed(1))
