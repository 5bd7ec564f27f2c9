"""Conditions at any place of an endless plane: a map of embeddings whose cells are contexts drawn from the CDM.

A cell is a patch of the coarsest scale; its context is drawn from the noise of (seed, row, column) and turned into a
grid of embeddings (`ldm.multiscale.inversion`). The grids side by side are a map over the integers. It is read at
places that are displaced by a smooth random field of a few tokens, so that two cells do not meet in a straight line.
Windows of every scale read their conditions from it as from the map of a slide (`ldm.multiscale.token_windows`).

Correlated noise is no way to make neighbouring cells alike: the tokens of a context are places in its patch, so
neighbours got the same arrangement, which repeated.

Shapes: d channels of an embedding, g tokens of a cell, w width of a context, n windows.
"""

from collections.abc import Sequence
from math import ceil, floor

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.data.tokens import TOKENS, normalize_tokens
from ldm.diffusion.samplers import seeded_noise
from ldm.endless.lattice import Area, key_of
from ldm.endless.memo import Key, Memo
from ldm.multiscale.inversion import FOR_GRID, SPREAD
from ldm.multiscale.inversion_loss import ContextLoss, Loss
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.token_windows import pool, unpool, window_embeddings

FOR_CELL, FOR_SHIFT = 8, 9
"""purposes of a cell's noise: the second key of its generator"""
FARTHEST_SHIFT = 5 / 16
"""largest displacement of a token, in sides of a cell"""
DRAW_STEPS, INVERT_STEPS = 12, 20
"""steps of the CDM, and of L-BFGS for the grid: 20 of these come nearer to a context than 60 of Adam, in 0.4 of the
time"""


LOSS_SCALE = 1000
"""factor of the loss, which L-BFGS compares with absolute tolerances"""


class DrawnMap:
    """The conditions of every window of a world."""

    def __init__(self, model: MultiscaleModel, coarsest: str, seed: int, memo: Memo) -> None:
        """`coarsest`: the scale whose patches are cells."""
        self.model, self.seed, self._memo = model, seed, memo
        self.cell = model.ladder[coarsest]

    def context(self, scale: str, places: Sequence[Area]) -> Tensor:
        """(n, 65, w) for windows of `scale` at `places`, in its latents."""
        return self.model.context(torch.stack([self._grid(scale, place) for place in places]), scale)

    def _grid(self, scale: str, place: Area) -> Tensor:
        """The condition (d, g, g) of one window, tokens normalised."""
        zoom = self.model.ladder[scale]
        side = self.model.tile_px // self.model.downsample
        row, col = (at / side * zoom.grid for at in place[:2])
        needed = Area(floor(row), floor(col), ceil(row) + zoom.grid, ceil(col) + zoom.grid)
        tokens = self.tokens(zoom.pyramid_level, needed)
        begin = torch.tensor([[row - needed.top], [col - needed.left]], dtype=torch.float64)
        return window_embeddings(tokens, begin[0], begin[1], zoom.grid)[0]

    def tokens(self, level: int, area: Area) -> Tensor:
        """The map (d, R, C) at a level of the embedding pyramid: at the cells' own level the grids, below it
        interpolated, above it their means."""
        own = self.cell.pyramid_level
        if level > own:
            return pool(self.tokens(level - 1, area.times(2)))
        if level == own:
            return self._displaced(area)
        coarse = area.over(2).grown(1)
        return unpool(self.tokens(level + 1, coarse))[:, *area.within(coarse.times(2))]

    def _displaced(self, area: Area) -> Tensor:
        """The cells' own level, each token read where the field of displacements points to."""
        down, across = self._shift(area)
        rows = (torch.arange(area.top, area.bottom)[:, None] + down).flatten()  # (R C)
        cols = (torch.arange(area.left, area.right) + across).flatten()
        (top, left), (bottom, right) = ([floor(f()) for f in fs] for fs in ((rows.min, cols.min), (rows.max, cols.max)))
        read = window_embeddings(self._laid_out(Area(top, left, bottom + 2, right + 2)), rows - top, cols - left, 1)
        return rearrange(read, "(r c) d 1 1 -> d r c", r=area.height)

    def _shift(self, area: Area) -> Tensor:
        """The displacements (2, R, C) in tokens: random at every half of a cell, interpolated between."""
        spacing = max(1, self.cell.grid // 2)
        nodes = area.over(spacing).grown(1)
        drawn = [
            [self._noise((2,), FOR_SHIFT, i, j) for j in range(nodes.left, nodes.right)]
            for i in range(nodes.top, nodes.bottom)
        ]
        field = FARTHEST_SHIFT * self.cell.grid * torch.stack([torch.stack(row) for row in drawn]).double().tanh()
        fine = F.interpolate(rearrange(field, "r c v -> 1 v r c"), scale_factor=spacing, mode="bilinear")[0]
        return fine[:, *area.within(nodes.times(spacing))]

    def _laid_out(self, area: Area) -> Tensor:
        """The cells' grids side by side."""
        cells = area.over(self.cell.grid)
        numbers = [(i, j) for i in range(cells.top, cells.bottom) for j in range(cells.left, cells.right)]
        grids = self._memo.all([Key("cell", self.cell.name, 0, i, j) for i, j in numbers], self._drawn)
        whole = rearrange(grids, "(i j) d h w -> d (i h) (j w)", i=cells.height)
        return whole[:, *area.within(cells.times(self.cell.grid))]

    def _drawn(self, key: Key) -> Tensor:
        """The grid (d, g, g) of a cell, tokens normalised."""
        model, scale, side = self.model, self.cell.name, self.cell.grid
        noise = self._noise((TOKENS, model.context_width), FOR_CELL, key.row, key.col)[None].to(model.device)
        context = model.context_from(scale, noise, DRAW_STEPS)
        start = SPREAD * self._noise((model.embedding_width, side, side), FOR_GRID, key.row, key.col)[None].to(
            model.device
        )
        return nearest_grid(ContextLoss(lambda grids: model.context(grids, scale), context), start, INVERT_STEPS)[0]

    def _noise(self, shape: Sequence[int], purpose: int, row: int, col: int) -> Tensor:
        """Standard normal noise of a cell."""
        return seeded_noise(shape, self.seed, purpose, self.cell.index, key_of(row), key_of(col))


@torch.enable_grad()
def nearest_grid(loss: Loss, start: Tensor, steps: int) -> Tensor:
    """The grid (1, d, g, g), tokens normalised, after `steps` of L-BFGS from `start` (1, d, g, g). No weight gets a
    gradient. More than one grid would share the length of a step."""
    u = start.detach().clone().requires_grad_()
    solver = torch.optim.LBFGS([u], max_iter=steps, max_eval=2 * steps, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        value = LOSS_SCALE * loss(u, 0).sum()
        (u.grad,) = torch.autograd.grad(value, u)
        return value

    solver.step(evaluate)
    return normalize_tokens(u.detach())
