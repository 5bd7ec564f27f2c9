"""Histograms of a tile's colours: an encoder without weights that ignores shape and texture."""

import torch
from einops import rearrange, reduce
from torch import Tensor

COLOUR_BINS = 8


class ColourEncoder:
    """Histograms of red, green and blue over the tile, (n, 24)."""

    id, width = "colours", 3 * COLOUR_BINS
    preprocessing = "none"

    def __call__(self, tiles: Tensor) -> Tensor:
        bins = rearrange(tiles, "n h w c -> n c (h w)").cpu().int() * COLOUR_BINS // 256
        return torch.cat([reduce((bins == level).float(), "n c p -> n c", "mean") for level in range(COLOUR_BINS)], 1)
