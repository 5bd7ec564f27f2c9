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
from ldm.training.memory import saved_elements


class AutoencoderRun(Run):
    system: AutoencoderTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.autoencoder: Autoencoder = build(config.model.autoencoder, "model.autoencoder", kind=Autoencoder)
        self.same("model.autoencoder: pixels per latent", self.autoencoder.downsample, 4, "every cohort")
        self.autoencoder.to(memory_format=torch.channels_last)
        if config.init:
            self.autoencoder.load_state_dict(load_autoencoder(config.init)[0].state_dict())
        self.system = AutoencoderTraining(
            autoencoder=self.autoencoder,
            loss=self._loss(),
            clip=config.training.clip,
            smooth=config.training.smooth,
            revive_every=config.training.revive_every,
            frozen=config.training.frozen,
            **self.training_arguments(),
        )
        self.optimizer_steps = 1 if self.system.adversary is None else 2

    def _loss(self) -> nn.Module:
        try:
            return build(self.config.training.loss, "training.loss", kind=nn.Module)
        except OSError as error:
            raise UserError(
                f"training.loss: its VGG and LPIPS weights could not be downloaded ({' '.join(str(error).split())}); "
                "copy vgg16-397923af.pth into ~/.cache/torch/hub/checkpoints and vgg.pth into "
                "taming/modules/autoencoder/lpips, or set "
                "training.loss={target: ldm.training.autoencoder.ReconstructionLoss}"
            ) from error

    def networks(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def activations(self) -> int:
        crop = self.config.data.crop_px
        x = torch.zeros(1, 3, crop, crop, device="meta")
        return saved_elements(self.autoencoder, lambda net: net.decode(net.encode(x), quantize=False))

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
