"""Summarizer: a grid of embeddings of any size and the scale -> the context of the U-Net, (b, 65, width).

A transformer over 65 tokens: the scale embedding, then the grid's tokens, row by row, in the middle of 64 places padded
with a learned token (paper, sections 3.1 and 8.1). n tokens occupy places [32 - n // 2, 32 - n // 2 + n).
CNNSummarizer is the paper's convolutional variant.

Shapes: b samples, d channels of an embedding, gh gw a grid's rows and columns, each 1 to 8, n = gh gw.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.config.schema import Count
from ldm.errors import UserError

SIDE = 8
PLACES = SIDE * SIDE

Grids = Sequence[Tensor] | Tensor
"""b grids (d, gh, gw), each of its own size, or one tensor (b, d, gh, gw)"""


def project(grids: Grids, projection: nn.Linear) -> list[Tensor]:
    """Apply `projection` to the tokens of all grids in one product: b tensors (n, width).

    Raises UserError for a grid with another number of channels, or with more than 8 rows or columns.
    """
    for grid in grids:
        channels, rows, columns = grid.shape
        if channels != projection.in_features:
            raise UserError(
                f"embedding: {channels} channels, the model takes {projection.in_features}; "
                "prepare the slides with the encoder that the model was trained on"
            )
        if max(rows, columns) > SIDE:
            raise UserError(f"embedding: grid of {rows}x{columns}, at most {SIDE}x{SIDE}; average it down first")
    tokens = [rearrange(grid, "d gh gw -> (gh gw) d") for grid in grids]
    projected = projection(torch.cat(tokens).to(projection.weight.dtype))  # (sum of n, width)
    return list(projected.split([len(each) for each in tokens]))


class Summarizer(nn.Module):
    """The transformer; the defaults are the published network (38,656,000 parameters)."""

    def __init__(
        self,
        *,
        embedding_dim: Count = 1024,
        scales: Count = 8,
        width: Count = 512,
        layers: Count = 12,
        heads: Count = 8,
        mlp: Count = 2048,
        stretch: bool = False,
    ) -> None:
        """`stretch`: repeat tokens until the grid fills all 8x8 places, so that a token's place corresponds to the same
        part of the patch at every scale (the published network pads instead).
        """
        from torchvision.models.vision_transformer import Encoder  # imported here because it takes seconds

        super().__init__()
        self.pad_token = None if stretch else nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.mag_embedding = nn.Embedding(scales, width)
        self.dim_reduce = nn.Linear(embedding_dim, width)
        self.encoder = Encoder(1 + PLACES, layers, heads, width, mlp, dropout=0.0, attention_dropout=0.0)
        self.final_proj = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, grids: Grids, scale: Tensor) -> Tensor:
        """`grids` and scale (b,) -> context (b, 65, width). Raises UserError as `project` does."""
        tokens = torch.cat([self.mag_embedding(scale)[:, None], self.tokens(grids)], dim=1)  # (b, 65, width)
        return self.layer_norm(self.final_proj(self.encoder(tokens)))

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all tokens pass: `ldm.networks.trained`."""
        layers = {"dim_reduce": self.dim_reduce, "final_proj": self.final_proj, "layer_norm": self.layer_norm}
        return {name: [layer.get_parameter("weight")] for name, layer in layers.items()}

    def tokens(self, grids: Grids) -> Tensor:
        """(b, 64, width): each grid's projected tokens in the middle, padded with the pad token; or stretched."""
        projected = project(grids, self.dim_reduce)
        if self.pad_token is None:
            return torch.stack(
                [_stretched(tokens, grid.shape[1]) for tokens, grid in zip(projected, grids, strict=True)]
            )
        return torch.cat([self._centred(tokens, self.pad_token) for tokens in projected])

    @staticmethod
    def _centred(tokens: Tensor, pad_token: Tensor) -> Tensor:
        before = PLACES // 2 - len(tokens) // 2
        after = PLACES - before - len(tokens)
        pad = pad_token.to(tokens.dtype)
        return torch.cat([pad.expand(1, before, -1), tokens[None], pad.expand(1, after, -1)], dim=1)  # (1, 64, width)


class CNNSummarizer(nn.Module):
    """Four 3x3 convolutions over the grid, centred on 8x8 with zeros around it, beside the scale's token."""

    def __init__(
        self, *, embedding_dim: Count = 1024, scales: Count = 8, width: Count = 512, layers: Count = 4
    ) -> None:
        super().__init__()
        self.mag_embedding = nn.Embedding(scales, width)
        self.dim_reduce = nn.Linear(embedding_dim, width)
        self.convolutions = nn.Sequential()
        for _ in range(layers):
            self.convolutions.extend([nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width), nn.GELU()])
        self.layer_norm = nn.LayerNorm(width)

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all tokens pass: `ldm.networks.trained`."""
        passed = ("dim_reduce", "convolutions", "layer_norm")
        weights = {name: weight for name, weight in self.named_parameters() if name.startswith(passed)}
        return {name.removesuffix(".weight"): [w] for name, w in weights.items() if name.endswith(".weight")}

    def forward(self, grids: Grids, scale: Tensor) -> Tensor:
        """`grids` and scale (b,) -> context (b, 65, width). Raises UserError as `project` does."""
        mag = self.mag_embedding(scale)  # (b, width)
        projected = project(grids, self.dim_reduce)
        maps = [_centred_map(tokens, grid.shape[1]) for tokens, grid in zip(projected, grids, strict=True)]
        h = self.convolutions(torch.stack(maps) + mag[:, :, None, None])  # (b, width, 8, 8)
        tokens = torch.cat([mag[:, None], rearrange(h, "b c h w -> b (h w) c")], dim=1)  # (b, 65, width)
        return self.layer_norm(tokens)


def _stretched(tokens: Tensor, rows: int) -> Tensor:
    """tokens (n, width) of a grid of `rows` -> (64, width), each repeated over its share of the 8x8 places."""
    grid = rearrange(tokens, "(gh gw) c -> gh gw c", gh=rows)
    row, column = (torch.arange(SIDE, device=tokens.device) * side // SIDE for side in grid.shape[:2])
    return rearrange(grid[row][:, column], "gh gw c -> (gh gw) c")


def _centred_map(tokens: Tensor, rows: int) -> Tensor:
    """tokens (n, width) of a grid of `rows` -> (width, 8, 8), the grid in the middle, zeros around it."""
    grid = rearrange(tokens, "(gh gw) c -> c gh gw", gh=rows)
    columns = grid.shape[2]
    top, left = SIDE // 2 - rows // 2, SIDE // 2 - columns // 2
    return F.pad(grid, (left, SIDE - left - columns, top, SIDE - top - rows))
