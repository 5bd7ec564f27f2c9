"""One slide -> one HDF5 file (ldm/data/h5.py): its tissue, regions, base-tile embeddings and latents, in one pass.

The slide is read field by field (see grid.py). A field's base tiles with tissue are embedded; blank ones share the
embedding of a tile of the slide's background. The field's pyramid of means is computed in float32 and stored in
float16. The regions to keep, planned from the thumbnail, are passed to the autoencoder as they are read. Networks run
asynchronously; the file is written in reading order.
"""

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from einops import reduce
from numpy.typing import NDArray
from PIL import Image

from data_prep.plan import Plan, lost_corners, no_region, read_block
from data_prep.preparation_config import PrepareConfig
from data_prep.settings import model_attrs, settings
from data_prep.slides.find import Task, shown
from data_prep.slides.grid import Field, halve
from data_prep.slides.pyramid import Patches, field_patches
from data_prep.slides.readers import Pixels
from data_prep.workers.embedding import AUTOENCODER, ENCODER, InOrder, Networks, NetworksIdentity
from ldm.data.slide_writer import SlideWriter

JPEG_QUALITY = 95


def prepare_slide(
    task: Task, plan: Plan, config: PrepareConfig, networks: Networks, progress: Callable[[float], None]
) -> None:
    """Write the task's target; `progress` is called with the share done. UserError when the slide cannot be read."""
    identity = networks.identity
    attrs = {"slide_id": task.slide_id, "settings": settings(task, config, identity)}
    needed = partial(expected_bytes, plan, config, identity)
    with SlideWriter(task.target, attrs | _attrs(plan, config, identity), needed) as writer:
        levels = config.zooms.scales[-1].pyramid_level + 1
        writer.create_embeddings(plan.grid.rows, plan.grid.cols, identity.width, levels)
        work = InOrder()
        regions = Regions(writer, plan, config, networks, work)
        source = plan.imported or TileEmbedder(plan, config, networks, work)
        passed = 0
        for field in plan.grid.fields():
            grid = source.field(field)  # (tiles, tiles, d)
            for patches in field_patches(field, partial(read_block, plan, config), plan.needed, len(config.zooms)):
                regions.add(patches)
                if patches.scale == 0:
                    source.fill(grid, field, patches)
                    passed += int(plan.needed[patches.place].sum())
                    progress(passed / int(plan.needed.sum()))
            work.later(0, partial(write_pyramid, writer, field, grid, levels))
        work.finish()
        if not regions.kept:  # all of it was unreadable
            raise no_region(plan, config)
        writer.write_unreadable(lost_corners(plan, config.tile_px))


