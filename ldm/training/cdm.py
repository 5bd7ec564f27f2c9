"""system: cdm. A DiT that samples the Summarizer's tokens, so that no reference image is needed (paper, section 3.3).

The data are the tokens of a finished model: x_0 = Summarizer(embeddings, scale). The network predicts x_0 and the
variance of each step under a cosine schedule, conditioned on the scale; loss = mse + variational bound, as published.
With `cdm.labels`, it is also conditioned on the label of the slide, which is dropped for DROPPED of the samples, so
that sampling can be guided by it. Shapes: x (b, tokens, d), t (b,), scale (b,), label (b,).
"""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.conditioning_model import ConditioningModel
from ldm.config.objects import build
from ldm.config.training_config import put
from ldm.data.batch import Batch
from ldm.data.datamodule import CohortData
from ldm.data.labels import slide_labels
from ldm.diffusion.schedule import add_noise, at
from ldm.diffusion.vlb import variance_bound
from ldm.errors import UserError
from ldm.networks.dit import DiT
from ldm.networks.summarizer import PLACES
from ldm.networks.weights_id import weights_id
from ldm.pipeline import ZoomLDM
from ldm.support.cache import digest_of
from ldm.training.base import DenoisingSystem, OptimizerPlan, Run
from ldm.training.memory import saved_bytes
from ldm.training.zoomldm import draw_samples, finished_model

DROPPED = 0.1
"""share of samples without their label"""


class CDMTraining(DenoisingSystem):
    """Trains `cdm` on the outputs of a frozen Summarizer."""

    def __init__(self, *, cdm: nn.Module, alpha_bar: Tensor, scale_names: list[str], plan: OptimizerPlan) -> None:
        super().__init__(plan, alpha_bar, scale_names)
        self.cdm = cdm
        self.summarizer: Any = None
        """frozen; set before training"""
        self.label_of: dict[str, int] = {}
        """number of the label of each labelled slide; empty without labels"""

    def labels(self, batch: Batch) -> Tensor | None:
        """Numbers (b,) of the labels of the batch's slides, or that of no label; None without labels."""
        if not self.label_of:
            return None
        none = len(set(self.label_of.values()))
        return torch.tensor([self.label_of.get(slide, none) for slide in batch.slide], device=batch.scale.device)

    def errors(self, x_0: Tensor, scale: Tensor, t: Tensor, eps: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Losses: (b,) mean squared error of x_0, and (b,) variational lower bound of the step."""
        x_t = add_noise(x_0, eps, at(self.alpha_bar, t, x_0))
        predicted, variance = self.cdm(x_t, t, scale, label)
        mse = (predicted.float() - x_0).square().flatten(1).mean(1)
        bound = variance_bound(x_0, x_t, t, predicted.detach().float(), variance.float(), self.alpha_bar)
        return mse, bound

    def training_step(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            x_0 = self.summarizer(batch.embedding, batch.scale).float()
        generator, total = batch.stream.generator(self.device), batch.stream.total
        t = self.times(total, self.alpha_bar, generator)
        eps = torch.randn(total, *x_0.shape[1:], generator=generator, device=self.device)
        label = self.labels(batch)
        if label is not None:
            dropped = torch.rand(total, generator=generator, device=self.device) < DROPPED
            none = len(set(self.label_of.values()))
            label = label.masked_fill(batch.stream.local(dropped, len(batch)), none)
        t, eps = batch.stream.local(t, len(batch)), batch.stream.local(eps, len(batch))
        mse, bound = self.errors(x_0, batch.scale, t, eps, label)
        loss = (mse + bound).mean()
        self.log_dict({"loss": loss, "mse": mse.mean()}, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        x_0 = self.summarizer(batch.embedding, batch.scale).float()
        label = self.labels(batch)
        self.validate(batch, x_0, lambda t, eps: self.errors(x_0, batch.scale, t, eps, label)[0])


def labels_of(config: DictConfig) -> dict[str, str]:
    """The label of each slide by `cdm.labels`; writes their names and number into the config. Empty without labels.

    UserError for labels that are not those that the run began with.
    """
    path = (config.get("cdm") or {}).get("labels")
    if not path:
        return {}
    found = slide_labels(path)
    names = sorted(set(found.values()))
    digest = digest_of(json.dumps(found, sort_keys=True))
    if config.get("labels_id") not in (None, digest):
        raise UserError(
            f"cdm.labels: {path} was changed since the run began; give the file of then, or begin another run"
        )
    put(config, label_names=names, labels_id=digest)
    config.model.cdm.labels = len(names)
    return found


class CDMRun(Run):
    system: CDMTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.labels = labels_of(config)
        self.cdm = build(config.model.cdm, "model.cdm", kind=DiT)
        scales = self.cdm.y_embedder.embedding_table.num_embeddings
        self.same("model.cdm.scales", scales, len(self.ladder), "the ladder")
        self.same("model.cdm.tokens", self.cdm.pos_embed.shape[1], 1 + PLACES, "the Summarizer")
        self.source: ZoomLDM | None = None
        self.system = CDMTraining(
            cdm=self.cdm,
            alpha_bar=build(config.model.schedule, "model.schedule", kind=Tensor),
            scale_names=self.ladder.names,
            plan=self.plan,
        )

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        self.system.label_of = self.numbered(data)
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

    def numbered(self, data: CohortData) -> dict[str, int]:
        """The number of every labelled slide's label. UserError for a label that no training slide has."""
        there = {str(slide.attrs["slide_id"]) for slide in data.training.slides}
        names = list(self.config.get("label_names") or [])
        lacking = set(names) - {label for slide, label in self.labels.items() if slide in there}
        if lacking:
            raise UserError(
                f"cdm.labels: no training slide of {data.folder} is labelled {min(lacking)}; name slides as they are "
                "there, without .h5, or leave that label empty"
            )
        return {slide: names.index(label) for slide, label in self.labels.items()}

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
