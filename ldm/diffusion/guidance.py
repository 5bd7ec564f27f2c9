"""Classifier-free guidance (Ho and Salimans 2022; paper, section 4.1.2).

    eps = eps_null + guidance * (eps_cond - eps_null)

guidance 1 is the plain conditional network, 0 the unconditional one. The null context is all zeros.
Papers that write (1 + w) eps_cond - w eps_null mean guidance = 1 + w.

It can be limited to an interval of noise levels, low < sigma < high with sigma = sqrt((1 - alpha_bar) / alpha_bar)
(Kynkaanniemi et al. 2024): outside it guidance is 1, and the null context needs no evaluation.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.defaults import Interval, check_interval
from ldm.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""denoise(z_t (b, 3, h, w), t (b,) long) -> eps (b, 3, h, w)"""


LARGEST = 100.0
"""far above any use; much more makes samples that are no numbers, which looks like damaged weights"""


def guided(
    denoise_cond: Denoiser, denoise_null: Denoiser, guidance: float, denoise_pair: Denoiser | None = None
) -> Denoiser:
    """A denoiser that combines both; at guidance 1 or 0 the one without weight is not called.

    `denoise_pair`, where it is given, evaluates both in one batch: its first half under the condition.

    UserError for a guidance outside -LARGEST to LARGEST.
    """
    if not abs(guidance) <= LARGEST:
        raise UserError(f"guidance: {guidance} found, expected a number up to {LARGEST:g}; 1 is none, 2 is usual")
    if guidance == 1:
        return denoise_cond
    if guidance == 0:
        return denoise_null

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        if denoise_pair is not None:
            eps_cond, eps_null = denoise_pair(torch.cat([z_t, z_t]), torch.cat([t, t])).chunk(2)
            return eps_null + guidance * (eps_cond - eps_null)
        eps_null = denoise_null(z_t, t)
        return eps_null + guidance * (denoise_cond(z_t, t) - eps_null)

    return denoise


def limited(denoise_guided: Denoiser, denoise_cond: Denoiser, alpha_bar: Tensor, interval: Interval) -> Denoiser:
    """`denoise_guided` at timesteps of the schedule `alpha_bar` (steps,) inside the interval, else `denoise_cond`.

    UserError unless 0 <= low < high.
    """
    check_interval(interval)
    sigma = sigma_of(alpha_bar)  # (steps,)
    inside = (sigma > interval[0]) & (sigma < interval[1])

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        here = inside[t.cpu().clamp(max=len(inside) - 1)]  # (b,); the released sampler asks one past the schedule
        if here.all():
            return denoise_guided(z_t, t)
        if not here.any():
            return denoise_cond(z_t, t)
        mask = here.to(z_t.device).reshape(-1, *[1] * (z_t.ndim - 1))
        return torch.where(mask, denoise_guided(z_t, t), denoise_cond(z_t, t))

    return denoise


def sigma_of(alpha_bar: Tensor) -> Tensor:
    """Noise over signal of every timestep (steps,)."""
    return ((1 - alpha_bar.double()) / alpha_bar.double()).sqrt().cpu()
