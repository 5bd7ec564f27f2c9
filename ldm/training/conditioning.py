"""The CDM: a DiT that samples the Summarizer's tokens, so that no reference image is needed (paper, section 3.3).

The tokens of a finished run are the data: x_0 = Summarizer(embeddings, scale). The network predicts x_0 and the
variance of each step under a cosine schedule, conditioned on the scale; loss = mse + variational bound, as published.
Shapes: x (b, tokens, d), t (b,), scale (b,).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ldm.batch import Batch
from ldm.diffusion.schedule import add_noise, at
from ldm.diffusion.times import Uniform, timestep_of_sigma
from ldm.diffusion.variational import variance_bound
from ldm.training.latent_diffusion import VALIDATION_SIGMAS
from ldm.training.system import OptimizerFactory, System


class Conditioning(System):
    """Trains `cdm` on the outputs of a frozen Summarizer."""

    alpha_bar: Tensor

    def __init__(
        self,
        *,
        cdm: nn.Module,
        alpha_bar: Tensor,
        scale_names: list[str],
        optimizer: OptimizerFactory,
        warmup: int,
        last: int,
        decay_from: int | None = None,
    ) -> None:
        super().__init__(optimizer, warmup=warmup, decay_from=decay_from, last=last)
        self.cdm = cdm
        self.summarizer: Any = None
        """frozen; set before training"""
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.scale_names = scale_names
        self.times = Uniform()

    def errors(self, x_0: Tensor, scale: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """((b,) mean squared error of x_0, (b,) variational bound of the step)."""
        x_t = add_noise(x_0, eps, at(self.alpha_bar, t, x_0))
        predicted, variance = self.cdm(x_t, t, scale)
        mse = (predicted.float() - x_0).square().flatten(1).mean(1)
        bound = variance_bound(x_0, x_t, t, predicted.detach().float(), variance.float(), self.alpha_bar)
        return mse, bound

    def training_step(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            x_0 = self.summarizer(batch.embedding, batch.scale).float()
        generator, total = batch.stream.generator(self.device), batch.stream.total
        t = self.times(total, self.alpha_bar, generator)
        eps = torch.randn(total, *x_0.shape[1:], generator=generator, device=self.device)
        t, eps = batch.stream.mine(t, len(batch)), batch.stream.mine(eps, len(batch))
        mse, bound = self.errors(x_0, batch.scale, t, eps)
        loss = (mse + bound).mean()
        self.log_dict({"loss": loss, "mse": mse.mean()}, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        x_0 = self.summarizer(batch.embedding, batch.scale).float()
        eps = torch.randn(x_0.shape, generator=batch.stream.generator()).to(self.device)
        total = torch.zeros(len(batch), device=self.device)
        for sigma in VALIDATION_SIGMAS:
            t = timestep_of_sigma(torch.full((len(batch),), sigma, device=self.device), self.alpha_bar)
            total += self.errors(x_0, batch.scale, t, eps)[0]
        self.log_scales(total / len(VALIDATION_SIGMAS), batch.scale, self.scale_names)
