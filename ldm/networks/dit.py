"""DiT: the conditioning model (CDM), a diffusion transformer over the Summarizer's tokens (paper, section 3.3).

Every block is modulated by time and scale: adaLN-Zero (Peebles and Xie 2023, section 3.2),

    x = x + gate * f(LayerNorm(x) * (1 + factor) + shift)                  f: attention, then MLP

with shift, factor and gate linear in the sum of the two embeddings, all 0 at the start.

Shapes: b samples, n tokens (65), c channels of the context, d width.
"""

import torch
from torch import Tensor, nn

from ldm.config.schema import Count, Natural
from ldm.layers.embeddings import position_embedding, timestep_embedding
from ldm.layers.init import zeroed

TIME_WIDTH = 256


def modulation(width: int, count: int) -> nn.Sequential:
    """(b, width) -> (b, count * width), 0 at the start."""
    return nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, count * width)))


def modulated_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor, factor: Tensor) -> Tensor:
    """LayerNorm(x) * (1 + factor) + shift; x (b, n, d), shift and factor (b, 1, d)."""
    return norm(x) * (1 + factor) + shift


def plain_norm(width: int) -> nn.LayerNorm:
    """LayerNorm without weights of its own."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class TimeEmbedder(nn.Module):
    """t (b,) -> (b, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(timestep_embedding(t, TIME_WIDTH).to(next(self.parameters()).dtype))


class ScaleEmbedder(nn.Module):
    """scale (b,) -> (b, width)."""

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(scales, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, scale: Tensor) -> Tensor:
        return self.embedding_table(scale)


class DiTBlock(nn.Module):
    """Attention and MLP, each gated and modulated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        from timm.layers import Attention, GELUTanh, Mlp  # imported here because it takes two seconds

        super().__init__()
        self.norm1 = plain_norm(width)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.norm2 = plain_norm(width)
        self.mlp = Mlp(width, hidden_features=4 * width, act_layer=GELUTanh)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (b, n, d), condition (b, d) -> (b, n, d)."""
        shift_1, factor_1, gate_1, shift_2, factor_2, gate_2 = self.adaLN_modulation(condition)[:, None].chunk(
            6, dim=-1
        )
        x = x + gate_1 * self.attn(modulated_norm(x, self.norm1, shift_1, factor_1))
        return x + gate_2 * self.mlp(modulated_norm(x, self.norm2, shift_2, factor_2))


class FinalLayer(nn.Module):
    """Modulated LayerNorm, then one linear layer to twice the context's channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm_final = plain_norm(width)
        self.linear = zeroed(nn.Linear(width, channels))
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, factor = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)  # (b, 1, d)
        return self.linear(modulated_norm(x, self.norm_final, shift, factor))


class DiT(nn.Module):
    """The conditioning model; by default the published DiT-B (130,746,880 values with fixed position embeddings)."""

    pos_embed: Tensor

    def __init__(
        self,
        *,
        context_dim: Count = 512,
        width: Count = 768,
        layers: Count = 12,
        heads: Count = 12,
        tokens: Count = 65,
        scales: Count = 8,
        labels: Natural = 0,
    ) -> None:
        """`labels`: number of slide labels that it is conditioned on, besides none."""
        super().__init__()
        self.register_buffer("pos_embed", position_embedding(tokens, width))
        self.x_embedder = nn.Linear(context_dim, width)
        self.t_embedder = TimeEmbedder(width)
        self.y_embedder = ScaleEmbedder(scales, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(layers))
        self.final_layer = FinalLayer(width, 2 * context_dim)
        self.label_embedder = ScaleEmbedder(labels + 1, width) if labels else None
        """the last row is that of no label"""

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all of x passes on its way to the clean context: `ldm.networks.trained`."""
        context_dim = self.x_embedder.in_features
        return {
            "x_embedder": [self.x_embedder.weight],
            "final_layer.linear": [self.final_layer.linear.weight[:context_dim]],
        }

    @property
    def labels(self) -> int:
        """Number of slide labels; also the index of no label."""
        return 0 if self.label_embedder is None else self.label_embedder.embedding_table.num_embeddings - 1

    def forward(self, x: Tensor, t: Tensor, scale: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noisy context x (b, n, c), t, scale and label (b,) -> (clean context, variance logits), each (b, n, c).

        Without `label`, that of no label. Logits -1 and 1 mean the smallest and largest variance of a step; see
        `ldm.diffusion.vlb`.
        """
        h = self.x_embedder(x) + self.pos_embed  # (b, n, d)
        condition = self.t_embedder(t) + self.y_embedder(scale)  # (b, d)
        if self.label_embedder is not None:
            condition = condition + self.label_embedder(torch.full_like(scale, self.labels) if label is None else label)
        for block in self.blocks:
            h = block(h, condition)
        x_0, logits = self.final_layer(h, condition).chunk(2, dim=-1)
        return x_0, logits
