"""system: preview. A small head from latents to the image at half its resolution: `ldm.networks.preview_head`.

    L = sum over resolutions of | A_f head(z) - A_f Dec(z) |^2,     f = 1/2, 1/4, 1/8, 1/16 of the image's pixels

It is trained from prepared latents alone: what it learns is the decoder, not the slides. Half of the latents are
blurred and a quarter get noise, since predictions of a noisy canvas are means of latents, or have errors.
Shapes: z (b, 3, h, w), images (b, 3, H, W).
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.config.objects import build
from ldm.config.training_config import put
from ldm.data.batch import Batch, BatchRNG
from ldm.data.datamodule import CohortData
from ldm.data.dataset import latent_batch
from ldm.images.contact_sheet import contact_sheet
from ldm.images.tensors import to_uint8
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.preview_head import LEVELS, PreviewHead
from ldm.training.base import COLUMNS, OptimizerPlan, Run, System
from ldm.training.memory import saved_bytes
from ldm.training.zoomldm import autoencoder_of

NOISE = 0.1
"""standard deviation of the noise on a quarter of the latents"""


def resolutions(image: Tensor, first: int) -> list[Tensor]:
    """The means of `image` over 2^k x 2^k pixels for k = `first` ... LEVELS, as far as whole means fit."""
    side = min(image.shape[-2:])
    return [F.avg_pool2d(image, 2**k) if k else image for k in range(first, LEVELS + first) if side >= 2**k]


def varied(z: Tensor, generator: torch.Generator) -> Tensor:
    """Latents as they are, blurred over 2 or 4, and with noise, each a quarter of the batch on average."""
    kind = torch.randint(4, (len(z), 1, 1, 1), generator=generator, device=z.device)
    share = torch.rand(len(z), 1, 1, 1, generator=generator, device=z.device)
    noise = NOISE * torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
    for number, f in enumerate((2, 4)):
        blurred = F.interpolate(F.avg_pool2d(z, f), scale_factor=f, mode="bilinear")
        z = torch.where(kind == number, share * z + (1 - share) * blurred, z)
    return torch.where(kind == 2, z + noise, z)


class PreviewTraining(System):
    """Trains `head` on the images of a frozen autoencoder's decoder."""

    def __init__(self, *, head: PreviewHead, plan: OptimizerPlan) -> None:
        super().__init__(plan)
        self.head = head
        self.autoencoder: Any = None
        """frozen, set before training"""

    def errors(self, z: Tensor) -> Tensor:
        """(LEVELS,) mean squared error at each resolution; 0 where the image is too small for it."""
        with torch.no_grad():
            image = self.autoencoder.decode(z, quantize=False).float()
        made, wanted = resolutions(self.head(z).float(), 0), resolutions(image, 1)
        squares = [(a - b).square().mean() for a, b in zip(made, wanted, strict=True)]
        return torch.stack(squares + [squares[0] * 0] * (LEVELS - len(squares)))

    def training_step(self, batch: Batch) -> Tensor:
        errors = self.errors(varied(batch.z_0, batch.stream.generator(self.device)))
        loss = errors.sum()
        self.log_dict({"loss": loss, "rms": errors[0].sqrt()}, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        errors = self.errors(batch.z_0)
        shown = {"val/loss": errors.sum(), "val/rms": errors[0].sqrt()}
        self.log_dict(shown, batch_size=len(batch), on_epoch=True, prog_bar=True)


class PreviewRun(Run):
    system: PreviewTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        head = build(config.model.preview, "model.preview", kind=PreviewHead)
        self.system = PreviewTraining(head=head, plan=self.plan)

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        autoencoder: Autoencoder = autoencoder_of(data, self.config.autoencoder)
        self.same("model.preview.downsample", 2 * self.system.head.pixels, autoencoder.downsample, "the autoencoder")
        self.system.autoencoder = autoencoder
        put(self.config, decoder_id=autoencoder.decoder_id())

    def networks(self) -> dict[str, nn.Module]:
        return {"preview": self.system.head}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        side = self.config.tile_px // (2 * self.system.head.pixels)
        z = torch.zeros(1, 3, side, side, device="meta", dtype=dtype)
        return saved_bytes(self.system.head, lambda net: net(z), dtype)

    @torch.no_grad()
    def weights(self, data: CohortData) -> dict[str, Tensor]:
        squares = [self.system.errors(batch.z_0.to(self.system.device)) for batch in data.val_dataloader()]
        self.system.head.error.copy_(torch.stack(squares).mean(0).sqrt())
        return self.system.head.state_dict()

    @torch.no_grad()
    def draw(self, path: Path, data: CohortData) -> None:
        """Rows of decoded patches at half their resolution above the head's."""
        rows, labels = [], []
        for scale in data.validation.scales:
            picks = [pick for pick in data.validation.spread(COLUMNS) if pick[1] == scale]
            z = latent_batch(picks, BatchRNG(0, 0, 0, len(picks))).z_0.to(self.system.device)
            decoded = F.avg_pool2d(self.system.autoencoder.decode(z, quantize=False).float(), 2)
            rows += [list(to_uint8(decoded)), list(to_uint8(self.system.head(z).float()))]
            labels += [scale.name, "preview"]
        contact_sheet(rows, labels, [""] * max(map(len, rows)), path)
