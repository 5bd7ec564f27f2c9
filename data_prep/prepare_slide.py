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
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data_prep.config import PrepareConfig
from data_prep.encoders import TileEncoder, known_width, load_encoder
from data_prep.grid import Field, Grid, Mask, Shares, choose, halve, needed_tiles, region_shares
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
from data_prep.slide import Pixels, Plane, Slide, open_slide
from data_prep.tissue import PER_TILE, read_mask, tile_shares
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


def settings(path: Path, config: PrepareConfig, tools: Tools) -> str:
    """Everything that a prepared file depends on, as text; a file with the same text need not be made again."""
    depends: dict[str, Any] = {
        "source": fingerprint(path),
        "ladder": [config.zooms.kind, config.zooms.names],
        "networks": [tools.encoder.id, tools.autoencoder_id],
        "regions": [config.tile_px, config.tissue_share, config.regions_per_scale, config.seed],
        "images": config.images,
        "mpp": config.mpp,
    }
    if config.coordinates:
        depends["coordinates"] = fingerprint(file_of(path, config.coordinates, COORDINATES))
    if config.encoder.embeddings:
        depends["embeddings"] = fingerprint(file_of(path, config.encoder.embeddings, EMBEDDINGS))
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
    kept: list[Mask]
    needed: Mask
    """base tiles to read"""
    background: tuple[int, int, int]
    imported: ImportedEmbeddings | None


def plan_slide(path: Path, slide_id: str, config: PrepareConfig, width: int) -> Plan:
    """Open a slide and decide from its thumbnail, or from what others found; embeddings are `width` wide.

    UserError when it cannot be read at the ladder's resolution.
    """
    zooms = config.zooms
    slide = open_slide(path, zooms.kind, config.mpp)
    plane, imported = Plane(slide, zooms.base_mpp), None
    if config.encoder.embeddings:
        imported = ImportedEmbeddings.of(plane, config.encoder.embeddings, config.tile_px, width)
        plane = imported.plane(slide, config.tile_px)
    grid = Grid.over(zooms, plane.width, plane.height, config.tile_px)
    thumbnail = Plane(slide, plane.mpp * config.tile_px / PER_TILE, plane.origin_l0)
    mask, background = read_mask(thumbnail, zooms.kind, grid.rows, grid.cols)
    if imported is not None:
        tiles = imported.shares(grid.rows, grid.cols)
    elif config.coordinates:
        tiles = coordinate_shares(plane, config.coordinates, config.tile_px, grid.rows, grid.cols)
    else:
        tiles = tile_shares(mask)
    shares = region_shares(tiles, zooms)
    kept = choose(shares, config.tissue_share, config.regions_per_scale, (config.seed, slide_id))
    encoded = tiles if imported is None else np.zeros_like(tiles)
    return Plan(slide, plane, grid, tiles, shares, kept, needed_tiles(encoded, kept), background, imported)


def prepare_slide(path: Path, slide_id: str, target: Path, config: PrepareConfig, quiet: bool = False) -> None:
    """Write `target`; `quiet` hides the bar of base tiles. UserError when the slide cannot be read."""
    tools = load_tools(config)
    plan = plan_slide(path, slide_id, config, tools.encoder.width)
    tile_px, count = config.tile_px, len(config.zooms)

    def read(row: int, col: int) -> Pixels:
        side = 8 * tile_px
        return plan.plane.read(col * tile_px, row * tile_px, side, side)

    attrs = {"slide_id": slide_id, "settings": settings(path, config, tools), **_attrs(plan, config, tools)}
    levels = config.zooms.scales[-1].pyramid_level + 1
    bar = tqdm(total=int(plan.needed.sum()), desc=slide_id, unit="tile", leave=False, disable=quiet)
    with SlideWriter(target, attrs) as writer, bar:
        writer.create_embeddings(plan.grid.rows, plan.grid.cols, tools.encoder.width, levels)
        regions = Regions(writer, plan, config, tools)
        source = plan.imported or Embedder(plan, config, tools)
        for field in plan.grid.fields():
            grid = source.field(field)  # (tiles, tiles, d)
            for patches in field_patches(field, read, plan.needed, count):
                regions.add(patches)
                if patches.scale == 0:
                    source.fill(grid, field, patches)
                    bar.update(int(plan.needed[patches.place].sum()))
            for level in range(levels):
                writer.write_embeddings(level, field.row >> level, field.col >> level, grid)
                grid = halve(grid)
        regions.flush()


def _attrs(plan: Plan, config: PrepareConfig, tools: Tools) -> dict[str, Any]:
    width_l0, height_l0 = plan.slide.size_l0
    source = plan.plane.source
    return {
        "source": plan.slide.path.name,
        "width_l0": width_l0,
        "height_l0": height_l0,
        "mpp_l0": plan.slide.mpp,
        "level": source.level,
        "level_mpp": source.mpp,
        "resampling": source.factor,
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
        tissue = self._plan.tiles[patches.place] > 0
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
            writer.append(name, np.zeros((0, 2), int), np.zeros(0))

    def add(self, patches: Patches) -> None:
        """Keep those of `patches` that were chosen."""
        scale = self._config.zooms.scales[patches.scale]
        chosen = self._plan.kept[scale.index][patches.place]
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
