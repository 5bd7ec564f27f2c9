"""system: control. A ControlNet for super-resolution beside a finished ZoomLDM (Zhang et al. 2023).

The control is trained to restore detail that its hint lacks; the model is frozen.

    L = E || f(z_t, t, context, control(z_t, t, context, hint)) - target ||^2

The hint is the shrunk patch (super-resolution; paper, Table 3). A share p_uncond of the contexts is null, so that the
control works with and without embeddings.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.checkpoint import load_strict
from ldm.config.objects import build
from ldm.config.training_config import put
from ldm.controlnet_superres import ControlModel
from ldm.data.batch import Batch, BatchRNG
from ldm.data.datamodule import CohortData
from ldm.data.dataset import pair_batch
from ldm.errors import UserError
from ldm.images.contact_sheet import contact_sheet
from ldm.images.tensors import to_uint8
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.constraint import Shrink
from ldm.networks.controlnet import Control, Controlled
from ldm.pipeline import ZoomLDM
from ldm.training.base import COLUMNS, Run
from ldm.training.memory import saved_bytes
from ldm.training.zoomldm import PICTURE_STEPS, ZoomLDMTraining, autoencoder_of, finished_model


class SteeredModel(Protocol):
    """A frozen model with a control: `ldm.controlnet_superres.ControlModel`."""

    factor: int

    def to(self, device: torch.device) -> Any:
        """Move the frozen networks."""

    def guide(self, y: Tensor) -> Tensor:
        """The guide of patches that were shrunk by `factor` to y (b, 3, h, w)."""

    def network(self, guide: Tensor) -> nn.Module:
        """The steered network, called with (z_t, t, context)."""


class ControlTraining(ZoomLDMTraining):
    """Trains the control of `steered`, not a module, so that checkpoints do not contain the frozen networks."""

    def __init__(self, *, steered: SteeredModel, **options: Any) -> None:
        """`options` as for ZoomLDMTraining; its `denoiser` is the control."""
        super().__init__(**options)
        self.steered, self.shrink = steered, Shrink(steered.factor)

    def on_fit_start(self) -> None:
        self.steered.to(self.device)

    def network(self, batch: Batch) -> nn.Module:
        assert batch.image is not None
        return self.steered.network(self.steered.guide(self.shrink(batch.image)))


class ControlRun(Run):
    system: ControlTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        control = build(config.model.control, "model.control", kind=Control)
        self.control: Control = control.to(memory_format=torch.channels_last)
        self.check_side(self.control.trunk)
        self.times = build(config.training.times, "training.times")

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        config = self.config
        autoencoder_of(data, config.autoencoder)
        model = finished_model(config.zoomldm, self.ladder, str(config.training.precision))
        trunk = self.control.trunk_of(model.unet.state_dict())
        load_strict(self.control.trunk, trunk, f"model.control.unet for {config.zoomldm}")
        began = self.config.get("steers") or model.id
        if began.rpartition("-")[2] != model.id.rpartition("-")[2]:
            raise UserError(
                f"zoomldm: {config.zoomldm} is {model.id}, but the run began with {began}; name that model "
                "again, or begin another run"
            )
        put(self.config, steers=model.id)
        self.steered = ControlModel(self.control, model, data.training.scales[0].name, config.model.factor)
        self.system = ControlTraining(
            steered=self.steered,
            denoiser=self.control,
            summarizer=model.summarizer,
            alpha_bar=model.alpha_bar,
            prediction=model.prediction,
            scale_names=self.ladder.names,
            p_uncond=config.training.p_uncond,
            times=self.times,
            plan=self.plan,
        )

    def networks(self) -> dict[str, nn.Module]:
        return {"control": self.control}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        side, control = self.config.tile_px // 4, self.config.model.control
        with torch.device("meta"):
            unet = build(control.unet, "model.control.unet").requires_grad_(False)
            network = Controlled(unet, build(control, "model.control"), torch.zeros(1, 3, side, side, dtype=dtype))
            z_t, t = torch.zeros(1, 3, side, side, dtype=dtype), torch.zeros(1, dtype=torch.long)
            context = torch.zeros(1, 65, control.unet.get("context_dim", 512), dtype=dtype)
        return saved_bytes(network, lambda net: net(z_t, t, context), dtype)

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        return self.control.state_dict()

    @torch.no_grad()
    def draw(self, path: Path, data: CohortData) -> None:
        picks = data.validation.spread(COLUMNS)[:COLUMNS]
        x = pair_batch(picks, BatchRNG(0, 0, 0, len(picks))).image
        assert x is not None
        y = self.system.shrink(x.to(self.system.device))
        model: ZoomLDM = self.steered.steered(self.steered.guide(y))
        context = Unconditional(model).context(self.steered.scale, torch.zeros(len(y), 2))
        z = model.sample_latents(context, guidance=1.0, steps=PICTURE_STEPS)
        rows = [list(to_uint8(images)) for images in (x, self.steered.guide(y), model.decode(z))]
        contact_sheet(rows, ["truth", "bicubic", "steered"], [""] * len(picks), path)
