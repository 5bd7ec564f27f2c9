"""One slide -> one HDF5 file (ldm/data/h5.py): its tissue, regions, base-tile embeddings and latents, in one pass.

The pass goes field by field (see grid.py). A field's base tiles with tissue are embedded, blank ones share the
embedding of a tile of the slide's background; the field's part of the pyramid of means follows in float32 and is stored
in float16. The regions to keep, known from the thumbnail, go to the autoencoder in batches as the pass reaches them.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data_prep.config import PrepareConfig
from data_prep.encoders import TileEncoder, known_width, load_encoder
from data_prep.find import Task
from data_prep.grid import (
    BLOCK_TILES,
    Field,
    Grid,
    Mask,
    Shares,
    choose,
    halve,
    needed_tiles,
    region_shares,
    touched,
    valid_shares,
)
from data_prep.imported import (
    COORDINATES,
    EMBEDDINGS,
    ImportedEmbeddings,
    ImportedEncoder,
    coordinate_shares,
    file_of,
    imported_encoder,
)
from data_prep.pyramid import Patches, field_patches
from data_prep.readers import Pixels
from data_prep.slide import Plane, Slide, open_slide, salvage
from data_prep.tissue import PER_TILE, read_foreground, tile_shares
from ldm.data.h5 import SlideFile, SlideWriter
from ldm.errors import UserError
from ldm.pipeline import load_autoencoder
from ldm.scales import Scale

JPEG_QUALITY = 95
FINGERPRINT_BYTES = 2**20


@dataclass(frozen=True)
class Tools:
    """The networks of a run and their ids; without an autoencoder no latents are made."""

    encoder: TileEncoder | ImportedEncoder
    encode: Callable[[Tensor], Tensor] | None
    """images (n, 3, p, p) in [-1, 1] -> unquantised latents (n, 3, h, w)"""
    autoencoder_id: str


@cache
def load_tools(config: PrepareConfig) -> Tools:
    """Load once per process. UserError when weights are missing, so before any work."""
    asked = config.encoder
    if asked.embeddings:
        encoder: TileEncoder | ImportedEncoder = imported_encoder(asked.name, asked.embeddings, known_width(asked.name))
    else:
        encoder = load_encoder(asked.name, asked.weights, config.device)
    if config.autoencoder is None:
        return Tools(encoder, None, "")
    autoencoder, autoencoder_id = load_autoencoder(config.autoencoder)
    return Tools(encoder, autoencoder.eval().requires_grad_(False).to(config.device).encode, autoencoder_id)


def fingerprint(path: Path) -> list[str | int]:
    """Name, size, and a digest of both ends: of a slide of gigabytes, enough to see that it was replaced."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(FINGERPRINT_BYTES)
        file.seek(-min(FINGERPRINT_BYTES, size), io.SEEK_END)
        return [path.name, size, hashlib.sha256(start + file.read()).hexdigest()[:16]]


def settings(task: Task, config: PrepareConfig, tools: Tools) -> str:
    """Everything that a prepared file depends on, as text; a file with the same text need not be made again."""
    depends: dict[str, Any] = {
        "source": fingerprint(task.path),
        "ladder": [config.zooms.kind, config.zooms.names],
        "networks": [tools.encoder.id, tools.autoencoder_id],
        "regions": [config.tile_px, config.tissue_shares, config.regions_per_scale, config.seed],
        "partial": [config.partial, config.valid_share],
        "images": config.images,
        "mpp": [config.mpp, task.mpp],
    }
    if config.coordinates:
        depends["coordinates"] = fingerprint(file_of(task.path, config.coordinates, COORDINATES))
    if config.encoder.embeddings:
        depends["embeddings"] = fingerprint(file_of(task.path, config.encoder.embeddings, EMBEDDINGS))
    return json.dumps(depends)


def is_prepared(target: Path, wanted: str) -> bool:
    """Whether `target` is a whole file made with the settings `wanted`."""
    if not target.exists():
        return False
    try:
        return SlideFile(target).attrs.get("settings") == wanted
    except UserError:
        return False


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
    kept: list[Mask]
    needed: Mask
    """base tiles to read"""
    lost: Mask
    """base tiles that could not be read; the pass adds to them"""
    background: tuple[int, int, int]
    imported: ImportedEmbeddings | None


