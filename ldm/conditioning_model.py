"""The conditioning diffusion model (CDM): samples contexts like the Summarizer's (paper, section 3.3).

Shapes: b contexts, w their width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from ldm.diffusion.defaults import CONTEXT_STEPS
from ldm.diffusion.samplers import dpmpp_2m, log_snr_timesteps
from ldm.errors import UserError
from ldm.hub import build_part, load_network, open_source, save_model
from ldm.networks.dit import DiT

LABEL_GUIDANCE = 1.5
"""guidance towards a label: z_0 = none + guidance (labelled - none)"""


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
    labels: tuple[str, ...] = ()
    """labels of slides that it is conditioned on, in the order of their numbers"""

    @classmethod
    def load(cls, source: str | Path) -> "ConditioningModel":
        """From "demo" or "satellite", a cdm run folder, a published file or a name on the hub: see `ldm.hub`."""
        found = open_source(source, "cdm")
        network = load_network(found, "cdm", {"cdm": found.tensors})
        contexts_id = found.config.get("contexts_id")
        labels = tuple(found.config.get("label_names") or ())
        if len(labels) != network.labels:
            raise UserError(f"cdm: {found.id} has {network.labels} labels, its config {len(labels)}; fetch it again")
        return cls(network, build_part(found, "schedule"), found.id, found.config_id, contexts_id, found.config, labels)

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

    def number_of(self, label: str) -> int:
        """The number of `label`. UserError for one that it was not trained on."""
        if label not in self.labels:
            known = (
                f"expected one of {', '.join(self.labels)}" if self.labels else "it has none: train it with cdm.labels"
            )
            raise UserError(f"--label: {label[:80]} is no label of the CDM {self.id}; {known}")
        return self.labels.index(label)

    def sample(self, noise: Tensor, scale: Tensor, steps: int = CONTEXT_STEPS, label: str | None = None) -> Tensor:
        """DPM++ from noise (b, 65, w) for scales (b,); the network predicts z_0.

        The published sampler, DDIM in even steps, makes contexts too much alike (`respaced_timesteps`).
        With a `label` it is guided towards slides of this label. UserError for an unknown one.
        """
        number = None if label is None else torch.full_like(scale, self.number_of(label))

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            z_0 = self.network(z_t, t, scale)[0].to(z_t.dtype)
            if number is None:
                return z_0
            return z_0.lerp(self.network(z_t, t, scale, number)[0].to(z_t.dtype), LABEL_GUIDANCE)

        return dpmpp_2m(denoise, noise, self.alpha_bar, log_snr_timesteps(steps, self.alpha_bar), kind="z_0")
