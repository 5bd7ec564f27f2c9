"""Conditions of windows anywhere on a canvas, from a map of embeddings.

The map holds an embedding for every base tile of the canvas, or the mean of every 2^k x 2^k of them. The condition of a
patch is a window of `Scale.grid` tokens a side of level `Scale.pyramid_level` of that map; between tiles, tokens are
interpolated by slerp along rows and columns, as in the published seam repair.

Shapes: n windows, d channels, R, C rows and columns of the map, g tokens a side of a window.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.data.tokens import normalize_tokens
from ldm.errors import UserError

PARALLEL = 0.9995
"""|cosine| above which slerp becomes lerp, as the angle is too small to divide by"""


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """From a (d, ...) at weight 0 to b (d, ...) at 1, along the arc between them; weight broadcasts over `...`."""
    cosine = F.cosine_similarity(a, b, dim=0)
    angle = cosine.clamp(-PARALLEL, PARALLEL).acos()
    arc = (torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b) / torch.sin(angle)
    return torch.where(cosine.abs() > PARALLEL, (1 - weight) * a + weight * b, arc)


def window_embeddings(tokens: Tensor, rows: Tensor, cols: Tensor, grid: int) -> Tensor:
    """Conditions (n, d, g, g), tokens normalised, of windows `grid` = g tokens a side on the map `tokens` (d, R, C).

    `rows` and `cols` (n,) are the windows' first rows and columns in tokens: a window of `side` latents that begins at
    latent `row` begins at token row / side * g. At integers, tokens are those of the map; between them, interpolations
    of four neighbours, with the map's border repeated. UserError when a window begins outside the map.
    """
    height, width = tokens.shape[1:]
    if min(rows.min(), cols.min()) < 0 or rows.max() > height - 1 or cols.max() > width - 1:
        raise UserError(
            f"conditions: windows begin in rows {rows.min():g} to {rows.max():g}, columns {cols.min():g} to "
            f"{cols.max():g} of a map of {height}x{width} tokens; give a map that covers the canvas"
        )
    steps = torch.arange(grid, device=tokens.device)
    row = (rows.to(tokens.device, torch.float64)[:, None] + steps)[:, :, None]  # (n, g, 1)
    col = (cols.to(tokens.device, torch.float64)[:, None] + steps)[:, None, :]  # (n, 1, g)
    above, left = row.floor().long(), col.floor().long()

    def between(down: int) -> Tensor:
        """(d, n, g, g): tokens of the rows `above` + `down`, interpolated along the columns."""
        at_row = (above + down).clamp(max=height - 1)
        a, b = (tokens[:, at_row, (left + right).clamp(max=width - 1)] for right in (0, 1))
        return slerp(a, b, (col - left).to(tokens.dtype))

    mixed = slerp(between(0), between(1), (row - above).to(tokens.dtype))
    return normalize_tokens(rearrange(mixed, "d n gh gw -> n d gh gw"))


def pool(tokens: Tensor) -> Tensor:
    """The next level of a map: 2x2 means (d, R / 2, C / 2) of `tokens` (d, R, C); odd last rows are dropped."""
    return F.avg_pool2d(tokens, 2)


def unpool(tokens: Tensor) -> Tensor:
    """An estimate of the level before, (d, 2R, 2C) from (d, R, C): bilinear interpolation between the centres."""
    return F.interpolate(tokens[None], scale_factor=2, mode="bilinear")[0]
