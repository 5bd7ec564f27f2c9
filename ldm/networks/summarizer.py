"""Summarizer: a grid of embeddings of any size and the scale -> the context of the U-Net, (b, 65, width).

A transformer over 65 tokens: the scale embedding, then the grid's tokens, row by row, in the middle of 64 places padded
with a learned token (paper, sections 3.1 and 8.1). n tokens occupy places [32 - n // 2, 32 - n // 2 + n).
CNNSummarizer is the paper's convolutional variant.

Shapes: b samples, d channels of an embedding, gh gw a grid's rows and columns, each 1 to 8, n = gh gw.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm.config.schema import Count
from ldm.errors import UserError

SIDE = 8
PLACES = SIDE * SIDE

Grids = Sequence[Tensor] | Tensor
"""b grids (d, gh, gw), each of its own size, or one tensor (b, d, gh, gw)"""


def tokens_at(places: Callable[[int, int], Tensor], grids: Grids, projection: nn.Linear, pad: Tensor) -> Tensor:
    """(b, 64, width): tokens of each grid, projected, at its `places`; `pad` (width,) where there is none.

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
    tokens = torch.cat([rearrange(grid, "d gh gw -> (gh gw) d") for grid in grids])
    projected = projection(tokens.to(projection.weight.dtype))  # (n of all grids, width)
    with torch.device("cpu"):  # also where another device is the default: the places of a grid are kept for later calls
        index = torch.stack([places(*grid.shape[1:]) for grid in grids])
        before = torch.tensor([0, *(grid.shape[1] * grid.shape[2] for grid in grids)]).cumsum(0)[:-1]
        index = torch.where(index == NO_TOKEN, len(projected), index + before[:, None])
    return torch.cat([projected, pad.to(projected.dtype)[None]])[index.to(projected.device)]


NO_TOKEN = -1


@lru_cache
def stretched(rows: int, columns: int) -> Tensor:
    """(64,) number of the grid's token at each place, each repeated over its share of the 8x8 places."""
    row, column = (torch.arange(SIDE) * side // SIDE for side in (rows, columns))
    return (row[:, None] * columns + column).flatten()


@lru_cache
def in_a_row(rows: int, columns: int) -> Tensor:
    """(64,) number of the grid's token at each place, one after the other in the middle of the places, as published."""
    count = rows * columns
    places = torch.full((PLACES,), NO_TOKEN)
    first = PLACES // 2 - count // 2
    places[first : first + count] = torch.arange(count)
    return places


@lru_cache
def centred(rows: int, columns: int) -> Tensor:
    """(64,) number of the grid's token at each place, the grid in the middle of 8x8 places."""
    places = torch.full((SIDE, SIDE), NO_TOKEN)
    top, left = SIDE // 2 - rows // 2, SIDE // 2 - columns // 2
    places[top : top + rows, left : left + columns] = torch.arange(rows * columns).reshape(rows, columns)
    return places.flatten()


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
        """`grids` and scale (b,) -> context (b, 65, width). Raises UserError as `tokens_at` does."""
        tokens = torch.cat([self.mag_embedding(scale)[:, None], self.tokens(grids)], dim=1)  # (b, 65, width)
        return self.layer_norm(self.final_proj(self.encoder(tokens)))

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all tokens pass: `ldm.networks.trained`."""
        layers = {"dim_reduce": self.dim_reduce, "final_proj": self.final_proj, "layer_norm": self.layer_norm}
        return {name: [layer.get_parameter("weight")] for name, layer in layers.items()}

    def tokens(self, grids: Grids) -> Tensor:
        """(b, 64, width): each grid's projected tokens in the middle, padded with the pad token; or stretched."""
        if self.pad_token is None:
            return tokens_at(stretched, grids, self.dim_reduce, self.dim_reduce.bias)  # no place without a token
        return tokens_at(in_a_row, grids, self.dim_reduce, self.pad_token[0, 0])


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
        """`grids` and scale (b,) -> context (b, 65, width). Raises UserError as `tokens_at` does."""
        mag = self.mag_embedding(scale)  # (b, width)
        tokens = tokens_at(centred, grids, self.dim_reduce, mag.new_zeros(mag.shape[1]))
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=SIDE)
        h = self.convolutions(maps + mag[:, :, None, None])  # (b, width, 8, 8)
        tokens = torch.cat([mag[:, None], rearrange(h, "b c h w -> b (h w) c")], dim=1)  # (b, 65, width)
        return self.layer_norm(tokens)
