"""Tokens: embeddings as the Summarizer takes them."""

import torch
from torch import Tensor

TOKENS = 65
"""tokens of a context: 64 places and the scale"""


def normalize_tokens(grid: Tensor) -> Tensor:
    """Standardise each token of `grid` (..., d, gh, gw) over its channels, in float32 or more (unbiased, eps 1e-8)."""
    tokens = grid.to(torch.promote_types(grid.dtype, torch.float32)).movedim(-3, -1)  # (..., gh, gw, d)
    apart = tokens - tokens.mean(-1, keepdim=True)
    std = torch.linalg.vector_norm(apart, dim=-1, keepdim=True) / (tokens.shape[-1] - 1) ** 0.5
    return (apart / (std + 1e-8)).movedim(-1, -3)