def plan_slide(task: Task, config: PrepareConfig, width: int) -> Plan:
    """Open a slide and decide from its thumbnail, or from what others found; embeddings are `width` wide.

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
    kept = choose(shares, eligible, config.regions_per_scale, (config.seed, task.slide_id))
    needed = needed_tiles(tiles if imported is None else np.zeros_like(tiles), kept)
    plan = Plan(slide, plane, grid, tiles, shares, valid, kept, needed, found.lost, found.background, imported)
    check_lost(plan, on_slide > 0, config)
    return plan


def _eligible(shares: list[Shares], valid: list[Shares], lost: list[Mask], config: PrepareConfig) -> list[Mask]:
    """Regions of each scale with the tissue and the part on the slide that the config asks for, and nothing lost."""
    least_valid = config.valid_share if config.partial == "skip" else 0
    scales = zip(shares, config.tissue_shares, valid, lost, strict=True)
    return [(share >= least) & (on >= least_valid) & ~dropped for share, least, on, dropped in scales]


def read_block(plan: Plan, config: PrepareConfig, row: int, col: int) -> Pixels:
    """Base pixels (8 p, 8 p, 3) from tile (row, col) on; tiles that cannot be read become background, and `lost`."""
    step = config.tile_px
    window = (col * step, row * step, BLOCK_TILES * step, BLOCK_TILES * step)
    pixels, lost = salvage(plan.plane.read, window, step, np.array(plan.background, np.uint8))
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


def prepare_slide(task: Task, config: PrepareConfig, quiet: bool = False) -> None:
    """Write the task's target; `quiet` hides the bar of base tiles. UserError when the slide cannot be read."""
    tools = load_tools(config)
    plan = plan_slide(task, config, tools.encoder.width)
    count = len(config.zooms)
    attrs = {"slide_id": task.slide_id, "settings": settings(task, config, tools), **_attrs(plan, config, tools)}
    levels = config.zooms.scales[-1].pyramid_level + 1
    bar = tqdm(total=int(plan.needed.sum()), desc=task.slide_id, unit="tile", leave=False, disable=quiet)
    with SlideWriter(task.target, attrs) as writer, bar:
        writer.create_embeddings(plan.grid.rows, plan.grid.cols, tools.encoder.width, levels)
        regions = Regions(writer, plan, config, tools)
        source = plan.imported or Embedder(plan, config, tools)
        for field in plan.grid.fields():
            grid = source.field(field)  # (tiles, tiles, d)
            for patches in field_patches(field, partial(read_block, plan, config), plan.needed, count):
                regions.add(patches)
                if patches.scale == 0:
                    source.fill(grid, field, patches)
                    bar.update(int(plan.needed[patches.place].sum()))
            for level in range(levels):
                writer.write_embeddings(level, field.row >> level, field.col >> level, grid)
                grid = halve(grid)
        regions.flush()
        writer.write_unreadable(lost_corners(plan, config.tile_px))


def _attrs(plan: Plan, config: PrepareConfig, tools: Tools) -> dict[str, Any]:
    width_l0, height_l0 = plan.slide.size_l0
    source = plan.plane.source
    return {
        "source": plan.slide.path.name,
        "width_l0": width_l0,
        "height_l0": height_l0,
        "extent_l0": " ".join(map(str, plan.slide.reader.extent)),
        "mpp_l0": plan.slide.mpp,
        "mpp_from": plan.slide.mpp_from,
        "mpp_tag": " x ".join(f"{value:g}" for value in plan.slide.reader.mpp or ()),
        "level": source.level,
        "level_mpp": source.mpp,
        "resampling": source.step_x,
        "base_mpp": config.zooms.base_mpp,
        "read_mpp": plan.plane.mpp,
        "origin_x_l0": plan.plane.origin_l0[0],
        "origin_y_l0": plan.plane.origin_l0[1],
        "kind": config.zooms.kind,
        "scales": config.zooms.names,
        "tile_px": config.tile_px,
        "encoder": tools.encoder.id,
        "autoencoder": tools.autoencoder_id,
        "seed": config.seed,
    }


