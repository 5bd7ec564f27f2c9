"""system: cdm. The CDM, on the contexts that a finished ZoomLDM's Summarizer gives."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.cdm import ConditioningModel
from ldm.config import build
from ldm.data.datamodule import CohortData
from ldm.errors import UserError
from ldm.networks.dit import DiT
from ldm.networks.summarizer import PLACES
from ldm.networks.weights_id import weights_id
from ldm.pipeline import ZoomLDM
from ldm.runs.base import Run
from ldm.runs.zoomldm import draw_samples, finished_model
from ldm.training.conditioning import Conditioning
from ldm.training.memory import saved_bytes
from ldm.training_config import put


class ConditioningRun(Run):
    system: Conditioning

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.cdm = build(config.model.cdm, "model.cdm", kind=DiT)
        scales = self.cdm.y_embedder.embedding_table.num_embeddings
        self.same("model.cdm.scales", scales, len(self.ladder), "the ladder")
        self.same("model.cdm.tokens", self.cdm.pos_embed.shape[1], 1 + PLACES, "the Summarizer")
        self.source: ZoomLDM | None = None
        self.system = Conditioning(
            cdm=self.cdm,
            alpha_bar=build(config.model.schedule, "model.schedule", kind=Tensor),
            scale_names=self.ladder.names,
            **self.training_arguments(),
        )

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        self.source = finished_model(self.config.zoomldm, self.ladder)
        width = self.source.summarizer.mag_embedding.embedding_dim
        self.same("model.cdm.context_dim", self.cdm.x_embedder.in_features, width, f"zoomldm {self.config.zoomldm}")
        self.system.summarizer = self.source.summarizer
        contexts_id = weights_id(self.source.summarizer)
        if self.config.get("contexts_id") not in (None, contexts_id):
            raise UserError(
                f"zoomldm: the Summarizer of {self.config.zoomldm} is {contexts_id}, but the run began with that of "
                f"{self.config.contexts_id}; name the model that it began with, or begin another run"
            )
        put(self.config, contexts_id=contexts_id)

    def networks(self) -> dict[str, nn.Module]:
        return {"cdm": self.cdm}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        x = torch.zeros(1, 65, self.config.model.cdm.get("context_dim", 512), device="meta", dtype=dtype)
        t = torch.zeros(1, dtype=torch.long, device="meta")
        return saved_bytes(self.cdm, lambda net: net(x, t, t), dtype)

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        return self.cdm.state_dict()

    def draw(self, path: Path, data: CohortData) -> None:
        assert self.source is not None
        self.source.to(self.system.device).cdm = ConditioningModel(self.cdm, self.system.alpha_bar)
        draw_samples(path, data, self.source, from_regions=False)
