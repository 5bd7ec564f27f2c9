"""Losses of the autoencoder: pixels, adversarial, texture. `forward` is its loss, `judge` the discriminator's.

Both return (loss, {name: value to log}). `autoencoder_loss` and `discriminator_loss` also accept taming's
`VQLPIPSWithDiscriminator`, with which the published autoencoder was trained.
Shapes: x (b, 3, h, w) in [-1, 1].
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from taming.modules.losses.vqperceptual import VQLPIPSWithDiscriminator
from torch import Tensor, nn

from ldm.config.schema import Count, Natural, NonNegative
from ldm.training.discriminator import DetailDiscriminator
from ldm.training.texture import band_energy_difference, contrast_difference, lattice, stripes

Loss = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Images and their reconstruction."""

    x: Tensor
    x_hat: Tensor
    codebook_loss: Tensor
    last_layer: Tensor
    """weights of the decoder's last layer"""
    step: int
    """of the training; -1: without the adversarial term"""


def autoencoder_loss(loss: nn.Module, made: Reconstruction) -> Loss:
    return _as_taming(loss, made, 0) if isinstance(loss, VQLPIPSWithDiscriminator) else loss(made)


def discriminator_loss(loss: Any, made: Reconstruction) -> Loss:
    return _as_taming(loss, made, 1) if isinstance(loss, VQLPIPSWithDiscriminator) else loss.judge(made)


def _as_taming(loss: nn.Module, made: Reconstruction, index: int) -> Loss:
    """`index`: 0 for the autoencoder, 1 for the discriminator."""
    value, values = loss(made.codebook_loss, made.x, made.x_hat, index, made.step, made.last_layer, split="train")
    return value, {name.removeprefix("train/"): logged for name, logged in values.items()}


class ReconstructionLoss(nn.Module):
    """L1 of the pixels and of their gradients: needs no downloaded network, keeps edges; no adversary."""

    def __init__(self, *, codebook_weight: NonNegative = 1.0, gradient_weight: NonNegative = 0.5) -> None:
        super().__init__()
        self.codebook_weight, self.gradient_weight = codebook_weight, gradient_weight

    def forward(self, made: Reconstruction) -> Loss:
        error = made.x_hat - made.x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + self.gradient_weight * edges + self.codebook_weight * made.codebook_loss.mean()
        return loss, {"total_loss": loss.detach()}


class TextureLoss(nn.Module):
    """Reconstruction with texture as strong as the original's where a latent cannot carry the texture itself.

    L1 and L2 of the pixels determine what can be reproduced. `band_energy_difference` determines how much of the
    remaining texture is generated, and a discriminator its appearance: at every place it predicts which of two images
    is the original (relativistic pairs: Jolicoeur-Martineau 2018). `stripes`, `lattice` and `contrast_difference`
    penalise patterns of the decoder's own.
    """

    def __init__(
        self,
        *,
        codebook_weight: NonNegative = 1.0,
        square_weight: NonNegative = 2.0,
        band_weight: NonNegative = 0.4,
        stripe_weight: NonNegative = 5.0,
        lattice_weight: NonNegative = 5.0,
        contrast_weight: NonNegative = 0.5,
        adversary_weight: NonNegative = 0.0,
        adversary_start: Natural = 0,
        width: Count = 32,
    ) -> None:
        """`width`: channels of the discriminator, which is used from step `adversary_start` on.

        `adversary_weight`: norm of the adversarial term's gradient relative to that of the pixel terms; 0: there is no
        discriminator. The other weights multiply their terms.
        """
        super().__init__()
        self.codebook_weight, self.square_weight = codebook_weight, square_weight
        self.band_weight, self.stripe_weight, self.lattice_weight = band_weight, stripe_weight, lattice_weight
        self.contrast_weight = contrast_weight
        self.adversary_weight, self.adversary_start = adversary_weight, adversary_start
        self.discriminator = DetailDiscriminator(width) if adversary_weight else None

    def forward(self, made: Reconstruction) -> Loss:
        x, x_hat = made.x, made.x_hat
        error = x_hat - x
        parts = {
            "pixels": error.abs().mean() + self.square_weight * error.square().mean(),
            "codebook": self.codebook_weight * made.codebook_loss.mean(),
            "bands": self.band_weight * band_energy_difference(x, x_hat),
            "stripes": self.stripe_weight * stripes(error),
            "lattice": self.lattice_weight * lattice(error),
            "contrast": self.contrast_weight * contrast_difference(x, x_hat),
        }
        if self.discriminator is not None and made.step >= self.adversary_start and x_hat.requires_grad:
            parts["adversary"] = self._adversary(self.discriminator, x, x_hat, parts["pixels"])
        loss = torch.stack(list(parts.values())).sum()
        return loss, {name: value.detach() for name, value in {"total_loss": loss, **parts}.items()}

    def judge(self, made: Reconstruction) -> Loss:
        if self.discriminator is None:
            raise TypeError("this loss has no discriminator")
        real, drawn = self.discriminator(made.x, made.x), self.discriminator(made.x_hat.detach(), made.x)
        loss = F.softplus(drawn - real).mean()
        return loss, {"disc_loss": loss.detach()}

    def _adversary(self, discriminator: DetailDiscriminator, x: Tensor, x_hat: Tensor, pixels: Tensor) -> Tensor:
        discriminator.requires_grad_(False)
        with torch.no_grad():
            real = discriminator(x, x)
        told_apart = F.softplus(real - discriminator(x_hat, x)).mean()
        discriminator.requires_grad_(True)
        sizes = [torch.autograd.grad(term, x_hat, retain_graph=True)[0].norm() for term in (pixels, told_apart)]
        return self.adversary_weight * (sizes[0] / sizes[1]).clamp(max=1) * told_apart
