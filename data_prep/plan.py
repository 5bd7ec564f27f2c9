"""Plan of a slide: what will be read and kept, decided from its thumbnail (data_prep/prepare_slide.py)."""

from typing import NamedTuple

import numpy as np

from data_prep.imported_coordinates import coordinate_shares
from data_prep.imported_embeddings import ImportedEmbeddings
from data_prep.preparation_config import PrepareConfig
from data_prep.slides.find import Task
from data_prep.slides.grid import (
    BLOCK_TILES,
    Grid,
    Mask,
    Shares,
    choose,
    needed_tiles,
    region_shares,
    touched,
    valid_shares,
)
from data_prep.slides.readers import Pixels
from data_prep.slides.slide import Plane, Slide, open_slide, read_with_recovery
from data_prep.slides.tissue import PER_TILE, read_foreground, tile_shares
from ldm.errors import UserError


class Plan(NamedTuple):
    """What will be read and kept of one slide."""

    slide: Slide
    plane: Plane
    grid: Grid
    tiles: Shares
    """(rows, cols) share of tissue of the base tiles"""
    shares: list[Shares]
    """the same for the regions of each scale"""
    valid: list[Shares]
    """share of each region that lies on the slide"""
    eligible: list[int]
    """eligible regions of each scale"""
    kept: list[Mask]
    needed: Mask
    """base tiles to read"""
    lost: Mask
    """base tiles that could not be read; extended while reading"""
    background: tuple[int, int, int]
    imported: ImportedEmbeddings | None
    thumbnail: Pixels
    """(8 rows, 8 cols, 3)"""
    mask: Mask | None
    """(8 rows, 8 cols) tissue of the thumbnail; None when tissue was imported"""


def plan_slide(task: Task, config: PrepareConfig, width: int) -> Plan:
    """Open a slide and plan from its thumbnail or from imported patches; embeddings are `width` wide.

    UserError when it cannot be read at the ladder's resolution.
    """
    zooms, tile_px = config.zooms, config.tile_px
    slide = open_slide(task.path, zooms.kind, config.mpp, task.mpp)
    plane, imported = Plane(slide, zooms.base_mpp), None
    if config.encoder.embeddings:
        imported = ImportedEmbeddings.of(plane, config.encoder.embeddings, tile_px, width)
        plane = imported.plane(slide, tile_px)
    grid = Grid.over(zooms, plane.width, plane.height, tile_px)
    found = read_foreground(Plane(slide, plane.mpp * tile_px / PER_TILE, plane.origin_l0), grid.rows, grid.cols)
    if imported is not None:
        tiles = imported.shares(grid.rows, grid.cols)
    elif config.coordinates:
        tiles = coordinate_shares(plane, config.coordinates, tile_px, grid.rows, grid.cols)
    else:
        tiles = tile_shares(found.mask)
    on_slide = valid_shares(grid, plane.extent, tile_px)
    shares, valid = region_shares(tiles, zooms), region_shares(on_slide, zooms)
    eligible = _eligible(shares, valid, touched(found.lost, len(zooms)), config)
    counts = [int((mask & (share > 0)).sum()) for mask, share in zip(eligible, shares, strict=True)]
    kept = choose(shares, eligible, config.regions_per_scale, (config.seed, task.slide_id))
    needed = needed_tiles(tiles if imported is None else np.zeros_like(tiles), kept)
    own = imported is None and not config.coordinates
    seen = (found.lost, found.background, imported, found.thumbnail, found.mask if own else None)
    plan = Plan(slide, plane, grid, tiles, shares, valid, counts, kept, needed, *seen)
    check_lost(plan, on_slide > 0, config)
    if not any(counts):
        raise no_region(plan, config)
    return plan


def no_region(plan: Plan, config: PrepareConfig) -> UserError:
    """UserError that says why no region of a slide is kept."""
    most = ", ".join(
        f"{float(share.max()):.2g} at {name} (expected {least:g})"
        for name, share, least in zip(config.zooms.names, plan.shares, config.tissue_shares, strict=True)
    )
    return UserError(
        f"{plan.slide.path}: no region of any scale can be kept; the largest shares of tissue are {most}; "
        "lower tissue_share, or take the slide out"
    )


def _eligible(shares: list[Shares], valid: list[Shares], lost: list[Mask], config: PrepareConfig) -> list[Mask]:
    """Regions of each scale with enough tissue, enough area on the slide, and no unreadable tile."""
    least_valid = config.valid_share if config.partial == "skip" else 0
    scales = zip(shares, config.tissue_shares, valid, lost, strict=True)
    return [(share >= least) & (on >= least_valid) & ~dropped for share, least, on, dropped in scales]


def read_block(plan: Plan, config: PrepareConfig, row: int, col: int) -> Pixels:
    """Base pixels (8 p, 8 p, 3) from tile (row, col) on; unreadable tiles become background, marked in `lost`."""
    step = config.tile_px
    window = (col * step, row * step, BLOCK_TILES * step, BLOCK_TILES * step)
    pixels, lost = read_with_recovery(plan.plane.read, window, step, np.array(plan.background, np.uint8))
    if lost.any():
        plan.lost[row : row + BLOCK_TILES, col : col + BLOCK_TILES] |= lost
        check_lost(plan, plan.needed, config)
    return pixels


def check_lost(plan: Plan, wanted: Mask, config: PrepareConfig) -> None:
    """UserError when too many of the `wanted` base tiles could not be read."""
    lost = plan.lost & wanted
    if lost.sum() > config.unreadable_share * wanted.sum():
        x_l0, y_l0 = lost_corners(plan, config.tile_px)[0]
        raise UserError(
            f"{plan.slide.path}: {lost.sum()} of {wanted.sum()} base tiles cannot be read, the first at level-0 "
            f"({x_l0}, {y_l0}), expected at most a share of {config.unreadable_share:g}; copy or convert the file again"
        )


def lost_corners(plan: Plan, tile_px: int) -> list[tuple[int, int]]:
    """(x, y) in level-0 pixels of the base tiles that could not be read."""
    return [plan.plane.corner_l0(col * tile_px, row * tile_px) for row, col in np.argwhere(plan.lost).tolist()]
