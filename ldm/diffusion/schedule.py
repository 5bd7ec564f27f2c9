"""Noise schedules and the identities between z_t, z_0, eps and v.

    z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps                Ho et al. 2020, eq. 4
    v   = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) z_0                Salimans and Ho 2022, appendix D

A schedule is a table alpha_bar (steps,); `at` looks it up. a_t is alpha_bar at t, shaped to broadcast over a sample.
Shapes: b samples, ... the dimensions of one sample.
"""

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ldm.errors import UserError

KINDS = ("eps", "v", "z_0")
BETA_MAX = 0.999
Steps = Annotated[int, Field(ge=2, le=100_000)]
Variance = Annotated[float, Field(gt=0, lt=1)]


class Prediction(NamedTuple):
    """What a network's output says about z_t: the clean sample and the noise, each (b, ...)."""

    z_0: Tensor
    eps: Tensor


def scaled_linear_alpha_bar(steps: Steps = 1000, start: Variance = 0.0015, end: Variance = 0.0195) -> Tensor:
    """(steps,) alpha_bar with sqrt(beta) linear in t, float32: the published latent diffusion schedule."""
    beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - beta, dim=0).float()


def cosine_alpha_bar(steps: Steps = 1000) -> Tensor:
    """(steps,) alpha_bar of Nichol and Dhariwal 2021, eq. 17, beta at most 0.999; the published CDM schedule.

    float64: the variances of the first steps are differences that float32 would lose.
    """
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    curve = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=BETA_MAX)
    return torch.cumprod(1 - beta, dim=0)


def at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Look up `table` (steps,) at t (b,): (b, 1, ...) that broadcasts over `like` (b, ...), at least float32."""
    value = table[t.to(table.device)].to(like.device, torch.promote_types(like.dtype, torch.float32))
    return value.reshape(-1, *[1] * (like.ndim - 1))  # (b, 1, ...)


def add_noise(z_0: Tensor, eps: Tensor, a_t: Tensor) -> Tensor:
    """z_t (b, ...) from the clean sample and the noise."""
    return a_t.sqrt() * z_0 + (1 - a_t).sqrt() * eps


def target(z_0: Tensor, eps: Tensor, a_t: Tensor, kind: str) -> Tensor:
    """What a network of `kind` "eps", "v" or "z_0" has to output for z_t; the inverse of `predict`."""
    if kind == "eps":
        return eps
    if kind == "v":
        return a_t.sqrt() * eps - (1 - a_t).sqrt() * z_0
    if kind == "z_0":
        return z_0
    raise _unknown(kind)


def predict(output: Tensor, z_t: Tensor, a_t: Tensor, kind: str) -> Prediction:
    """Read the `output` of a network of `kind` "eps", "v" or "z_0" at z_t as a Prediction."""
    signal, noise = a_t.sqrt(), (1 - a_t).sqrt()
    if kind == "eps":
        return Prediction((z_t - noise * output) / signal, output)
    if kind == "v":
        return Prediction(signal * z_t - noise * output, signal * output + noise * z_t)
    if kind == "z_0":
        return Prediction(output, (z_t - signal * output) / noise)
    raise _unknown(kind)


def _unknown(kind: str) -> UserError:
    return UserError(f"prediction: unknown kind {kind}; it is one of {', '.join(KINDS)}")
