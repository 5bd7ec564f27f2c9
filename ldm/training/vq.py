"""system: vq. The VQ-f4 autoencoder alone, on crops of images (Esser et al. 2021; Rombach et al. 2022).

The Lightning module, then the run: networks, loss, data and pictures.
Shapes: x (b, 3, h, w) in [-1, 1]; z (b, 3, h/4, w/4).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.checkpoint import join
from ldm.config.objects import build
from ldm.data.datamodule import CohortData
from ldm.data.dataset import image_batch
from ldm.errors import UserError
from ldm.images.contact_sheet import contact_sheet
from ldm.images.tensors import to_uint8
from ldm.networks.autoencoder import Autoencoder, Quantizer
from ldm.pipeline import load_autoencoder
from ldm.training.base import COLUMNS, OptimizerPlan, Run, System
from ldm.training.losses import Reconstruction, autoencoder_loss, discriminator_loss
from ldm.training.memory import saved_bytes


class AutoencoderTraining(System):
    """Trains `autoencoder` with `loss`; manual optimisation, since there may be two optimisers."""

    automatic_optimization = False
    autoencoder: Any
    used: Tensor

    def __init__(
        self,
        *,
        autoencoder: nn.Module,
        loss: nn.Module,
        plan: OptimizerPlan,
        clip: float | None = None,
        smooth: float = 0.0,
        noise: float = 0.0,
        revive_every: int = 0,
        frozen: Sequence[str] = (),
    ) -> None:
        """`frozen`: parts of the autoencoder that are not trained; training only the decoder keeps all latents valid.

        `smooth`: weight of the same loss at half size with 2x2-averaged latents, which makes latents smooth and so
        easier to denoise. `noise`: standard deviation, relative to the latents', of noise that is added before
        decoding, so that decoding tolerates small errors of sampled latents. Every `revive_every` steps, unused codes
        are replaced by latents of the batch (0: never).
        """
        super().__init__(plan)
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
    def encoding_trained(self) -> bool:
        """Whether training changes latents; where it does not, they keep their scale as well."""
        parts = (self.autoencoder.encoder, self.autoencoder.quant_conv)
        return any(weight.requires_grad for part in parts for weight in part.parameters())

    @property
    def adversary(self) -> nn.Module | None:
        return getattr(self.loss, "discriminator", None)

    def configure_optimizers(self) -> Any:
        plans = [self.plan.scheduled(self.autoencoder.parameters())]
        if self.adversary is not None:
            plans.append(self.plan.scheduled(self.adversary.parameters()))
        return [plan["optimizer"] for plan in plans], [plan["lr_scheduler"] for plan in plans]

    def training_step(self, x: Tensor) -> None:
        optimizers, schedules = _listed(self.optimizers()), _listed(self.lr_schedulers())
        z = self.autoencoder.encode(x)
        z_q, codebook_loss, indices = self.autoencoder.quantize(z)
        x_hat = self.autoencoder.decode(self._disturbed(z_q), quantize=False)
        made = Reconstruction(
            x=x, x_hat=x_hat, codebook_loss=codebook_loss, last_layer=self.last_layer, step=self.trained
        )
        loss, values = autoencoder_loss(self.loss, made)
        if self.smooth:
            x_half = self.autoencoder.decode(halved(z), quantize=False)
            half = replace(made, x=halved(x), x_hat=x_half, codebook_loss=x.new_zeros(()), step=-1)
            loss = loss + self.smooth * autoencoder_loss(self.loss, half)[0]
        self._step(optimizers[0], schedules[0], loss)
        if self.adversary is not None:
            loss, more = discriminator_loss(self.loss, made)
            self._step(optimizers[1], schedules[1], loss)
            values |= more
        if self.revive_every:
            self._revive(z, indices)
        self.log("loss", values["total_loss"].mean(), prog_bar=True, batch_size=len(x))
        self.log("psnr", psnr(x, x_hat).mean(), prog_bar=True, batch_size=len(x))
        self.log_dict({f"train/{name}": value.mean() for name, value in values.items()}, batch_size=len(x))

    def _disturbed(self, z: Tensor) -> Tensor:
        if not self.noise:
            return z
        generator = torch.Generator(z.device).manual_seed((self.trained << 16) + self.global_rank)  # as resumed
        eps = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        return z + self.noise * z.detach().std((0, 2, 3), keepdim=True) * eps

    @property
    def trained(self) -> int:
        """Steps of the autoencoder so far (Lightning also counts those of the discriminator)."""
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


class VQRun(Run):
    system: AutoencoderTraining
    steps_itself = True

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        if config.training.accumulate != 1:
            raise UserError(
                f"training.accumulate: {config.training.accumulate} found, expected 1: an autoencoder steps after each "
                "batch; raise data.batch_size"
            )
        self.autoencoder: Autoencoder = build(config.model.autoencoder, "model.autoencoder", kind=Autoencoder)
        self.same("model.autoencoder: pixels per latent", self.autoencoder.downsample, 4, "every cohort")
        self.autoencoder.to(memory_format=torch.channels_last)
        if config.init:
            start_from(self.autoencoder, load_autoencoder(config.init)[0])
        self.system = AutoencoderTraining(
            autoencoder=self.autoencoder,
            loss=self._loss(),
            clip=config.training.clip,
            smooth=config.training.smooth,
            noise=config.training.get("noise", 0.0),
            revive_every=config.training.revive_every,
            frozen=config.training.frozen,
            plan=self.plan,
        )
        self.optimizer_steps = 1 if self.system.adversary is None else 2

    def _loss(self) -> nn.Module:
        try:
            return build(self.config.training.loss, "training.loss", kind=nn.Module).to(
                memory_format=torch.channels_last
            )
        except OSError as error:
            raise UserError(
                f"training.loss: its VGG and LPIPS weights could not be downloaded ({' '.join(str(error).split())}); "
                "copy vgg16-397923af.pth into ~/.cache/torch/hub/checkpoints and vgg.pth into "
                "taming/modules/autoencoder/lpips, or set "
                "training.loss={target: ldm.training.losses.ReconstructionLoss}"
            ) from error

    def networks(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        crop = self.config.data.crop_px
        x = torch.zeros(1, 3, crop, crop, device="meta", dtype=dtype)
        return saved_bytes(self.autoencoder, lambda net: net.decode(net.encode(x), quantize=False), dtype)

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        if self.config.training.normalise_latents and self.system.encoding_trained:
            self.system.normalise(data.val_dataloader())
        return join({"autoencoder": self.autoencoder.state_dict()})

    @torch.no_grad()
    def draw(self, path: Path, data: CohortData) -> None:
        rows, labels = [], []
        for scale in data.validation.scales:
            picks = [pick for pick in data.validation.spread(COLUMNS) if pick[1] == scale]
            x = image_batch(picks).to(self.system.device)
            rows += [list(to_uint8(x)), list(to_uint8(self.system.autoencoder(x)[0]))]
            labels += [scale.name, "decoded"]
        contact_sheet(rows, labels, [""] * max(map(len, rows)), path)


def start_from(autoencoder: Autoencoder, source: Autoencoder) -> None:
    """Copy `source` into `autoencoder`, which may have a head that `source` lacks, or lack its codes.

    A new head changes nothing at first. UserError where another weight is missing, or of another shape.
    """
    optional = ("decoder.head.", "quantize.")
    own, given = autoencoder.state_dict(), source.state_dict()
    wrong = [
        name
        for name in own | given
        if not (name in own and name in given and own[name].shape == given[name].shape)
        and not (name.startswith(optional) and (name in own) != (name in given))
    ]
    if wrong:
        raise UserError(
            f"init: {len(wrong)} weights are missing or of another shape, {wrong[0]} first; "
            "give an autoencoder of the same width, multipliers, blocks, patch, norm and attention"
        )
    autoencoder.load_state_dict(own | {name: weight for name, weight in given.items() if name in own})