class Embedder:
    """Embeds the base tiles of a slide that have tissue; the others get the embedding of plain background."""

    def __init__(self, plan: Plan, config: PrepareConfig, tools: Tools) -> None:
        assert not isinstance(tools.encoder, ImportedEncoder)
        self._plan, self._encoder, self._batch_size = plan, tools.encoder, config.batch_size
        tile = np.empty((1, config.tile_px, config.tile_px, 3), np.uint8)
        tile[:] = plan.background
        self._blank = self._encode(tile)[0]  # (d,)

    def field(self, field: Field) -> NDArray[np.float32]:
        """(tiles, tiles, d) of plain background."""
        return np.tile(self._blank, (field.tiles, field.tiles, 1))

    def fill(self, grid: NDArray[np.float32], field: Field, patches: Patches) -> None:
        """Put the embeddings of a block's tiles into the `grid` of its field."""
        tissue = (self._plan.tiles[patches.place] > 0) & ~self._plan.lost[patches.place]
        if tissue.any():
            (rows, cols), row, col = tissue.shape, patches.i - field.row, patches.j - field.col
            grid[row : row + rows, col : col + cols][tissue] = self._encode(patches.pixels[tissue])

    def _encode(self, tiles: Pixels) -> NDArray[np.float32]:
        batches = torch.from_numpy(tiles).split(self._batch_size)
        return torch.cat([self._encoder(batch) for batch in batches]).numpy()


class Region(NamedTuple):
    """One patch to keep."""

    scale: Scale
    i: int
    j: int
    pixels: Pixels


class Regions:
    """Collects the regions to keep and writes them a batch at a time, latents and images made on the way."""

    def __init__(self, writer: SlideWriter, plan: Plan, config: PrepareConfig, tools: Tools) -> None:
        self._writer, self._plan, self._config, self._tools = writer, plan, config, tools
        self._waiting: list[Region] = []
        for name in config.zooms.names:
            writer.append(name, np.zeros((0, 2), int), np.zeros(0), valid=np.zeros(0))

    def add(self, patches: Patches) -> None:
        """Keep those of `patches` that were chosen."""
        scale = self._config.zooms.scales[patches.scale]
        below = self._plan.lost[patches.tiles]
        dropped = reduce(below, "(r a) (c b) -> r c", "any", a=scale.downsample, b=scale.downsample)
        chosen = self._plan.kept[scale.index][patches.place] & ~dropped
        for r, c in np.argwhere(chosen).tolist():
            self._waiting.append(Region(scale, patches.i + r, patches.j + c, patches.pixels[r, c]))
            if len(self._waiting) == self._config.batch_size:
                self.flush()

    def flush(self) -> None:
        """Write what is waiting, scale by scale."""
        if not self._waiting:
            return
        pixels = np.stack([region.pixels for region in self._waiting])
        latents = None if self._tools.encode is None else self._latents(self._tools.encode, pixels)
        for scale in self._config.zooms:
            rows = [row for row, region in enumerate(self._waiting) if region.scale == scale]
            if not rows:
                continue
            ij = np.array([(self._waiting[row].i, self._waiting[row].j) for row in rows])
            self._writer.append(
                scale.name,
                ij,
                self._plan.shares[scale.index][ij[:, 0], ij[:, 1]],
                valid=self._plan.valid[scale.index][ij[:, 0], ij[:, 1]],
                latents=None if latents is None else latents[rows],
                images=None if self._config.images is None else [self._file(pixels[row]) for row in rows],
            )
        self._waiting.clear()

    @torch.inference_mode()
    def _latents(self, encode: Callable[[Tensor], Tensor], pixels: Pixels) -> NDArray[np.float32]:
        """(n, p, p, 3) -> (n, 3, h, w), unquantised."""
        x = torch.from_numpy(pixels).to(self._config.device).float() / 127.5 - 1
        return encode(rearrange(x, "n h w c -> n c h w")).float().cpu().numpy()

    def _file(self, pixels: Pixels) -> bytes:
        file = io.BytesIO()
        options = {"quality": JPEG_QUALITY, "subsampling": 0} if self._config.images == "jpeg" else {}
        Image.fromarray(pixels).save(file, format=self._config.images, **options)
        return file.getvalue()
