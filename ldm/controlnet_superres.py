"""ControlNet super-resolution, a baseline: a trained control network steers a frozen model.

    control = ControlModel.load("runs/control", model)
    image = control.enlarge(y, Unconditional(model))                # uint8 (h, w, 3) -> (f h, f w, 3)

(paper, Table 3; Zhang et al. 2023.) No constraint ties the result to y: how close it is depends on the control alone.

Shapes: b, n windows, h, w pixels of y, f the factor.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.diffusion.guidance import Denoiser
from ldm.errors import UserError
from ldm.hub import load_network, open_source
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.conditions import Conditions
from ldm.multiscale.constraint import Shrink
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import Rule, Settings
from ldm.multiscale.windows import cut
from ldm.networks.controlnet import Control, Controlled
from ldm.pipeline import ZoomLDM

SETTINGS = Settings(steps=20, guidance=1.0, rule=Rule(inner=0))


@dataclass(eq=False)
class ControlModel:
    """A control and the model that it steers, for patches of `scale` shrunk by `factor`."""

    control: Control
    model: ZoomLDM
    scale: str
    factor: int
    id: str = ""
    """names the weights"""
    config_id: str = ""
    """id of the network settings in the config"""

    @classmethod
    def load(cls, source: str | Path, model: ZoomLDM) -> "ControlModel":
        """From a run folder. UserError when it was trained beside other weights than the model's."""
        found = open_source(source, "control")
        config = found.config
        steers = config.get("steers") or "nothing"
        if steers.rpartition("-")[2] != model.id.rpartition("-")[2]:
            raise UserError(f"control: {source} steers {steers}, but the model is {model.id}; load what it steers")
        control: Control = load_network(found, "control", {"control": found.tensors})
        scale, factor = config.data.scales[0], config.model.factor
        return cls(control, model, scale, factor, found.id, found.config_id).to(model.device)

    @property
    def weights(self) -> dict[str, str]:
        """Ids of everything that its images depend on, besides the model and the settings."""
        return {"control": self.id, "control config": self.config_id}

    def to(self, device: str | torch.device) -> "ControlModel":
        """Move all networks; returns itself."""
        self.model.to(device)
        self.control.to(device)
        return self

    @property
    def scales(self) -> list[str]:
        """Scale of the output and scale of the input."""
        downsample = self.factor * self.model.ladder[self.scale].downsample
        return [self.scale, *(zoom.name for zoom in self.model.ladder if zoom.downsample == downsample)]

    def enlarge(
        self, y: Pixels, conditions: Conditions, seed: int = 0, *, settings: Settings = SETTINGS, batch_size: int = 16
    ) -> Pixels:
        """y (h, w, 3) -> (f h, f w, 3)."""
        enlarged = self.enlarged(from_uint8(y[None]).to(self.model.device))[0]
        joint = self.joint(enlarged, conditions, settings=settings, seed=seed, batch_size=batch_size)
        for _ in joint.run():
            pass
        return np.concatenate([to_uint8(band[None])[0] for band in joint.bands()])

    def enlarged(self, y: Tensor) -> Tensor:
        """y (b, 3, h, w) -> (b, 3, f h, f w), bicubic."""
        return Shrink(self.factor).lift(y)

    def hint(self, y: Tensor) -> Tensor:
        """The control's input for patches y (b, 3, h, w): the latents of their bicubic enlargements."""
        return self.model.encode(self.enlarged(y))

    def network(self, hint: Tensor) -> nn.Module:
        """The model's U-Net, steered by `hint` (b, 3, h, w)."""
        return Controlled(self.model.unet, self.control, hint)

    def steered(self, hint: Tensor) -> ZoomLDM:
        """The model, steered by `hint` (b, 3, h, w), for the b patches of that hint in one batch."""
        return replace(self.model, unet=self.network(hint))  # type: ignore[arg-type]

    def joint(
        self,
        enlarged: Tensor,
        conditions: Conditions,
        *,
        settings: Settings = SETTINGS,
        seed: int = 0,
        batch_size: int = 16,
    ) -> Joint:
        """Joint sampling of one canvas, steered window by window by `enlarged` (3, f h, f w)."""
        return SteeredJoint(
            model=self.model,
            scales=[self.scale],
            height=enlarged.shape[1],
            width=enlarged.shape[2],
            conditions=conditions,
            settings=settings,
            seed=seed,
            batch_size=batch_size,
            control=self,
            enlarged=enlarged,
        )


@dataclass(kw_only=True)
class SteeredJoint(Joint):
    """A canvas whose windows are steered by their part of `enlarged` (3, height, width)."""

    control: ControlModel
    enlarged: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.chain.padded
        missing = (0, width - self.enlarged.shape[2], 0, height - self.enlarged.shape[1])
        self.enlarged = F.pad(self.enlarged[None], missing, mode="replicate")[0].to(self.model.device)

    def denoiser(self, scale: str, places: Tensor) -> Denoiser:
        pieces = cut(self.enlarged, places * self.model.downsample, self.model.tile_px)
        steered = self.control.steered(self.model.encode(pieces))
        guidance = self.conditions.guidance(self.settings.guidance)
        return steered.denoiser(self.conditions.context(scale, places), guidance, self.settings.guidance_interval)
