"""Condition inversion: losses whose minimum is the grid of embeddings of an image or of a context.

    denoising   w_t mean |denoise(z_t, t; Summarizer(u)) - eps|^2 - prior mean_ij cos(u_i, u_j)     paper, eq. 13-15
                w_t = sqrt(alpha_bar_t) (1 - alpha_bar_t),  t from 950 down to 50
    context     mean |Summarizer(u) - context|^2, which needs no denoiser

Adam minimises the loss over u (paper, section 8.3); networks are frozen and take u with normalised tokens. The prior
favours similar tokens u_i in an image. Losses are summed over images, not averaged: an image's grid does not
depend on the others in its batch.

Shapes: b images, d channels of an embedding, g tokens a side, n tokens of a context, w its width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.data.tokens import normalize_tokens
from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.schedule import add_noise, at

NOISIEST, CLEANEST = 950, 50

Summarize = Callable[[Tensor], Tensor]
"""grids (b, d, g, g), tokens normalised -> contexts (b, n, w)"""
Loss = Callable[[Tensor, int], Tensor]
"""loss(u (b, d, g, g), step) -> (b,)"""
Callback = Callable[[int, Tensor], None]
"""called after every step with its number from 0 and the losses (b,) before the step"""


def inversion_timesteps(steps: int = 200) -> list[int]:
    """`steps` timesteps, evenly from 950 to 50, rounded down: the published ones."""
    return np.linspace(NOISIEST, CLEANEST, steps).astype(int).tolist()


@dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """Denoising loss of latents z_0 (b, 3, h, w) under grids, one timestep per step (paper, eq. 13 to 15).

    The noise level of timestep t is alpha_bar[t - 1], as published.
    """

    denoise_under: Callable[[Tensor], Denoiser]
    """contexts (b, n, w) -> the denoiser under them, without guidance"""
    summarize: Summarize
    z_0: Tensor
    alpha_bar: Tensor
    timesteps: Sequence[int]
    eps: Callable[[int], Tensor]
    """number of a step -> its noise (b, 3, h, w)"""
    prior: float = 0.05

    def __call__(self, u: Tensor, step: int) -> Tensor:
        """(b,) the loss of grids u (b, d, g, g) at step number `step`."""
        t = torch.full((len(self.z_0),), self.timesteps[step], device=self.z_0.device)  # (b,)
        a_t, eps = at(self.alpha_bar, t - 1, self.z_0), self.eps(step)
        denoise = self.denoise_under(self.summarize(normalize_tokens(u)))
        error = (denoise(add_noise(self.z_0, eps, a_t), t) - eps).square()
        weighted = (a_t.sqrt() * (1 - a_t) * error).mean((1, 2, 3))  # (b,)
        return weighted - self.prior * similarity(u)


@dataclass(frozen=True, eq=False)
class ContextLoss:
    """Squared distance of the summaries of grids to contexts (b, n, w); the same at every step."""

    summarize: Summarize
    context: Tensor

    def __call__(self, u: Tensor, step: int) -> Tensor:
        """(b,) the loss of grids u (b, d, g, g)."""
        return (self.summarize(normalize_tokens(u)) - self.context).square().mean((1, 2))  # (b,)


def similarity(u: Tensor) -> Tensor:
    """(b,) mean cosine of all pairs of tokens of u (b, d, g, g), a token with itself included."""
    directions = F.normalize(rearrange(u, "b d gh gw -> b (gh gw) d"), dim=-1)
    return directions.mean(1).square().sum(-1)


@torch.enable_grad()
def invert(loss: Loss, start: Tensor, steps: int, rate: float = 0.1, callback: Callback | None = None) -> Tensor:
    """Grids (b, d, g, g), tokens normalised, after `steps` of Adam at learning rate `rate` from `start` (b, d, g, g).

    Only the grids are optimised: no weight gets a gradient.
    """
    u = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([u], lr=rate)
    for step in range(steps):
        losses = loss(u, step)
        (u.grad,) = torch.autograd.grad(losses.sum(), u)
        adam.step()
        if callback:
            callback(step, losses.detach())
    return normalize_tokens(u.detach())
