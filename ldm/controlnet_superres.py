"""ControlNet super-resolution, a baseline: a trained control network steers a frozen model.

    control = ControlModel.load("runs/control", model)
    image = control.enlarge(y, Unconditional(model))                # uint8 (h, w, 3) -> (f h, f w, 3)

(paper, Table 3; Zhang et al. 2023.) Shapes as in `ldm.trained_superres`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.hub import load_network, open_source
from ldm.multiscale.constraint import Shrink
from ldm.networks.controlnet import Control, Controlled
from ldm.pipeline import ZoomLDM
from ldm.trained_superres import TrainedSuperRes


@dataclass(eq=False)
class ControlModel(TrainedSuperRes):
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
    def per_latent(self) -> int:
        return self.model.downsample

    def guide(self, y: Tensor) -> Tensor:
        """y (b, 3, h, w) -> (b, 3, f h, f w), bicubic."""
        return Shrink(self.factor).lift(y)

    def hint(self, guide: Tensor) -> Tensor:
        """The control's input for patches, from their part of the guide (b, 3, H, W): its latents."""
        return self.model.encode(guide)

    def network(self, guide: Tensor) -> nn.Module:
        """The model's U-Net, steered by the `guide` of b patches."""
        with torch.no_grad():
            hint = self.hint(guide)
        return Controlled(self.model.unet, self.control, hint)

    def steered(self, guide: Tensor) -> ZoomLDM:
        return replace(self.model, unet=self.network(guide))  # type: ignore[arg-type]
