"""Windows on a canvas: positions, cutting and blending.

A canvas is the latent z (c, H, W) of a whole image; a window is a side x side piece of it, its place the (row, col) of
its first latent. Sums over windows are divided by the sums of their weights: a partition of unity.

Shapes: n windows, c channels, H, W latents of the canvas.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ldm.diffusion.samplers import seeded_noise
from ldm.errors import UserError


def starts(length: int, side: int, stride: int | None = None, offset: int = 0) -> list[int]:
    """Where windows `side` wide, every `stride` (by default side by side), begin so that they cover 0 to `length`.

    `offset` shifts all of them; the outermost are shifted inwards to stay on the canvas. UserError when `length` is
    below `side`.
    """
    last = length - side
    places = _unbounded(length, side, side if stride is None else stride, offset)
    return sorted({min(max(place, 0), last) for place in places})


def number_of_starts(length: int, side: int, stride: int, offset: int = 0) -> int:
    """The number of `starts`, which are not listed: a canvas may be too large for that."""
    return len(_unbounded(length, side, stride, offset)) if length > side else 1


def _unbounded(length: int, side: int, stride: int, offset: int) -> range:
    """The windows' beginnings, of which one may be below 0 and one beyond `length` - `side`."""
    last = length - side
    if last < 0:
        raise UserError(f"canvas: {length} latents; expected at least one window of {side}")
    first = offset % stride
    first -= stride if first else 0
    return range(first, last + stride, stride)


def cover(height: int, width: int, side: int, stride: int | None = None, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Places (n, 2) of windows that cover a canvas, row by row; arguments as for `starts`."""
    rows, cols = starts(height, side, stride, offset[0]), starts(width, side, stride, offset[1])
    return torch.cartesian_prod(torch.tensor(rows), torch.tensor(cols))  # (n, 2)


def cut(canvas: Tensor, places: Tensor, side: int) -> Tensor:
    """Windows (n, c, side, side) of canvas (c, H, W)."""
    return torch.stack([canvas[:, row : row + side, col : col + side] for row, col in places.tolist()])


def gaussian(side: int, sigma: float = 0.8) -> Tensor:
    """(side, side) weight exp(-(x^2 + y^2) / sigma^2) over [-1, 1]^2, at most 1."""
    axis = torch.linspace(-1, 1, side)
    weight = torch.exp(-(axis[:, None] ** 2 + axis**2) / sigma**2)
    return weight / weight.max()


def ramp(side: int, fade: int) -> Tensor:
    """(side, side) weight 1 that falls linearly over `fade` latents towards every border; all 1 for 0."""
    distance = torch.minimum(torch.arange(side), torch.arange(side).flip(0)) + 0.5
    axis = (distance / fade).clamp(max=1) if fade else torch.ones(side)
    return axis[:, None] * axis


class Blend:
    """Weighted means of overlapping windows."""

    def __init__(self, shape: Sequence[int], weight: Tensor) -> None:
        """`shape` (c, H, W) of the canvas; `weight` (side, side) of every window, above 0."""
        self.weight = weight
        self.total = torch.zeros(tuple(shape), dtype=weight.dtype, device=weight.device)
        self.weights = self.total.new_zeros(self.total.shape[1:])

    def add(self, windows: Tensor, places: Tensor) -> None:
        """Add windows (n, c, side, side) at places (n, 2)."""
        side = len(self.weight)
        for window, (row, col) in zip(windows, places.tolist(), strict=True):
            here = (slice(row, row + side), slice(col, col + side))
            self.total[:, *here] += window * self.weight
            self.weights[here] += self.weight

    def mean(self) -> Tensor:
        """(c, H, W); NaN for latents that no window covers."""
        return self.total / self.weights


def canvas_noise(height: int, width: int, side: int, seed: int, *key: int) -> Tensor:
    """(3, height, width) standard normal: block (i, j) of side x side comes from (seed, *key, i, j) alone.

    So the noise of a tile depends neither on the canvas' size nor on how the tiles are batched.
    """
    rows, cols = -(-height // side), -(-width // side)
    blocks = torch.stack(
        [seeded_noise((3, side, side), seed, *key, i, j) for i in range(rows) for j in range(cols)]
    )  # (rows cols, 3, side, side)
    return rearrange(blocks, "(i j) c h w -> c (i h) (j w)", i=rows)[:, :height, :width]
