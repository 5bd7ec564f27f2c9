"""Conditions of the windows of a canvas: a map of embeddings, or none.

    conditions = TokenMap(model, SlideFile("slide.h5").tokens(0, row, col, rows, cols))     a place on a slide
    conditions = TokenMap(model, drawn_tokens(model, "5x", rows, cols, seed=0))             sampled by the CDM
    conditions = Unconditional(model)

Shapes: n windows, d channels, R, C rows and columns of base tiles, w context width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.data.h5 import SlideFile
from ldm.data.tokens import TOKENS
from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels
from ldm.multiscale.inversion import Inversion
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.token_windows import pool, unpool, window_embeddings
from ldm.support.arguments import whole_numbers


class Conditions(Protocol):
    """Contexts of windows, and the guidance to use with them."""

    def context(self, scale: str, places: Tensor) -> Tensor:
        """(n, 65, w) for windows of `scale` whose first latents are at places (n, 2) of its canvas."""

    def guidance(self, asked: float) -> float:
        """The guidance `asked` for, or 0 without conditions."""


@dataclass(frozen=True)
class Unconditional:
    """The null context everywhere."""

    model: MultiscaleModel

    def context(self, scale: str, places: Tensor) -> Tensor:
        width = self.model.context_width
        return torch.zeros(len(places), TOKENS, width, device=self.model.device)

    def guidance(self, asked: float) -> float:
        return 0.0


@dataclass(frozen=True)
class TokenMap:
    """Embeddings `tokens` (d, R, C) of the base tiles under a canvas; the last row and column repeat beyond it."""

    model: MultiscaleModel
    tokens: Tensor
    _levels: list[Tensor] = field(default_factory=list, init=False)

    def context(self, scale: str, places: Tensor) -> Tensor:
        zoom = self.model.ladder[scale]
        side = self.model.tile_px // self.model.downsample
        rows, cols = (places.T / side * zoom.grid).double()
        level = self._level(zoom.pyramid_level)
        beyond = [int(begin.max()) + zoom.grid + 1 for begin in (rows, cols)]
        missing = [max(0, end - size) for end, size in zip(beyond, level.shape[1:], strict=True)]
        level = F.pad(level[None], (0, missing[1], 0, missing[0]), mode="replicate")[0]
        return self.model.context(window_embeddings(level, rows, cols, zoom.grid), scale)

    def guidance(self, asked: float) -> float:
        return asked

    def _level(self, index: int) -> Tensor:
        while len(self._levels) <= index:
            self._levels.append(pool_all(self._levels[-1]) if self._levels else self.tokens.to(self.model.device))
        return self._levels[index]


def pool_all(tokens: Tensor) -> Tensor:
    """2x2 means of a map (d, R, C); an odd last row or column is repeated."""
    odd = (0, tokens.shape[2] % 2, 0, tokens.shape[1] % 2)
    return pool(F.pad(tokens[None], odd, mode="replicate")[0])


def drawn_tokens(
    model: MultiscaleModel,
    scale: str,
    rows: int,
    cols: int,
    *,
    seed: int = 0,
    steps: int = 200,
    label: str | None = None,
    progress: bool = False,
) -> Tensor:
    """Sample a map (d, rows, cols): the CDM samples a context for every patch of `scale`.

    Each context is inverted to the grid of embeddings whose summary it is (`ldm.multiscale.inversion`); a token that
    represents several base tiles is interpolated over them. Patch i, counted row by row, depends on seed + i alone:
    more rows extend the same map, another width gives another one. UserError without a CDM.
    """
    zoom = model.ladder[scale]
    down, across = -(-rows // zoom.downsample), -(-cols // zoom.downsample)
    context = model.sample_context(scale, down * across, seed=seed, label=label)
    grids = Inversion(model, scale, seed, progress=progress).from_context(context, steps)  # (n, d, g, g)
    return laid_out(grids, down, zoom.pyramid_level)[:, :rows, :cols]


def laid_out(grids: Tensor, rows: int, level: int) -> Tensor:
    """The map (d, R, C) of base tiles under patches in `rows` rows, from their grids (n, d, g, g).

    A token of pyramid level `level` represents 2^level x 2^level base tiles and is interpolated over them.
    """
    tokens = rearrange(grids, "(i j) d h w -> d (i h) (j w)", i=rows)
    for _ in range(level):
        tokens = unpool(tokens)
    return tokens


def image_tokens(image: Pixels, embed: Callable[[Tensor], Tensor], tile_px: int) -> Tensor:
    """Embeddings (d, R, C) of the base tiles of an image (h, w, 3) at the base scale; its edges are repeated to
    complete tiles.

    `embed`: uint8 tiles (n, tile_px, tile_px, 3) -> (n, d).
    """
    missing = [(0, -length % tile_px) for length in image.shape[:2]]
    image = np.pad(image, [*missing, (0, 0)], mode="edge")
    tiles = rearrange(image, "(r h) (c w) d -> (r c) h w d", h=tile_px, w=tile_px)
    return rearrange(embed(torch.from_numpy(tiles)), "(r c) d -> d r c", r=image.shape[0] // tile_px)


def place_of(text: str) -> tuple[int, int]:
    """Parse the base tile "ROW,COL". UserError for anything else."""
    numbers = whole_numbers(text, ",")
    if numbers is None or len(numbers) != 2:
        raise UserError(f"--place: {text[:80]}; expected the row and column of a base tile, for example 12,16")
    return numbers[0], numbers[1]


def tokens_at(slide: SlideFile, place: tuple[int, int], rows: int, cols: int) -> Tensor:
    """Embeddings (d, at most rows, at most cols) from base tile `place` to the end of the slide.

    UserError when the place is outside the slide.
    """
    if any(at >= size for at, size in zip(place, slide.grid, strict=True)):
        height, width = slide.grid
        raise UserError(
            f"--place: {place[0]},{place[1]} lies outside {slide.path}; expected a row below {height} and a column "
            f"below {width}"
        )
    inside = [min(length, size - at) for length, size, at in zip((rows, cols), slide.grid, place, strict=True)]
    return slide.tokens(0, *place, *inside)


def richest_place(slide: SlideFile, scale: str, rows: int, cols: int) -> tuple[int, int]:
    """The (row, col) of the first base tile of `rows` x `cols` tiles around the region of `scale` with most tissue.

    Of several with as much, as on a scene without gaps, it is the one nearest to the middle.
    """
    if scale not in slide.ladder.names or not slide.count(scale):
        return 0, 0
    down = slide.ladder[scale].downsample
    tissue = slide.tissue(scale)
    regions = slide.ij(scale)[tissue == tissue.max()]
    off_middle = np.square(regions + 0.5 - np.array(slide.grid) / down / 2).sum(1)
    i, j = regions[off_middle.argmin()].tolist()
    place = [
        min(max(0, at * down + down // 2 - length // 2), max(0, size - length))
        for at, length, size in zip((i, j), (rows, cols), slide.grid, strict=True)
    ]
    return place[0], place[1]