def expected_bytes(plan: Plan, config: PrepareConfig, identity: NetworksIdentity) -> int:
    """Approximate size of the file; images are counted uncompressed."""
    regions, p = sum(int(mask.sum()) for mask in plan.kept), config.tile_px
    tokens = plan.grid.rows * plan.grid.cols * 4 // 3 * identity.width * 2
    return tokens + regions * (3 * (p // 4) ** 2 * 2 * bool(identity.autoencoder) + 3 * p * p * bool(config.images))


def write_pyramid(writer: SlideWriter, field: Field, grid: NDArray[np.float32], levels: int) -> None:
    """Store the embeddings (tiles, tiles, d) of a field and their means."""
    for level in range(levels):
        writer.write_embeddings(level, field.row >> level, field.col >> level, grid)
        grid = halve(grid)


def _attrs(plan: Plan, config: PrepareConfig, identity: NetworksIdentity) -> dict[str, Any]:
    width_l0, height_l0 = plan.slide.size_l0
    source, place = plan.plane.source, plan.slide.reader.place
    return {
        "source": shown(plan.slide.path.name),
        "width_l0": width_l0,
        "height_l0": height_l0,
        "extent_l0": " ".join(map(str, plan.slide.reader.extent)),
        "mpp_l0": plan.slide.mpp,
        "mpp_from": plan.slide.mpp_from,
        "mpp_tag": " x ".join(f"{value:g}" for value in plan.slide.reader.mpp or ()),
        "crs": place.crs if place else "",
        "transform": " ".join(map(repr, place.transform)) if place else "",
        "notes": "\n".join(plan.slide.reader.notes),
        "level": source.level,
        "level_mpp": source.mpp,
        "resampling": source.step_x,
        "base_mpp": config.zooms.base_mpp,
        "read_mpp": plan.plane.mpp,
        "origin_x_l0": plan.plane.origin_l0[0],
        "origin_y_l0": plan.plane.origin_l0[1],
        **model_attrs(config, identity),
        "seed": config.seed,
        "eligible": json.dumps(dict(zip(config.zooms.names, plan.eligible, strict=True))),
    }


class TileEmbedder:
    """Embeds the base tiles of a slide with tissue; the others get the embedding of plain background."""

    def __init__(self, plan: Plan, config: PrepareConfig, networks: Networks, work: InOrder) -> None:
        self._plan, self._networks, self._work = plan, networks, work
        tile = np.empty((1, config.tile_px, config.tile_px, 3), np.uint8)
        tile[:] = plan.background
        self._blank = networks.ask(ENCODER, tile)()[0]  # (d,)

    def field(self, field: Field) -> NDArray[np.float32]:
        """(tiles, tiles, d) of plain background."""
        return np.tile(self._blank, (field.tiles, field.tiles, 1))

    def fill(self, grid: NDArray[np.float32], field: Field, patches: Patches) -> None:
        """Request the embeddings of a block's tiles, which are then written into the `grid` of its field."""
        tissue = (self._plan.tiles[patches.place] > 0) & ~self._plan.lost[patches.place]
        if not tissue.any():
            return
        answer = self._networks.ask(ENCODER, patches.pixels[tissue])
        (rows, cols), row, col = tissue.shape, patches.i - field.row, patches.j - field.col

        def put() -> None:
            grid[row : row + rows, col : col + cols][tissue] = answer()

        self._work.later(int(tissue.sum()), put)


class Regions:
    """Writes the regions to keep, with latents and images, in reading order."""

    def __init__(
        self, writer: SlideWriter, plan: Plan, config: PrepareConfig, networks: Networks, work: InOrder
    ) -> None:
        self._writer, self._plan, self._config, self._networks, self._work = writer, plan, config, networks, work
        self.kept = 0
        """regions so far"""
        for name in config.zooms.names:
            writer.append(name, np.zeros((0, 2), int), np.zeros(0), valid=np.zeros(0))

    def add(self, patches: Patches) -> None:
        """Write the chosen regions among `patches`."""
        plan, scale, place = self._plan, self._config.zooms.scales[patches.scale], patches.place
        dropped = reduce(plan.lost[patches.tiles], "(r a) (c b) -> r c", "any", a=scale.downsample, b=scale.downsample)
        chosen = plan.kept[scale.index][place] & ~dropped
        if not chosen.any():
            return
        self.kept += int(chosen.sum())
        pixels = patches.pixels[chosen]
        ij = np.argwhere(chosen) + np.array([patches.i, patches.j])
        tissue, valid = (shares[scale.index][place][chosen] for shares in (plan.shares, plan.valid))
        images = None if self._config.images is None else [self._file(patch) for patch in pixels]
        answer = self._networks.ask(AUTOENCODER, pixels) if self._networks.identity.autoencoder else None

        def write() -> None:
            latents = answer() if answer else None
            self._writer.append(scale.name, ij, tissue, valid=valid, latents=latents, images=images)

        self._work.later(len(pixels), write)

    def _file(self, pixels: Pixels) -> bytes:
        file = io.BytesIO()
        options = {"quality": JPEG_QUALITY, "subsampling": 0} if self._config.images == "jpeg" else {}
        Image.fromarray(pixels).save(file, format=self._config.images, **options)
        return file.getvalue()
