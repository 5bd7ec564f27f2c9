"""The VQ-f4 autoencoder: reconstruction + codebook loss, and an adversary when the loss has one (Esser et al. 2021).

The loss is called as taming's `VQLPIPSWithDiscriminator` is: index 0 for the autoencoder, 1 for the discriminator; step
-1 asks for a loss without its adversary.
Shapes: x (b, 3, h, w) in [-1, 1]; z (b, 3, h/4, w/4).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from taming.modules.losses.vqperceptual import hinge_d_loss
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.networks.autoencoder import Quantizer
from ldm.schema import Count, Natural, NonNegative
from ldm.training.discriminator import DetailDiscriminator
from ldm.training.system import OptimizerFactory, System
from ldm.training.texture import band_energy_difference, stripes


class ReconstructionLoss(nn.Module):
    """L1 of the pixels and of their gradients: needs no downloaded network, keeps edges; no adversary."""

    def __init__(self, *, codebook_weight: NonNegative = 1.0, gradient_weight: NonNegative = 0.5) -> None:
        super().__init__()
        self.codebook_weight, self.gradient_weight = codebook_weight, gradient_weight

    def forward(
        self, codebook_loss: Tensor, x: Tensor, x_hat: Tensor, index: int, step: int, last_layer: Tensor, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, {name: value})."""
        error = x_hat - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + self.gradient_weight * edges + self.codebook_weight * codebook_loss.mean()
        return loss, {f"{split}/total_loss": loss.detach()}


class AdversarialLoss(ReconstructionLoss):
    """Reconstruction against a patch discriminator with the hinge loss: what L1 blurs is drawn again.

    As in Esser et al. 2021, eq. 7, the two gradients at the decoder's last layer set the adversary's weight.
    """

    def __init__(
        self,
        *,
        codebook_weight: NonNegative = 1.0,
        gradient_weight: NonNegative = 0.5,
        adversary_weight: NonNegative = 0.5,
        adversary_start: Natural = 0,
        width: Count = 64,
        layers: Count = 2,
    ) -> None:
        """`width`, `layers`: of taming's patch discriminator; it judges from step `adversary_start` on."""
        super().__init__(codebook_weight=codebook_weight, gradient_weight=gradient_weight)
        self.adversary_weight, self.adversary_start = adversary_weight, adversary_start
        self.discriminator = NLayerDiscriminator(input_nc=3, ndf=width, n_layers=layers).apply(weights_init)

    def forward(
        self, codebook_loss: Tensor, x: Tensor, x_hat: Tensor, index: int, step: int, last_layer: Tensor, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of the autoencoder (index 0) or of the discriminator (index 1), {name: value})."""
        if index == 1:
            loss = hinge_d_loss(self.discriminator(x), self.discriminator(x_hat.detach()))
            return loss, {f"{split}/disc_loss": loss.detach()}
        loss, values = super().forward(codebook_loss, x, x_hat, index, step, last_layer, split)
        if step >= self.adversary_start and x_hat.requires_grad:
            fooled = -self.discriminator(x_hat).mean()
            sizes = [torch.autograd.grad(term, last_layer, retain_graph=True)[0].norm() for term in (loss, fooled)]
            loss = loss + self.adversary_weight * sizes[0] / (sizes[1] + 1e-4) * fooled
        return loss, values


class TextureLoss(nn.Module):
    """Reconstruction with texture as strong as the original's where a latent cannot carry the texture itself.

    L1 and L2 of the pixels fix what can be reproduced. The amounts of texture (`band_energy_difference`) fix how much
    of the rest is drawn, and a discriminator what it looks like. It says which of two images is the original, at every
    place (relativistic pairs: Jolicoeur-Martineau 2018), and its features of both are compared (Salimans et al. 2016).
    `stripes` forbids a pattern that no latent asks for.
    """

    def __init__(
        self,
        *,
        codebook_weight: NonNegative = 1.0,
        square_weight: NonNegative = 2.0,
        band_weight: NonNegative = 0.4,
        stripe_weight: NonNegative = 5.0,
        adversary_weight: NonNegative = 0.0,
        feature_weight: NonNegative = 0.0,
        adversary_start: Natural = 0,
        width: Count = 32,
    ) -> None:
        """`width`: of the discriminator, which judges from step `adversary_start` on; none where its weights are 0.

        `adversary_weight` is that of its gradient, in sizes of the pixel terms' gradient; the others weigh terms.
        """
        super().__init__()
        self.codebook_weight, self.square_weight = codebook_weight, square_weight
        self.band_weight, self.stripe_weight = band_weight, stripe_weight
        self.adversary_weight, self.feature_weight = adversary_weight, feature_weight
        self.adversary_start = adversary_start
        self.discriminator = DetailDiscriminator(width) if adversary_weight or feature_weight else None

    def forward(
        self, codebook_loss: Tensor, x: Tensor, x_hat: Tensor, index: int, step: int, last_layer: Tensor, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of the autoencoder (index 0) or of the discriminator (index 1), {name: value})."""
        if index == 1 and self.discriminator is not None:
            real, drawn = self.discriminator(x, x)[0], self.discriminator(x_hat.detach(), x)[0]
            loss = F.softplus(drawn - real).mean()
            return loss, {f"{split}/disc_loss": loss.detach()}
        error = x_hat - x
        parts = {
            "pixels": error.abs().mean() + self.square_weight * error.square().mean(),
            "codebook": self.codebook_weight * codebook_loss.mean(),
            "bands": self.band_weight * band_energy_difference(x, x_hat),
            "stripes": self.stripe_weight * stripes(error),
        }
        if self.discriminator is not None and step >= self.adversary_start and x_hat.requires_grad:
            parts |= self._adversary(self.discriminator, x, x_hat, parts["pixels"])
        loss = torch.stack(list(parts.values())).sum()
        values = {"total_loss": loss, **parts}
        return loss, {f"{split}/{name}": value.detach() for name, value in values.items()}

    def _adversary(
        self, discriminator: DetailDiscriminator, x: Tensor, x_hat: Tensor, pixels: Tensor
    ) -> dict[str, Tensor]:
        discriminator.requires_grad_(False)
        with torch.no_grad():
            real, expected = discriminator(x, x)
        drawn, found = discriminator(x_hat, x)
        discriminator.requires_grad_(True)
        terms = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(found, expected, strict=True)]
        told_apart = F.softplus(real - drawn).mean()
        sizes = [torch.autograd.grad(term, x_hat, retain_graph=True)[0].norm() for term in (pixels, told_apart)]
        return {
            "adversary": self.adversary_weight * (sizes[0] / sizes[1]).clamp(max=1) * told_apart,
            "features": self.feature_weight * torch.stack(terms).sum(),
        }


