"""The ZoomLDM: one denoiser for all scales, trained jointly with the Summarizer (paper, section 3.1).

    L = E || f(z_t, t, Summarizer(embeddings, scale)) - target ||^2,   z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps

with the context replaced by zeros for a share p_uncond of the samples. The target is eps (published) or v.
Shapes: z_0 (b, 3, h, w), t (b,), context (b, n, d).
"""

import torch
from torch import Tensor, nn

from ldm.batch import Batch
from ldm.diffusion.schedule import add_noise, at, target
from ldm.diffusion.times import Uniform, timestep_of_sigma
from ldm.training.system import OptimizerFactory, System

VALIDATION_SIGMAS = (0.15, 0.4, 1.0, 2.7)
"""noise-to-signal ratios at which every validation sample is scored, with fixed noise"""


class LatentDiffusion(System):
    """Joint training of `denoiser` and `summarizer` on latents."""

    alpha_bar: Tensor

    def __init__(
        self,
        *,
        denoiser: nn.Module,
        summarizer: nn.Module,
        alpha_bar: Tensor,
        scale_names: list[str],
        optimizer: OptimizerFactory,
        warmup: int,
        last: int,
        decay_from: int | None = None,
        prediction: str = "eps",
        p_uncond: float = 0.1,
        times: Uniform | None = None,
    ) -> None:
        super().__init__(optimizer, warmup=warmup, decay_from=decay_from, last=last)
        self.denoiser, self.summarizer = denoiser, summarizer
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.scale_names, self.prediction, self.p_uncond = scale_names, prediction, p_uncond
        self.times = times or Uniform()

    def network(self, batch: Batch) -> nn.Module:
        """What answers to (z_t, t, context) of `batch`."""
        return self.denoiser

    def losses(self, network: nn.Module, z_0: Tensor, context: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(b,) squared error of the prediction, mean over a sample's elements."""
        a_t = at(self.alpha_bar, t, z_0)
        output = network(add_noise(z_0, eps, a_t), t, context)
        return (output.float() - target(z_0, eps, a_t, self.prediction)).square().flatten(1).mean(1)

    def training_step(self, batch: Batch) -> Tensor:
        generator, total = batch.stream.generator(self.device), batch.stream.total
        t = self.times(total, self.alpha_bar, generator)
        kept = torch.rand(total, generator=generator, device=self.device) >= self.p_uncond
        eps = torch.randn(total, *batch.z_0.shape[1:], generator=generator, device=self.device)
        t, kept, eps = (batch.stream.mine(drawn, len(batch)) for drawn in (t, kept, eps))
        context = self.summarizer(batch.embedding, batch.scale) * kept[:, None, None]  # null context = zeros
        loss = self.losses(self.network(batch), batch.z_0, context, t, eps).mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        context = self.summarizer(batch.embedding, batch.scale)
        context = context * (self.p_uncond < 1)  # trained without contexts, scored without them
        network = self.network(batch)
        total = torch.zeros(len(batch), device=self.device)
        for sigma in VALIDATION_SIGMAS:
            # noise is drawn on the CPU so that every device scores the same task
            generator = batch.stream.generator()
            eps = torch.randn(batch.z_0.shape, generator=generator).to(self.device)
            t = timestep_of_sigma(torch.full((len(batch),), sigma, device=self.device), self.alpha_bar)
            total += self.losses(network, batch.z_0, context, t, eps)
        self.log_scales(total / len(VALIDATION_SIGMAS), batch.scale, self.scale_names)
