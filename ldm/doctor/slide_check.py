"""Check every value of a prepared slide, and the consistency of values with each other.

Opening a slide checks its layout (ldm/data/contract.py). This reads all of it: shares, places, the pyramid of means,
images, and whether the networks' outputs differ between tiles.

Shapes: n regions of a scale; d channels of an embedding; h, w tiles.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ldm.data.contract import LARGEST
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.rasters import check_crs
from ldm.scales import Scale

AGAIN = "prepare this slide again"
SHARES = ("tissue", "valid")
SHARE_ERROR = 1e-3
"""tolerance of shares beyond 0 to 1, computed in float32"""
MEAN_ERROR = 2.0**-9
"""relative tolerance of the mean of float16 values, itself rounded to float16"""


def examine(slide: SlideFile) -> None:
    """Read every dataset. UserError for damage and for the first inconsistent value."""
    check_crs(slide.attrs.get("crs", ""), str(slide.path))
    shapes = slide.datasets()
    for name in shapes:
        _values(slide, name)
    if not any(slide.count(scale.name) for scale in slide.ladder):
        raise UserError(f"{slide.path}: holds no region of any scale; lower tissue_share, or take the slide out")
    for scale in slide.ladder:
        _places(slide, scale)
        if slide.count(scale.name) and slide.has_images(scale.name):
            slide.check_images(scale.name)
    _embeddings(slide)
    for level in range(1, sum(name.startswith("embeddings/") for name in shapes)):
        _means(slide, level)


def _values(slide: SlideFile, name: str) -> None:
    """Check that values are finite and in range, and that latents differ."""
    table = name.rpartition("/")[2]
    largest = LARGEST.get("embeddings" if name.startswith("embeddings/") else table)
    rows, first, same = 0, None, True
    for block in slide.blocks(name):
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            raise UserError(f"{slide.path}: {name} has values that are not finite; {AGAIN}")
        if table in SHARES and len(block) and not -SHARE_ERROR <= block.min() <= block.max() <= 1 + SHARE_ERROR:
            found = f"{block.min():g} to {block.max():g}"
            raise UserError(f"{slide.path}: {name} is {found}, expected shares from 0 to 1; {AGAIN}")
        if largest is not None and block.size and (most := float(np.abs(block).max())) > largest:
            raise UserError(f"{slide.path}: {name} has values up to {most:g}, expected at most {largest:g}; {AGAIN}")
        if table == "latents" and len(block):
            first = block[0] if first is None else first
            rows, same = rows + len(block), same and bool((block == first).all())
    if rows > 1 and same:
        raise UserError(
            f"{slide.path}: {name} are the same for all {rows} regions: the autoencoder ignored its input; {AGAIN}"
        )


def _places(slide: SlideFile, scale: Scale) -> None:
    """Check that each region is listed once, has embeddings and lies on the slide."""
    ij, where = slide.ij(scale.name).astype(np.int64), f"{slide.path}: regions of {scale.name}"
    if not len(ij):
        return
    rows, cols = slide.grid
    if ij.min() < 0 or ((ij.max(0) + 1) * scale.downsample > (rows, cols)).any():
        raise UserError(f"{where} lie beyond its tiles; {AGAIN}")
    places, counts = np.unique(ij, axis=0, return_counts=True)
    if (twice := counts > 1).any():
        place = tuple(places[twice][0].tolist())
        raise UserError(
            f"{where} are listed more than once: {int(twice.sum())} places, {place} first, expected each once; {AGAIN}"
        )
    attrs = slide.attrs
    side_l0 = attrs["tile_px"] * scale.downsample * slide.base_l0
    for axis, (size, origin) in enumerate((("height_l0", "origin_y_l0"), ("width_l0", "origin_x_l0"))):
        begins = float(ij[:, axis].max()) * side_l0 + attrs.get(origin, 0)
        if size in attrs and begins >= attrs[size]:
            raise UserError(
                f"{where} lie outside the slide: one begins at pixel {begins:.0f}, but {size} is {attrs[size]}; {AGAIN}"
            )


def _embeddings(slide: SlideFile) -> None:
    """Check that embeddings differ between tiles and between the channels of a tile."""
    rows, cols = slide.grid
    under = _under_regions(slide, rows, cols)
    first, same, constant, count = None, True, 0, 0
    for row in np.flatnonzero(under.any(1)).tolist():
        tokens = slide.tokens(0, row, 0, 1, cols)[:, 0, under[row]]  # (d, n)
        first = tokens[:, :1] if first is None else first
        same = same and bool((tokens == first).all())
        constant += int((tokens == tokens[:1]).all(0).sum())
        count += tokens.shape[1]
    if slide.channels > 1 and constant == count:
        raise UserError(f"{slide.path}: embeddings/0 is constant over the channels of every tile; {AGAIN}")
    if count > 1 and same:
        raise UserError(
            f"{slide.path}: embeddings/0 is the same for all {count} tiles: the encoder ignored its input; {AGAIN}"
        )


def _under_regions(slide: SlideFile, rows: int, cols: int) -> NDArray[np.bool_]:
    """(rows, cols) base tiles that a region of some scale covers."""
    under = np.zeros((rows, cols), bool)
    for scale in slide.ladder:
        side = scale.downsample
        for i, j in (slide.ij(scale.name) * side).tolist():
            under[i : i + side, j : j + side] = True
    return under


def _means(slide: SlideFile, level: int) -> None:
    """Check that `level` of the pyramid holds the 2x2 means of the level before it."""
    name = f"embeddings/{level}"
    _, rows, cols = slide.channels, *(side >> level for side in slide.grid)
    for row in range(rows):
        finer = slide.tokens(level - 1, 2 * row, 0, 2, 2 * cols)  # (d, 2, 2 w)
        error = (F.avg_pool2d(finer, 2) - slide.tokens(level, row, 0, 1, cols)).abs().amax()
        if error > MEAN_ERROR * torch.clamp(finer.abs().amax(), min=2.0**-10):
            raise UserError(f"{slide.path}: {name} is not the 2x2 means of embeddings/{level - 1}; {AGAIN}")
