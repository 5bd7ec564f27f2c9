"""Super-resolution by networks that were trained for one magnification: what the baselines share.

Such a network denoises patches of one scale, given a guide made of the small image; a canvas is sampled window by
window. No constraint ties the result to the small image.

Shapes: b, n windows, h, w pixels of the small image y, f the factor, k guide pixels a latent.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.conditions import Conditions
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import Rule, Settings
from ldm.multiscale.windows import cut
from ldm.pipeline import ZoomLDM

SETTINGS = Settings(steps=20, guidance=1.0, rule=Rule(inner=0))


class TrainedSuperRes(ABC):
    """Enlarges images `factor` times, to `scale`; `model` has the frozen networks that this takes."""

    model: ZoomLDM
    scale: str
    factor: int

    @property
    @abstractmethod
    def per_latent(self) -> int:
        """k"""

    @abstractmethod
    def guide(self, y: Tensor) -> Tensor:
        """The guide (b, 3, k H, k W) of images y (b, 3, h, w), whose canvas has H x W latents."""

    @abstractmethod
    def steered(self, guide: Tensor) -> ZoomLDM:
        """The model whose network denoises b windows in one batch, each given its part of a guide (b, 3, ...)."""

    @property
    def scales(self) -> list[str]:
        """Scale of the output and scale of the input."""
        downsample = self.factor * self.model.ladder[self.scale].downsample
        return [self.scale, *(zoom.name for zoom in self.model.ladder if zoom.downsample == downsample)]

    def enlarge(
        self, y: Pixels, conditions: Conditions, seed: int = 0, *, settings: Settings = SETTINGS, batch_size: int = 16
    ) -> Pixels:
        """y (h, w, 3) -> (f h, f w, 3)."""
        small = from_uint8(y[None]).to(self.model.device)[0]
        joint = self.joint(small, conditions, settings=settings, seed=seed, batch_size=batch_size)
        for _ in joint.run():
            pass
        return np.concatenate([to_uint8(band[None])[0] for band in joint.bands()])

    def joint(
        self, y: Tensor, conditions: Conditions, *, settings: Settings = SETTINGS, seed: int = 0, batch_size: int = 16
    ) -> Joint:
        """Joint sampling of the canvas that enlarges y (3, h, w)."""
        return GuidedJoint(
            model=self.model,
            scales=[self.scale],
            height=self.factor * y.shape[1],
            width=self.factor * y.shape[2],
            conditions=conditions,
            settings=settings,
            seed=seed,
            batch_size=batch_size,
            enlarger=self,
            guide=self.guide(y[None])[0],
        )


@dataclass(kw_only=True)
class GuidedJoint(Joint):
    """A canvas whose windows are given their part of the `guide` (3, k H, k W)."""

    enlarger: TrainedSuperRes
    guide: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = (self.enlarger.per_latent * latents for latents in self.chain.latents(self.scales[0]))
        bottom, right = (side - had for side, had in zip(sides, self.guide.shape[1:], strict=True))
        self.guide = F.pad(self.guide[None], (0, right, 0, bottom), mode="replicate")[0].to(self.model.device)

    def denoiser(self, scale: str, places: Tensor) -> Denoiser:
        k = self.enlarger.per_latent
        pieces = cut(self.guide, places * k, self.chain.side * k)
        guidance = self.conditions.guidance(self.settings.guidance)
        context = self.conditions.context(scale, places)
        return self.enlarger.steered(pieces).denoiser(context, guidance, self.settings.guidance_interval)
