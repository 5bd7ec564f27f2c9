"""The tissue and the kept regions of a prepared slide as GeoJSON beside its file, for QuPath and `zoomldm view`.

Regions are named tissue and, by scale, kept 20x ...; neighbouring ones are one area. Coordinates are pixels of full
resolution.
"""

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.plan import Plan
from data_prep.preparation_config import PrepareConfig
from data_prep.slides.find import Task, shown
from data_prep.slides.grid import Mask
from data_prep.slides.tissue import PER_TILE
from ldm.errors import UserError
from ldm.images.class_maps import Legend, outlined
from ldm.images.geojson import KEPT_NAME, TISSUE_CLASS, ClassRegion
from ldm.images.geojson_writer import write_regions, written_here

TISSUE, KEPT = (0, 140, 60), (20, 60, 220)


def save_outlines(plan: Plan, config: PrepareConfig, task: Task) -> None:
    """Write <slide>.geojson beside the prepared file. UserError where somebody's own regions have this name."""
    path = task.target.with_suffix(".geojson")
    if path.exists() and not written_here(path):
        raise UserError(f"{shown(path)}: was not written by prepare and would be replaced; move it, or set another out")
    step = plan.plane.mpp / plan.slide.mpp  # pixels of full resolution per base pixel
    tile_l0 = config.tile_px * step
    tissue, cell = (plan.tiles > 0, tile_l0) if plan.mask is None else (plan.mask, tile_l0 / PER_TILE)
    regions = _areas(tissue, TISSUE_CLASS, TISSUE, cell)
    for scale, kept in zip(config.zooms, plan.kept, strict=True):
        regions += _areas(kept, f"{KEPT_NAME}{scale.name}", KEPT, tile_l0 * scale.downsample)
    write_regions(path, _on_slide(regions, plan))


def _areas(mask: Mask, name: str, colour: tuple[int, int, int], cell: float) -> list[ClassRegion]:
    return outlined(mask.astype(np.uint8), {1: Legend(name, colour)}, cell)


def _on_slide(regions: list[ClassRegion], plan: Plan) -> list[ClassRegion]:
    """Regions in pixels of full resolution, cut at the slide's edge."""
    origin, frame = np.array(plan.plane.origin_l0), shapely.box(0, 0, *plan.slide.size_l0)

    def move(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return xy + origin

    moved = [region._replace(geometry=shapely.transform(region.geometry, move)) for region in regions]
    cut = [region._replace(geometry=shapely.intersection(region.geometry, frame)) for region in moved]
    return [region for region in cut if region.geometry.area > 0 and region.geometry.geom_type.endswith("Polygon")]
