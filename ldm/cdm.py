"""The conditioning model (CDM): draws the contexts that the Summarizer would give (paper, section 3.3).

Letters: b contexts, w their width.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ldm.files import sha256
from ldm.networks.dit import DiT
from ldm.sampling.samplers import ddim, respaced_timesteps
from ldm.sources import build_part, load_network, open_source


@dataclass(eq=False)
class ConditioningModel:
    """The CDM: draws contexts (b, 65, w) of a scale (paper, section 3.3)."""

    network: DiT
    alpha_bar: Tensor
    id: str = ""
    """names the weights"""

    @classmethod
    def load(cls, source: str | Path) -> "ConditioningModel":
        """From "demo", a cdm run folder or a published file."""
        found = open_source(source, "cdm")
        network = load_network(found, "cdm", {"cdm": found.tensors})
        return cls(network, build_part(found, "schedule"), f"{found.name}-{sha256(found.path)[:12]}")

    @property
    def width(self) -> int:
        """Channels of a context."""
        return self.network.x_embedder.in_features

    @property
    def scales(self) -> int:
        return self.network.y_embedder.embedding_table.num_embeddings

    def sample(self, noise: Tensor, scale: Tensor, steps: int = 50) -> Tensor:
        """DDIM from noise (b, 65, w) for scales (b,): the network answers with z_0, and the last z_0 is the sample."""

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            return self.network(z_t, t, scale)[0].to(z_t.dtype)

        return ddim(denoise, noise, self.alpha_bar, respaced_timesteps(steps), kind="z_0", final=1.0)
