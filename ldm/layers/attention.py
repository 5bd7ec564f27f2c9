"""Transformer block of the U-Net: self-attention, cross-attention to the context, gated MLP (Rombach et al. 2022).

Shapes: b samples, n tokens (pixels), m context tokens, d channels, e heads.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.layers.init import zeroed
from ldm.layers.norms import group_norm

WIDEST_FUSED = 256
"""width of a head up to which a GPU's fused kernels (flash, cuDNN) have a backward pass"""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v of (b, e, n, d) with k, v (b, e, m, d).

    Wider heads get a kernel from PyTorch whose backward pass takes ten times as long as the matrix products
    (benchmarks/gpu.md), so that training on a GPU multiplies matrices.
    """
    if q.is_cuda and q.shape[-1] > WIDEST_FUSED and torch.is_grad_enabled() and q.requires_grad:
        return by_products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, by products of matrices; the softmax in float32."""
    scores = q / math.sqrt(q.shape[-1]) @ k.mT  # (b, e, n, m)
    return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


class Attention(nn.Module):
    """softmax(q k' / sqrt(d / e)) v; queries from x, keys and values from the context. No bias before the output."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (b, n, width), context (b, m, context_dim) -> (b, n, width)."""
        q, k, v = (
            rearrange(tokens, "b n (e d) -> b e n d", e=self.heads)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        out = attend(q, k, v)  # (b, e, n, d)
        return self.to_out(rearrange(out, "b e n d -> b n (e d)"))


class GEGLU(nn.Module):
    """value * gelu(gate), both linear in x (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated MLP, four times as wide inside; net.1 is the published model's dropout, which is 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each applied to a LayerNorm of x and added to x."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_dim, heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """x + a transformer block over the pixels of x, between 1x1 convolutions; starts as the identity."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_dim, heads)])
        self.proj_out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (b, width, h, w), context (b, m, context_dim) -> (b, width, h, w)."""
        tokens = rearrange(self.proj_in(self.norm(x)), "b d h w -> b (h w) d")
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(rearrange(tokens, "b (h w) d -> b d h w", h=x.shape[2]))
