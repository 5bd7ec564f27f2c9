"""Condition inversion: infer grids of embeddings for images or contexts without a slide.

    grids = Inversion(model, "20x").from_latents(model.encode(x))          an image (paper, section 8.3)
    grids = Inversion(model, "5x").from_context(model.sample_context("5x"))     a sample of the CDM

The second provides conditions for finer scales without a reference: each token of a coarse patch's grid is the mean
embedding of the base tiles there. Grid i depends on seed + i and its own image or context alone.

Shapes: n images, d channels of an embedding, g tokens a side, w context width, h latents a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.diffusion.samplers import seeded_noise
from ldm.errors import UserError
from ldm.multiscale.inversion_loss import ContextLoss, DenoisingLoss, Loss, inversion_timesteps, invert
from ldm.multiscale.model import MultiscaleModel

FOR_GRID, FOR_EPS = 2, 3
"""purpose of the noise: the second key of its generator"""
SPREAD = 0.1
"""standard deviation of the initial grid: small, as components without gradient keep their initial values"""


@dataclass(frozen=True)
class Inversion:
    """Infers grids (n, d, g, g), tokens normalised, of patches of `scale`."""

    model: MultiscaleModel
    scale: str
    seed: int = 0
    batch_size: int = 8
    progress: bool = False

    def from_latents(self, z_0: Tensor, steps: int = 200) -> Tensor:
        """Grids for patches z_0 (n, 3, h, h) that minimise the denoising loss. UserError for another size."""
        side = self.model.tile_px // self.model.downsample
        if z_0.shape[-2:] != (side, side):
            height, width = z_0.shape[-2:]
            raise UserError(
                f"invert: latents of {height}x{width}; a patch of this model is {side}x{side}: cut the image into tiles"
            )
        model, parts = self.model, self._batches(len(z_0))
        losses = [
            DenoisingLoss(
                model.denoiser,
                self._summarize,
                z_0[part].to(model.device),
                model.alpha_bar,
                inversion_timesteps(steps),
                partial(self._noise, z_0.shape[1:], part, FOR_EPS),
            )
            for part in parts
        ]
        return self._invert(losses, parts, steps)

    def from_context(self, context: Tensor, steps: int = 200) -> Tensor:
        """Grids for contexts (n, 65, w) whose summaries are closest to them."""
        context, parts = context.to(self.model.device), self._batches(len(context))
        return self._invert([ContextLoss(self._summarize, context[part]) for part in parts], parts, steps)

    def _batches(self, count: int) -> list[slice]:
        return [slice(i, min(i + self.batch_size, count)) for i in range(0, count, self.batch_size)]

    def _summarize(self, grids: Tensor) -> Tensor:
        return self.model.context(grids, self.scale)

    def _invert(self, losses: Sequence[Loss], parts: Sequence[slice], steps: int) -> Tensor:
        side = self.model.ladder[self.scale].grid
        shape = (self.model.embedding_width, side, side)
        grids = []
        with tqdm(
            total=parts[-1].stop * steps,
            desc="inverting conditions",
            unit="step",
            disable=not self.progress,
            leave=False,
        ) as bar:
            for loss, part in zip(losses, parts, strict=True):
                start = SPREAD * self._noise(shape, part, FOR_GRID)
                grids.append(invert(loss, start, steps, callback=lambda step, values: bar.update(len(values))))
        return torch.cat(grids)

    def _noise(self, shape: Sequence[int], part: slice, *key: int) -> Tensor:
        """(len of part, *shape) standard normal, with one generator per image."""
        drawn = [seeded_noise(shape, self.seed + i, *key) for i in range(part.start, part.stop)]
        return torch.stack(drawn).to(self.model.device)
