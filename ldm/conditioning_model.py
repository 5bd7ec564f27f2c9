"""The conditioning diffusion model (CDM): samples contexts like the Summarizer's (paper, section 3.3).

Shapes: b contexts, w their width.
"""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from ldm.diffusion.samplers import ddim, respaced_timesteps
from ldm.errors import UserError
from ldm.hub import build_part, load_network, open_source, save_model
from ldm.networks.dit import DiT


@dataclass(eq=False)
class ConditioningModel:
    """The CDM: samples contexts (b, 65, w) of a scale (paper, section 3.3)."""

    network: DiT
    alpha_bar: Tensor
    id: str = ""
    """names the weights"""
    config_id: str = ""
    """id of the network settings in the config"""
    contexts_id: str | None = None
    """id of the Summarizer whose contexts it was trained on; None: unknown, as for the published CDM"""
    config: DictConfig | None = None
    """what builds it again"""

    @classmethod
    def load(cls, source: str | Path) -> "ConditioningModel":
        """From "demo" or "satellite", a cdm run folder, a published file or a name on the hub: see `ldm.hub`."""
        found = open_source(source, "cdm")
        network = load_network(found, "cdm", {"cdm": found.tensors})
        contexts_id = found.config.get("contexts_id")
        return cls(network, build_part(found, "schedule"), found.id, found.config_id, contexts_id, found.config)

    def save(self, folder: str | Path) -> None:
        """Write config, weights and their sha256, which `load` reads back. UserError when the disk refuses."""
        if self.config is None:
            raise UserError("cdm: was not loaded, so there is no config to save; use ConditioningModel.load")
        save_model(Path(folder), self.config, self.network.state_dict(), "cdm")

    @property
    def weights(self) -> dict[str, str]:
        """Ids of everything that its contexts depend on, besides scale, seed and precision."""
        return {"cdm": self.id, "cdm config": self.config_id}

    @property
    def width(self) -> int:
        """Channels of a context."""
        return self.network.x_embedder.in_features

    @property
    def scales(self) -> int:
        return self.network.y_embedder.embedding_table.num_embeddings

    def sample(self, noise: Tensor, scale: Tensor, steps: int = 50) -> Tensor:
        """DDIM from noise (b, 65, w) for scales (b,): the network predicts z_0, and the last z_0 is the sample."""

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            return self.network(z_t, t, scale)[0].to(z_t.dtype)

        return ddim(denoise, noise, self.alpha_bar, respaced_timesteps(steps), kind="z_0", final=1.0)