class AutoencoderTraining(System):
    """Trains `autoencoder` with `loss`; optimisers are stepped by hand because there may be two."""

    automatic_optimization = False
    autoencoder: Any
    used: Tensor

    def __init__(
        self,
        *,
        autoencoder: nn.Module,
        loss: nn.Module,
        optimizer: OptimizerFactory,
        warmup: int,
        last: int,
        decay_from: int | None = None,
        clip: float | None = None,
        smooth: float = 0.0,
        noise: float = 0.0,
        revive_every: int = 0,
        frozen: Sequence[str] = (),
    ) -> None:
        """`frozen`: parts of the autoencoder to leave as they are; a decoder trained alone keeps all latents valid.

        `smooth` weighs the same loss at half size through 2x2-averaged latents, which makes latents smooth and so
        easier to denoise. `noise` is added to latents before they are decoded, in their standard deviations: decoding
        then bears the small errors of sampled latents. Every `revive_every` steps, codes not used since move onto
        latents of the batch (0: never).
        """
        super().__init__(optimizer, warmup=warmup, decay_from=decay_from, last=last)
        self.autoencoder, self.loss = autoencoder, loss
        self.clip, self.smooth, self.noise, self.revive_every = clip, smooth, noise, revive_every
        for part in frozen:
            autoencoder.get_submodule(part).requires_grad_(False)
        if revive_every and len(self.codes) == 0:
            raise UserError(f"training.revive_every: {revive_every}, but the autoencoder has no codes; make it 0")
        self.register_buffer("used", torch.zeros(len(self.codes), dtype=torch.bool))

    @property
    def codes(self) -> Tensor:
        """(codes, code_dim) the codebook; without one, no codes."""
        quantize = self.autoencoder.quantize
        return quantize.embedding.weight if isinstance(quantize, Quantizer) else torch.zeros(0, 3)

    @property
    def adversary(self) -> nn.Module | None:
        return getattr(self.loss, "discriminator", None)

    def configure_optimizers(self) -> Any:
        plans = [self.scheduled(self.autoencoder.parameters())]
        if self.adversary is not None:
            plans.append(self.scheduled(self.adversary.parameters()))
        return [plan["optimizer"] for plan in plans], [plan["lr_scheduler"] for plan in plans]

    def training_step(self, x: Tensor) -> None:
        optimizers, schedules = _listed(self.optimizers()), _listed(self.lr_schedulers())
        z = self.autoencoder.encode(x)
        z_q, codebook_loss, indices = self.autoencoder.quantize(z)
        x_hat = self.autoencoder.decode(self._disturbed(z_q), quantize=False)
        loss, values = self.loss(codebook_loss, x, x_hat, 0, self.trained, self.last_layer, split="train")
        if self.smooth:
            half, _ = self.loss(
                x.new_zeros(()),
                halved(x),
                self.autoencoder.decode(halved(z), quantize=False),
                0,
                -1,
                self.last_layer,
                "half",
            )
            loss = loss + self.smooth * half
        self._step(optimizers[0], schedules[0], loss)
        if self.adversary is not None:
            loss, more = self.loss(codebook_loss, x, x_hat.detach(), 1, self.trained, self.last_layer, split="train")
            self._step(optimizers[1], schedules[1], loss)
            values |= more
        if self.revive_every:
            self._revive(z, indices)
        self.log("loss", values["train/total_loss"].mean(), prog_bar=True, batch_size=len(x))
        self.log("psnr", psnr(x, x_hat).mean(), prog_bar=True, batch_size=len(x))
        self.log_dict({name: value.mean() for name, value in values.items()}, batch_size=len(x))

    def _disturbed(self, z: Tensor) -> Tensor:
        if not self.noise:
            return z
        generator = torch.Generator(z.device).manual_seed((self.trained << 16) + self.global_rank)  # resumed, the same
        eps = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        return z + self.noise * z.detach().std((0, 2, 3), keepdim=True) * eps

    @property
    def trained(self) -> int:
        """Steps of the autoencoder so far (Lightning counts the adversary's too)."""
        return self.global_step // (1 if self.adversary is None else 2)

    @property
    def last_layer(self) -> Tensor:
        return self.autoencoder.decoder.last_layer.weight

    def _step(self, optimizer: Any, schedule: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip:
            self.clip_gradients(optimizer, gradient_clip_val=self.clip, gradient_clip_algorithm="norm")
        optimizer.step()
        schedule.step()

    @torch.no_grad()
    def _revive(self, z: Tensor, indices: Tensor) -> None:
        self.used[indices.flatten()] = True
        if (self.trained % self.revive_every) or not self.training:
            return
        dead = (~self.used).nonzero().flatten()
        latents = rearrange(z.detach(), "b c h w -> (b h w) c").to(self.codes.dtype)
        generator = torch.Generator(z.device).manual_seed(self.trained)
        chosen = torch.randint(len(latents), (len(dead),), generator=generator, device=z.device)
        self.codes[dead] = latents[chosen]
        self.used.zero_()

    def validation_step(self, x: Tensor) -> None:
        x_hat, _, _ = self.autoencoder(x)
        self.log("val/psnr", psnr(x, x_hat).mean(), prog_bar=True, batch_size=len(x), on_epoch=True)
        self.log("val/loss", (x_hat - x).abs().mean(), batch_size=len(x), on_epoch=True)

    @torch.no_grad()
    def normalise(self, images: Iterable[Tensor]) -> None:
        """Fold the latents' mean and deviation over `images` into the autoencoder: z then has mean 0, std 1."""
        z = torch.cat([self.autoencoder.encode(x.to(self.device)) for x in images])
        self.autoencoder.normalise_latents(z.mean((0, 2, 3)), z.std((0, 2, 3)))


def halved(x: Tensor) -> Tensor:
    """2x2 means."""
    return F.avg_pool2d(x, 2)


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """(b,) peak signal-to-noise ratio in dB; images in [-1, 1]."""
    mse = (x_hat.float().clamp(-1, 1) - x).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse.clamp(min=1e-10))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
