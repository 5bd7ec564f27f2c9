"""Tissue by annotations of QuPath: a base tile's share is the share of its area in regions of <slide>.geojson.

Every region counts as tissue, whatever its class, except those of the class Ignore*, which are cut out, and the kept
regions that prepare itself writes beside the tissue, which reach beyond it. Coordinates are pixels of full resolution
or, of a georeferenced scene, of its crs.

Shapes: rows, cols base tiles; `_l0` pixels of full resolution.
"""

from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.slides.grid import Shares
from data_prep.slides.slide import Plane
from ldm.errors import UserError
from ldm.images.class_maps import class_shares, drawn
from ldm.images.geojson import in_pixels, is_kept, read_regions
from ldm.images.rasters import Place

IGNORED = "Ignore*"
CELLS = 16
"""cells a side of a base tile, by which areas are measured"""


def annotated_shares(plane: Plane, path: Path, tile_px: int, rows: int, cols: int) -> Shares:
    """(rows, cols) share of each base tile of `plane` in the regions of `path`.

    UserError when none of them lies on the slide, or when their crs is not the slide's.
    """
    found = read_regions(path)
    regions = [region for region in found.regions if not is_kept(region.name)]
    if found.crs:
        regions = in_pixels(regions, same_place(plane.slide.reader.place, found.crs, path))
    wanted = [region.geometry for region in regions if region.name != IGNORED]
    inside = shapely.box(0, 0, *plane.slide.size_l0)
    if not any(area.intersects(inside) for area in wanted):
        size = "x".join(map(str, plane.slide.size_l0))
        raise UserError(f"{path}: no region lies on the slide ({size} px); name this slide's file, in its pixels")
    tissue = shapely.union_all(wanted)
    for region in regions:
        if region.name == IGNORED:
            tissue = shapely.difference(tissue, region.geometry)
    if not tissue.intersects(inside):
        raise UserError(
            f"{path}: {IGNORED} covers all its other regions on the slide; expected some tissue beside them"
        )
    tile_l0 = tile_px * plane.mpp / plane.slide.mpp
    origin = np.array(plane.origin_l0)

    def in_tiles(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return (xy - origin) / tile_l0

    classes = drawn([(shapely.transform(tissue, in_tiles), 1)], (rows * CELLS, cols * CELLS), 1 / CELLS, 0)
    return class_shares(classes, 2, CELLS)[..., 1]


def same_place(own: Place | None, crs: str, path: Path) -> Place:
    """The place of the slide, if its crs is `crs`. UserError otherwise."""
    from rasterio.crs import CRS

    if own is None or not own.crs or CRS.from_wkt(own.crs) != CRS.from_user_input(crs):
        found = CRS.from_wkt(own.crs).to_string()[:60] if own and own.crs else "pixels"
        raise UserError(f"{path}: is in the crs {crs[:60]}, but its slide in {found}; reproject it to the slide's")
    return own
