"""Samplers: loops over a network's predictions, from noise z_T to a latent.

    DDIM         z_next = sqrt(a_next) z_0 + sqrt(1 - a_next - sigma^2) eps + sigma noise     Song et al. 2021
    DPM++ (2M)   z_next = sigma_next / sigma_t z_t - sqrt(a_next) (e^-h - 1) D                Lu et al. 2022

a_t is alpha_bar at a step's timestep and a_next the one it steps to; h is the growth of lambda = log sqrt(a / (1 - a))
over the step; D extrapolates z_0 from the last two predictions. A sampler takes a callable of (z_t, t) and a table
alpha_bar. Timesteps are listed in the order they are visited, noisiest first.

Sampling ends at alpha_bar[0], as published, or at `final`; the published CDM ends at 1, where the sample is the last
z_0.

DDIM is of first order: every step ends slightly too close to the mean, so Gaussian data come out too narrow. With the
50 evenly spaced timesteps of the published sampler, data of standard deviation 0.5 end at 0.94 of it, of 0.1 at 0.82,
since the steps near the data are too long for fine detail. On the timesteps for patches, 50 steps lose 3.4 to 3.8 % of
standard deviations from 0.1 to 3 and 100 lose 1.8 to 2 % (2.5 % of 0.1). DPM++ is within 2 % with 10 steps and within
0.7 % with 20.

Shapes: b samples, ... the dimensions of one sample.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion.defaults import SAMPLER, STEPS, Interval
from ldm.diffusion.guidance import Denoiser, sigma_of
from ldm.diffusion.schedule import Prediction, predict
from ldm.errors import UserError

CURVE = 0.9
"""exponent of the steps in lambda: below 1, steps near the data are shorter"""
NOISIEST = -6.0
"""lambda at which `log_snr_timesteps` begins where a schedule has more noise, as the cosine one, whose first timesteps
are several units of lambda apart; noise is 400 times the signal there"""
Callback = Callable[[int, Prediction], None]
"""called after every evaluation with the step's number from 0 and the network's input"""


def ddim_timesteps(steps: int, total: int = 1000) -> list[int]:
    """`steps` timesteps, noisiest first: i total / steps + 1, rounded down.

    The published ones where `steps` divides `total` (50: 981, 961, ... 1), which joint sampling uses in the paper's
    conventions. For other numbers the published rule gives more timesteps than asked; this one gives exactly `steps`.
    UserError outside 1 to total / 2.
    """
    _check_steps(steps, total)
    return [i * total // steps + 1 for i in reversed(range(steps))]


def respaced_timesteps(steps: int, total: int = 1000) -> list[int]:
    """`steps` timesteps, evenly from total - 1 to 0 inclusive: the published CDM's. UserError outside 2 to total.

    With DDIM, 50 of them end at 0.72 of a standard deviation of 26, which principal components of contexts have.
    """
    if not 2 <= steps <= total:
        raise UserError(
            f"steps: {steps} asked of the CDM; its schedule of {total} allows 2 to {total}, and 50 is usual"
        )
    return [round(i * (total - 1) / (steps - 1)) for i in reversed(range(steps))]


def log_snr_timesteps(steps: int, alpha_bar: Tensor) -> list[int]:
    """`steps` different timesteps, noisiest first: the timesteps for patches.

    Step i of n begins nearest to lambda_T + (lambda_0 - lambda_T) (i / n)^CURVE, where lambda_T is at least NOISIEST.
    UserError outside 1 to half of the schedule.
    """
    _check_steps(steps, len(alpha_bar))
    table = log_snr(alpha_bar.double().cpu())
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:-1] ** CURVE
    timesteps = [0]
    noisiest = table[-1].clamp(min=NOISIEST)
    levels = (noisiest + (table[0] - noisiest) * share).flip(0)
    for left, level in zip(reversed(range(steps)), levels, strict=True):
        nearest = max(int((table - level).abs().argmin()), timesteps[-1] + 1)
        timesteps.append(min(nearest, len(table) - 1 - left))  # which leaves room for those that are left
    return timesteps[:0:-1]


def _check_steps(steps: int, total: int) -> None:
    if not 1 <= steps <= total // 2:
        raise UserError(
            f"steps: {steps} asked; the schedule of {total} allows 1 to {total // 2}, and {STEPS[SAMPLER]} is usual"
        )


def seeded_noise(shape: Sequence[int], *key: int) -> Tensor:
    """Standard normal float32 noise on the CPU, determined by the integers of `key`. UserError for one below 0."""
    if min(key) < 0:
        raise UserError(f"seed: {min(key)} is negative; expected 0 or more")
    return torch.from_numpy(np.random.default_rng(key).standard_normal(tuple(shape), dtype=np.float32))


def ddim_step(pred: Prediction, a_t: Tensor, a_next: Tensor, eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """Song et al. 2021, eq. 12 and 16: (b, ...) at a_next; eta 0 is deterministic, eta 1 is ancestral (DDPM)."""
    sigma = eta * ((1 - a_next) / (1 - a_t) * (1 - a_t / a_next)).sqrt()
    z_next = a_next.sqrt() * pred.z_0 + (1 - a_next - sigma**2).sqrt() * pred.eps
    return z_next if noise is None else z_next + sigma * noise


def ddim(
    denoise: Denoiser,
    z_T: Tensor,
    alpha_bar: Tensor,
    timesteps: Sequence[int],
    *,
    kind: str = "eps",
    final: float | None = None,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Sample from noise z_T (b, ...) along `timesteps` of the schedule `alpha_bar` (steps,).

    `kind` is what `denoise` predicts ("eps" | "v" | "z_0"); `final` the alpha_bar reached, alpha_bar[0] by default;
    `noise(step)` (b, ...) is needed when eta > 0. UserError without it, and for an eta outside 0 to 1.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta: {eta} found, expected a number from 0 (deterministic) to 1 (ancestral)")
    if eta and noise is None:
        raise UserError(f"eta: {eta} without noise; give noise(step), or eta 0")
    z_t = z_T
    for step, (t, a_t, a_next) in enumerate(_levels(alpha_bar, timesteps, final)):
        pred = predict(denoise(z_t, timestep(z_t, t)), z_t, a_t, kind)
        if callback:
            callback(step, pred)
        z_t = ddim_step(pred, a_t, a_next, eta, noise(step) if noise else None)
    return z_t


Before = tuple[Tensor, Tensor]
"""z_0 (b, ...) of the step before, and how much lambda grew over it"""


def dpmpp_step(z_t: Tensor, z_0: Tensor, a_t: Tensor, a_next: Tensor, before: Before | None) -> tuple[Tensor, Before]:
    """(b, ...) at a_next from z_t and its predicted z_0, and what the next step needs; of first order without `before`.

    a_t and a_next broadcast over a sample.
    """
    h = log_snr(a_next) - log_snr(a_t)
    direction = z_0
    if before:
        z_0_before, h_before = before
        direction = z_0 + h / (2 * h_before) * (z_0 - z_0_before)
    z_next = ((1 - a_next) / (1 - a_t)).sqrt() * z_t - a_next.sqrt() * torch.expm1(-h) * direction
    return z_next, (z_0, h)


def dpmpp_2m(
    denoise: Denoiser,
    z_T: Tensor,
    alpha_bar: Tensor,
    timesteps: Sequence[int],
    *,
    kind: str = "eps",
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: the trajectory of deterministic DDIM to second order.

    Arguments as for `ddim`. The first step is of first order, that is, DDIM's own. On even steps of lambda, 20 are
    closer to the exact path than 100 of DDIM.
    """
    z_t = z_T
    before: Before | None = None
    for step, (t, a_t, a_next) in enumerate(_levels(alpha_bar, timesteps)):
        pred = predict(denoise(z_t, timestep(z_t, t)), z_t, a_t, kind)
        if callback:
            callback(step, pred)
        z_t, before = dpmpp_step(z_t, pred.z_0, a_t, a_next, before)
    return z_t


