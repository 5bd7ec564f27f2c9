"""Sampling steps as a table: the timestep and the coefficients of each step.

    z_next = sqrt(a_next) z_0 + eps_scale eps + noise_scale noise

DDIM (Song et al. 2021) adds no noise. The released large-image sampler has its own rule: timesteps start, start -
stride, ... stride, each paired with the alpha_bar of the timestep below, and noise of the variance of a *single* step
of the schedule, however long the stride. Joint sampling adds that noise without reducing eps (`reduced=False`; the
paper's eq. 2 does so too), the seam repair reduces eps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.schedule import Prediction
from ldm.errors import UserError


class NoiseLevel(NamedTuple):
    """A timestep and its alpha_bar (float64 scalar)."""

    t: int
    a_t: Tensor


class Step(NamedTuple):
    """The network is evaluated at timestep `t`; z_t is at a_t and goes to a_next (float64 scalars)."""

    t: int
    a_t: Tensor
    a_next: Tensor
    eps_scale: Tensor
    noise_scale: Tensor
    conditioning: NoiseLevel | None = None
    """the noise level that the network is told instead (`conditioned_on_more_noise`)"""

    def level(self, z_t: Tensor) -> tuple[Tensor, NoiseLevel]:
        """z_t (..., H, W) as it is at the noise level that the network is told, and that level."""
        if self.conditioning is None:
            return z_t, NoiseLevel(self.t, self.a_t)
        return z_t * (self.conditioning.a_t / self.a_t).sqrt().to(z_t), self.conditioning

    def advance(self, prediction: Prediction, noise: Tensor | None = None) -> Tensor:
        """z_next (..., H, W). `noise` of that shape where the step adds any."""
        z_0, eps = prediction
        z_next = (self.a_next.sqrt().to(z_0) * z_0).addcmul_(self.eps_scale.to(eps), eps)
        return z_next if noise is None else z_next.addcmul_(self.noise_scale.to(noise), noise)


def ddim_steps(timesteps: Sequence[int], alpha_bar: Tensor) -> list[Step]:
    """Deterministic steps along `timesteps` of the schedule alpha_bar (total,), to alpha_bar[0]."""
    table = alpha_bar.double().cpu()
    nexts = [table[t] for t in timesteps[1:]] + [table[0]]
    zero = torch.zeros((), dtype=torch.float64)
    return [Step(t, table[t], a_next, (1 - a_next).sqrt(), zero) for t, a_next in zip(timesteps, nexts, strict=True)]


def conditioned_on_more_noise(steps: Sequence[Step], alpha_bar: Tensor, error: float) -> list[Step]:
    """`steps` whose network is told the noise sqrt(sigma^2 + error^2); sigma is the noise over the signal.

    For z_0 with errors of standard deviation `error` that are not of the schedule: the network then takes them for
    noise, and not for texture.
    """
    if not error:
        return list(steps)
    table = alpha_bar.double().cpu()
    sigma = ((1 - table) / table).sqrt()
    more = []
    for step in steps:
        wanted = ((1 - step.a_t) / step.a_t + error**2).sqrt()
        t = int((sigma.log() - wanted.log()).abs().argmin())
        more.append(step._replace(conditioning=NoiseLevel(t, table[t])))
    return more


def released_steps(start: int, stride: int, alpha_bar: Tensor, reduced: bool = False) -> list[Step]:
    """The released sampler's steps from noise level `start` down.

    The network is evaluated one timestep above the index of the noise level; in the first step from pure noise this is
    the length of the table, which a time embedding accepts.

    UserError when `stride` does not lead from `start` to 0 within the schedule.
    """
    total = len(alpha_bar)
    if not 0 < stride <= start <= total or start % stride:
        raise UserError(f"steps: from {start} by {stride}; expected a stride that divides the start, at most {total}")
    table = alpha_bar.double().cpu()
    before = torch.cat([table.new_ones(1), table[:-1]])
    beta = 1 - table / before
    plan = []
    for t in range(start, 0, -stride):
        a_t, a_next = table[t - 1], table[max(t - 1 - stride, 0)]
        variance = beta[t - 1] * (1 - a_next) / (1 - a_t)
        room = variance if reduced else 0
        plan.append(Step(t, a_t, a_next, (1 - a_next - room).sqrt(), variance.sqrt()))
    return plan
