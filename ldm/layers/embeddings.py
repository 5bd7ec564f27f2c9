"""Sinusoidal embeddings of time and of position, in float32 for any dtype of the network."""

import math

import torch
from torch import Tensor

PERIOD_MAX = 10_000.0


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """t (b,) -> (b, width): cos(t w_i) first, then sin(t w_i), w_i = 10000^(-i / half), half = width / 2."""
    half = width // 2
    frequency = torch.exp(-math.log(PERIOD_MAX) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency  # (b, half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def position_embedding(tokens: int, width: int) -> Tensor:
    """(1, tokens, width): sin(n w_i) first, then cos(n w_i), computed in float64 (Vaswani et al. 2017)."""
    half = width // 2
    frequency = PERIOD_MAX ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * frequency  # (tokens, half)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()[None]
