"""A model of a few fixed convolutions: what a world is made of, without networks, so that a chunk takes a second."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.tokens import TOKENS
from ldm.diffusion.defaults import Interval
from ldm.diffusion.guidance import Denoiser, guided
from ldm.diffusion.samplers import seeded_noise
from ldm.diffusion.schedule import at, scaled_linear_alpha_bar
from ldm.errors import UserError
from ldm.networks.preview_head import Linearised, PreviewHead
from ldm.scales import Ladder, ladder

WIDTH, EMBEDDING, SIDE, DOWNSAMPLE, REACH = 16, 4, 8, 4, 2


@dataclass(frozen=True)
class Head:
    """A preview head of the decoder below."""

    network: PreviewHead
    error: float = 0.05

    def linearised(self, z: Tensor) -> Linearised:
        return self.network.linearised(z)


def head() -> Head:
    network = PreviewHead(width=4, layers=1, downsample=DOWNSAMPLE)
    for parameter in network.parameters():
        parameter.requires_grad_(False).zero_()
    network.linear.weight[:] = torch.eye(3).repeat_interleave(4, 0)[:, :, None, None] / 2
    return Head(network)


@dataclass
class PlainModel:
    """Implements `ldm.multiscale.model.MultiscaleModel`."""

    preview: Head | None = field(default_factory=head)
    reach: int | None = REACH
    cdm: bool = True
    alpha_bar: Tensor = field(default_factory=scaled_linear_alpha_bar)
    ladder: Ladder = field(default_factory=lambda: ladder("histology", 4))
    tile_px: int = SIDE * DOWNSAMPLE
    precision: str = "fp32"
    downsample: int = DOWNSAMPLE
    embedding_width: int = EMBEDDING
    context_width: int = WIDTH
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    windows: int = 0
    """how many were denoised, over all steps"""

    @property
    def weights(self) -> dict[str, str]:
        return {"model": "plain"}

    @property
    def cdm_weights(self) -> dict[str, str]:
        if not self.cdm:
            raise UserError("cdm: none is loaded")
        return {"cdm": "plain"}

    def context(self, embeddings: Tensor | Sequence[Tensor], scale: str) -> Tensor:
        tokens = torch.stack([F.adaptive_avg_pool2d(grid, 8).flatten(1).T for grid in embeddings])  # (n, 64, d)
        spread = seeded_noise((EMBEDDING, WIDTH), 1)
        return F.pad(tokens @ spread, (0, 0, 1, 0))

    def sample_context(self, scale: str, count: int = 1, *, seed: int = 0) -> Tensor:
        return seeded_noise((count, TOKENS, WIDTH), seed)

    def context_from(self, scale: str, noise: Tensor, steps: int = 50) -> Tensor:
        return noise.tanh()

    def denoiser(self, context: Tensor, guidance: float = 1.0, guidance_interval: Interval | None = None) -> Denoiser:
        kernel = seeded_noise((3, 3, 3, 3), 2) / 5

        def under(context: Tensor) -> Denoiser:
            levels = context.mean((1, 2))[:, None, None, None]

            def denoise(z_t: Tensor, t: Tensor) -> Tensor:
                self.windows += len(z_t)
                a_t = at(self.alpha_bar, t, z_t)
                z_0 = torch.tanh(F.conv2d(z_t, kernel, padding=1) + levels)
                return (z_t - a_t.sqrt() * z_0) / (1 - a_t).sqrt()

            return denoise

        return guided(under(context), under(torch.zeros_like(context)), guidance)

    def encode(self, x: Tensor) -> Tensor:
        return 2 * F.avg_pool2d(x, DOWNSAMPLE)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        image = F.interpolate(z / 2, scale_factor=DOWNSAMPLE)
        return image + 0.1 * F.conv2d(image, seeded_noise((3, 3, 5, 5), 3) / 8, padding=2).sin()

    def decode_sampled(self, z: Tensor) -> Tensor:
        return self.decode(z)

    def decode_canvas(self, z: Tensor, batch_size: int = 8) -> Iterator[Tensor]:
        yield self.decode(z[None])[0]
