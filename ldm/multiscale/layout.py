"""A layout: which class lies where in an image that is to be sampled.

    layout = fitted(read_regions("regions.geojson"), palette, um=0.5)
    tokens = layout.tokens(palette, tile_px=256, seed=0)                      (d, R, C), for `TokenMap`

Regions come in pixels of the image, or of another um per pixel, or in coordinates of a reference system (scenes). Where
they overlap, the smaller one counts: the innermost. A base tile is mixed by the areas of the classes in it.

Shapes: R, C rows and columns of base tiles, K classes of a palette, d channels. Coordinates are x, y.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldm.errors import UserError
from ldm.images.class_maps import class_shares, drawn
from ldm.images.geojson import ClassRegion, ClassRegions
from ldm.images.rasters import Place, gdal_errors
from ldm.multiscale.palette import BACKGROUND, Palette

if TYPE_CHECKING:
    from shapely import Geometry

CELLS = 16
"""cells of the class map a side of a base tile, by which areas are measured"""
LARGEST_SIDE = 2**19
"""in pixels"""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassLayout:
    """Regions in pixels of an image `height` x `width`, with names and colours of a palette."""

    regions: list[ClassRegion]
    height: int
    width: int
    rest: str
    """class of what no region covers; empty: they cover everything"""
    place: Place | None = None
    """georeference of the image, in its pixels"""
    notes: tuple[str, ...] = ()

    def shares(self, palette: Palette, tile_px: int) -> NDArray[np.float32]:
        """(R, C, K) share of each class in squares of `tile_px` pixels; beyond the image, its last cells repeat."""
        rows, cols = (-(-length // tile_px) for length in (self.height, self.width))
        cell = tile_px / CELLS
        inside = [max(1, math.ceil(length / cell)) for length in (self.height, self.width)]
        regions = [(region.geometry, palette.index(region.name)) for region in self.regions]
        rest = palette.index(self.rest) if self.rest else len(palette.names)
        classes = drawn(regions, (inside[0], inside[1]), cell, rest)
        missing = [(0, tiles * CELLS - have) for tiles, have in zip((rows, cols), inside, strict=True)]
        shares = class_shares(np.pad(classes, missing, mode="edge"), len(palette.names), CELLS)
        return shares / np.maximum(shares.sum(-1, keepdims=True), 1 / CELLS**2)

    def tokens(self, palette: Palette, tile_px: int, seed: int) -> Tensor:
        """Embeddings (d, R, C) of the base tiles, `tile_px` pixels of the image a side."""
        return palette.tokens(self.shares(palette, tile_px), seed)


def fitted(
    found: ClassRegions,
    palette: Palette,
    *,
    um: float,
    mpp: float | None = None,
    corner: tuple[float, float] = (0, 0),
    size: tuple[int, int] | None = None,
    rest: str | None = None,
) -> ClassLayout:
    """The layout of an image of `um` um per pixel that begins at pixel `corner` (x, y) of what `found` describes.

    mpp: um per pixel of coordinates in pixels, by default those of the image. size: (height, width); None: as far as
    the regions reach. rest: class of what no region covers, by default the palette's background. UserError for a class
    that the palette lacks, regions that all lie outside, a crs that does not suit, uncovered places without `rest`.
    """
    named, notes = _named(found.regions, palette)
    placed, frame, place = _in_pixels(found, named, um, mpp, palette.kind)
    left, top = corner
    bounds = frame or (0.0, 0.0, max(r.geometry.bounds[2] for r in placed), max(r.geometry.bounds[3] for r in placed))
    height, width = size or (math.ceil(bounds[3] - top - 1e-6), math.ceil(bounds[2] - left - 1e-6))
    if min(height, width) < 1 or max(height, width) > LARGEST_SIDE:
        raise UserError(
            f"layout: its regions reach to x {bounds[2]:.0f}, y {bounds[3]:.0f}, the image would have {width}x{height} "
            f"px, expected 1 to {LARGEST_SIDE} a side; give --size and --place, or coordinates in pixels"
        )
    regions, outside, cut = _clipped(placed, left, top, height, width)
    if not regions:
        xs, ys = zip(*((r.geometry.bounds[0::2], r.geometry.bounds[1::2]) for r in placed), strict=True)
        raise UserError(
            f"layout: all regions lie outside the image of {width}x{height} px from ({left:g}, {top:g}) on: they are "
            f"at x {np.min(xs):.0f} to {np.max(xs):.0f}, y {np.min(ys):.0f} to {np.max(ys):.0f}: give another "
            "--place or --size"
        )
    if outside:
        notes.append(f"{outside} of {len(placed)} regions lie outside the image")
    if cut:
        notes.append(f"{cut} of {len(placed)} regions reach beyond the image and are cut at its edge")
    layout = ClassLayout(
        regions, height, width, _rest(regions, palette, rest, height, width), None, (*found.notes, *notes)
    )
    return layout if place is None else replace(layout, place=place.moved(left, top))


def _named(regions: list[ClassRegion], palette: Palette) -> tuple[list[ClassRegion], list[str]]:
    """Regions with names and, where they have none, colours of the palette; and notes."""
    without = sum(not region.name for region in regions)
    if without:
        raise UserError(
            f"layout: {without} of {len(regions)} regions have no class; in QuPath: select them, and Set class"
        )
    used = [region for region in regions if not region.name.endswith("*")]
    ignored = sorted({region.name for region in regions} - {region.name for region in used})
    notes = [f"regions of the class {name} are left out, as QuPath does" for name in ignored]
    if not used:
        raise UserError(
            f"layout: holds regions of {', '.join(ignored)} alone; expected some of {', '.join(palette.names)}"
        )
    named = []
    for region in used:
        k = palette.index(region.name)
        named.append(region._replace(name=palette.names[k], colour=region.colour or palette.colours[k]))
    return named, notes


def _in_pixels(
    found: ClassRegions, regions: list[ClassRegion], um: float, mpp: float | None, kind: str
) -> tuple[list[ClassRegion], Box | None, Place | None]:
    """Regions and frame in pixels of `um` um, and the georeference of those pixels."""
    import shapely

    crs = found.crs or ("OGC:CRS84" if kind == "satellite" and _in_degrees(regions) else "")
    if not crs:
        factor = 1.0 if mpp is None else mpp / um
        scaled = [r._replace(geometry=shapely.transform(r.geometry, lambda xy: xy * factor)) for r in regions]
        left, top, right, bottom = (edge * factor for edge in found.frame or (0, 0, 0, 0))
        return scaled, (left, top, right, bottom) if found.frame else None, None
    if kind != "satellite":
        raise UserError(
            f"layout: states the crs {crs[:60]}, but the model is of {kind}; give --model one of scenes, or "
            "coordinates in pixels and no crs"
        )
    if mpp is not None:
        raise UserError("--mpp: is of coordinates in pixels, but the layout states its crs; leave it out")
    box = shapely.box(*(found.frame or shapely.total_bounds([region.geometry for region in regions])))
    wkt, metres, geometries = _projected(crs, [box, *(region.geometry for region in regions)])
    side = um / 1e6 / metres
    left, bottom, right, top = geometries[0].bounds if found.frame else shapely.total_bounds(geometries[1:]).tolist()
    left, top = math.floor(left / side + 1e-6) * side, math.ceil(top / side - 1e-6) * side

    def to_pixels(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return (xy - (left, top)) / (side, -side)

    placed = [
        r._replace(geometry=shapely.transform(g, to_pixels)) for r, g in zip(regions, geometries[1:], strict=True)
    ]
    frame = (0.0, 0.0, (right - left) / side, (top - bottom) / side)
    return placed, frame, Place(wkt, (side, 0.0, left, 0.0, -side, top))


def _in_degrees(regions: list[ClassRegion]) -> bool:
    """Whether all coordinates could be degrees: GeoJSON without a crs has those (RFC 7946)."""
    return all(
        max(abs(west), abs(east)) <= 180 and max(abs(south), abs(north)) <= 90
        for west, south, east, north in (region.geometry.bounds for region in regions)
    )


def _projected(crs: str, geometries: list["Geometry"]) -> tuple[str, float, list["Geometry"]]:
    """WKT of a projected crs, its metres per unit, and the geometries in it; degrees go to the UTM zone of the first.

    UserError for a crs that has neither degrees nor a length as its unit, and for more than 90 degrees of latitude.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform_geom
    from shapely.geometry import mapping, shape

    with gdal_errors():
        found = CRS.from_user_input(crs)
        if found.is_geographic:
            west, south, east, north = geometries[0].bounds
            zone = min(60, int(((west + east) / 2 + 180) // 6) + 1)
            utm = CRS.from_epsg((32600 if south + north >= 0 else 32700) + zone)
            if max(abs(west), abs(east)) > 360 or max(abs(south), abs(north)) > 90:
                raise UserError(
                    f"layout: reaches to {west:g} to {east:g}, {south:g} to {north:g}, but its crs {crs[:60]} has "
                    "degrees; where these are pixels, take its member crs out"
                )
            moved = transform_geom(found, utm, [mapping(geometry) for geometry in geometries])
            return utm.to_wkt(), 1.0, [shape(geometry) for geometry in moved]
        if not found.is_projected:
            raise UserError(f"layout: the crs {crs[:60]} has no unit of length; reproject it, for example to UTM")
        return found.to_wkt(), float(found.linear_units_factor[1]), geometries


def _clipped(
    regions: list[ClassRegion], left: float, top: float, height: int, width: int
) -> tuple[list[ClassRegion], int, int]:
    """The parts of regions inside the image, in its pixels; how many have none, and how many of the others more
    outside than a pixel."""
    import shapely
    from shapely.geometry import MultiPolygon

    frame = shapely.box(0, 0, width, height)
    inside, cut = [], 0
    for region in regions:
        here = shapely.intersection(shapely.transform(region.geometry, lambda xy: xy - (left, top)), frame)
        parts = [part for part in shapely.get_parts(here) if part.geom_type == "Polygon" and part.area > 0]
        if parts:
            inside.append(region._replace(geometry=parts[0] if len(parts) == 1 else MultiPolygon(parts)))
            cut += region.geometry.area - sum(part.area for part in parts) > 1
    return inside, len(regions) - len(inside), cut


def _rest(regions: list[ClassRegion], palette: Palette, asked: str | None, height: int, width: int) -> str:
    """The class of what no region covers; empty where they cover everything."""
    import shapely

    if asked is not None:
        return palette.names[palette.index(asked)]
    bare = height * width - shapely.union_all([region.geometry for region in regions]).area
    if bare < 1:
        return ""
    names = [name for name in palette.names if name.casefold() == BACKGROUND.casefold()]
    if not names:
        raise UserError(
            f"layout: {bare / (height * width):.0%} of the image lie in no region; say what is there with --rest "
            f"CLASS, one of {', '.join(palette.names)}"
        )
    return names[0]
