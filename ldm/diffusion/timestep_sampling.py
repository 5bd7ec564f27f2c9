"""Distributions of the training timestep t.

sigma = sqrt((1 - alpha_bar) / alpha_bar) is the noise-to-signal ratio of a timestep.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.config.schema import Positive, Share


@dataclass(frozen=True)
class Uniform:
    """t uniform over the schedule (the paper's choice)."""

    def __call__(self, count: int, alpha_bar: Tensor, generator: torch.Generator) -> Tensor:
        """(count,) timesteps on the device of `alpha_bar` (steps,)."""
        return torch.randint(len(alpha_bar), (count,), generator=generator, device=alpha_bar.device)


@dataclass(frozen=True)
class LogNormal:
    """log sigma ~ N(mean, std^2), a share of the draws uniform in t.

    With uniform t, half of the samples lie above sigma 2.7 under the LDM schedule, where texture is lost in noise
    (log-normal: Karras et al. 2022, section 5).
    """

    mean: float = -0.6
    std: Positive = 1.1
    uniform_share: Share = 0.2

    def __call__(self, count: int, alpha_bar: Tensor, generator: torch.Generator) -> Tensor:
        """(count,) timesteps on the device of `alpha_bar` (steps,)."""
        device = alpha_bar.device
        uniform = torch.randint(len(alpha_bar), (count,), generator=generator, device=device)
        sigma = torch.exp(self.mean + self.std * torch.randn(count, generator=generator, device=device))
        nearest = timestep_of_sigma(sigma, alpha_bar)
        return torch.where(torch.rand(count, generator=generator, device=device) < self.uniform_share, uniform, nearest)


def timestep_of_sigma(sigma: Tensor, alpha_bar: Tensor) -> Tensor:
    """First timestep whose noise-to-signal ratio reaches `sigma`; any shape, clipped to the schedule."""
    table = ((1 - alpha_bar) / alpha_bar).sqrt()
    return torch.searchsorted(table, sigma.to(table.dtype)).clamp(max=len(table) - 1)
