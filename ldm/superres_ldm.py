"""A super-resolution LDM, a baseline: a denoiser trained from nothing that is given the small image.

    ldm = SuperResLDM.load("runs/superres", model)
    image = ldm.enlarge(y, Unconditional(model))                    # uint8 (h, w, 3) -> (f h, f w, 3)

(paper, Table 3, row CompVis; Rombach et al. 2022, section 4.4.) Of `model` it takes the autoencoder, the ladder and
the patch size. Shapes as in `ldm.trained_superres`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ldm.errors import UserError
from ldm.hub import build_part, load_network, open_source
from ldm.networks.concatenated import Concatenated
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM
from ldm.trained_superres import TrainedSuperRes


def at_latents(y: Tensor, factor: int, downsample: int) -> Tensor:
    """y (b, 3, h, w) with a pixel for each latent of its enlargement; unchanged where `factor` is `downsample`."""
    if factor == downsample:
        return y
    grain = max(1, downsample // factor)
    y = F.pad(y, (0, -y.shape[3] % grain, 0, -y.shape[2] % grain), mode="replicate")
    sides = [length * factor // downsample for length in y.shape[2:]]
    return F.interpolate(y, sides, mode="bicubic", antialias=True).clamp(-1, 1)


@dataclass(eq=False)
class SuperResLDM(TrainedSuperRes):
    """A denoiser of patches of `scale` that is given them shrunk by `factor`, and the model whose latents they are."""

    unet: UNet
    model: ZoomLDM
    scale: str
    factor: int
    id: str = ""
    """names the weights"""
    config_id: str = ""
    """id of the network settings in the config"""

    @classmethod
    def load(cls, source: str | Path, model: ZoomLDM) -> "SuperResLDM":
        """From a run folder. UserError when its patches or latents are not the model's."""
        found = open_source(source, "superres")
        config = found.config
        for what, there, own in (
            ("latents", str(config.get("latents_id")), model.latents_id),
            ("tile_px", config.tile_px, model.tile_px),
            ("scales", config.ladder.kind, model.ladder.kind),
        ):
            if there != own:
                raise UserError(f"superres: {source} has {what} {there}, but the model has {own}; name another run")
        unet: UNet = load_network(found, "denoiser", {"denoiser": found.tensors})
        schedule = {"alpha_bar": build_part(found, "schedule"), "prediction": config.model.prediction}
        own_model = replace(model, **schedule)
        unet.to(model.device)
        return cls(unet, own_model, config.data.scales[0], config.model.factor, found.id, found.config_id)

    @property
    def weights(self) -> dict[str, str]:
        """Ids of everything that its images depend on, besides the model and the settings."""
        return {"superres": self.id, "superres config": self.config_id}

    @property
    def per_latent(self) -> int:
        return 1

    def guide(self, y: Tensor) -> Tensor:
        return at_latents(y, self.factor, self.model.downsample)

    def steered(self, guide: Tensor) -> ZoomLDM:
        return replace(self.model, unet=Concatenated(self.unet, guide))  # type: ignore[arg-type]
