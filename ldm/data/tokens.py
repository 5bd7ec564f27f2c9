"""Tokens: embeddings as the Summarizer takes them."""

import torch
from torch import Tensor

TOKENS = 65
"""tokens of a context: 64 places and the scale"""


def normalize_tokens(grid: Tensor) -> Tensor:
    """Standardise each token of `grid` (..., d, gh, gw) over its channels, in float32 or more (unbiased, eps 1e-8)."""
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    return (grid - grid.mean(-3, keepdim=True)) / (grid.std(-3, keepdim=True) + 1e-8)
