"""system: vq. The autoencoder alone, on crops of images."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.checkpoint import join
from ldm.config import build
from ldm.data.datamodule import CohortData
from ldm.data.dataset import image_batch
from ldm.errors import UserError
from ldm.io import contact_sheet
from ldm.networks.autoencoder import Autoencoder
from ldm.pipeline import load_autoencoder, to_uint8
from ldm.runs.base import COLUMNS, Run
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.memory import saved_bytes


class AutoencoderRun(Run):
    system: AutoencoderTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
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
            **self.training_arguments(),
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
                "training.loss={target: ldm.training.autoencoder.ReconstructionLoss}"
            ) from error

    def networks(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        crop = self.config.data.crop_px
        x = torch.zeros(1, 3, crop, crop, device="meta", dtype=dtype)
        return saved_bytes(self.autoencoder, lambda net: net.decode(net.encode(x), quantize=False), dtype)

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        if self.config.training.normalise_latents:
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