class Sampler(NamedTuple):
    """A loop, its timesteps as a function of (steps, alpha_bar), and the default number of them."""

    run: Callable[..., Tensor]
    timesteps: Callable[[int, Tensor], list[int]]
    steps: int


SAMPLERS = {
    "dpmpp": Sampler(dpmpp_2m, log_snr_timesteps, STEPS["dpmpp"]),
    "ddim": Sampler(ddim, log_snr_timesteps, STEPS["ddim"]),
}
"""each with as many steps as Gaussian data of standard deviation 0.3 or more need to end within 2 % of it"""


def _levels(
    alpha_bar: Tensor, timesteps: Sequence[int], final: float | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(t, a_t, a_next) of every step; the alphas are float64 scalars on the CPU, which broadcast on any device."""
    table = alpha_bar.double().cpu()
    last = table[0] if final is None else torch.tensor(final, dtype=torch.float64)
    nexts = [table[t] for t in timesteps[1:]] + [last]
    return ((t, table[t], a_next) for t, a_next in zip(timesteps, nexts, strict=True))


def timestep(z_t: Tensor, t: int) -> Tensor:
    """(b,) t for every sample of z_t (b, ...)."""
    return torch.full((len(z_t),), t, dtype=torch.long, device=z_t.device)  # (b,)


def log_snr(a_t: Tensor) -> Tensor:
    """lambda = log(sqrt(a) / sqrt(1 - a))"""
    return (a_t.log() - torch.log1p(-a_t)) / 2


def check_levels(
    interval: Interval | None, alpha_bar: Tensor, sampler: str | None = None, steps: int | None = None
) -> None:
    """UserError for an interval of guidance that holds none of the schedule's noise levels or, with a `sampler`, none
    of its `steps`: guidance would do nothing.
    """
    if interval is None:
        return
    sigma, what = sigma_of(alpha_bar), "the schedule's"
    if sampler is not None:
        _, timesteps_of, usual = SAMPLERS[sampler]
        timesteps = timesteps_of(usual if steps is None else steps, alpha_bar)
        sigma, what = sigma[timesteps], f"those of {len(timesteps)} sampling steps"
    if not ((sigma > interval[0]) & (sigma < interval[1])).any():
        raise UserError(
            f"--guidance-interval: {interval[0]:g},{interval[1]:g} holds no noise level, expected one or more of "
            f"{what}, sigma from {sigma.min():.3g} to {sigma.max():.3g}; widen it, or leave it out"
        )
