"""Outlines over an image: GeoJSON (`ldm.images.geojson`), grouped by the names of its classes.

Coordinates are full-resolution pixels of the file, x first; with a member `crs`, coordinates of that system. Over a
georeferenced image, those of a file without one are degrees (RFC 7946) where they lie on the image as such.

Paths are flat lists x, y, x, y ...; that of a polygon's ring ends where it began, that of a point is one place.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.images.geojson import Feature, parts, read_features
from ldm.images.rasters import Place, gdal_errors

if TYPE_CHECKING:
    from shapely import Geometry

COLOURS = ("#1f9e5a", "#2f6fde", "#d9483b", "#c98a00", "#8e44ad", "#0f9fb5", "#d6408a", "#7a7f35")
"""for classes that state none, in turn"""
UNNAMED, TISSUE_NAME = "outlines", "at least half tissue"
DEGREES = "OGC:CRS84"
DECIMALS, NAME_LENGTH = 3, 200
Array = NDArray[np.float64]


@dataclass
class Outline:
    """The paths of one class."""

    name: str
    colour: str
    paths: list[list[float]] = field(default_factory=list)
    count: int = 0
    """features"""
    shown: bool = True
    """at first"""


def boxes(name: str, corners: NDArray[Any], side: float, colour: str) -> Outline:
    """Squares with these upper left `corners` (n, 2), x first; not shown at first."""
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * side
    paths = [(square + corner).ravel().tolist() for corner in np.asarray(corners)]
    return Outline(name, colour, paths, len(paths), shown=False)


def read_outlines(
    path: Path, place: Place | None = None, size: tuple[int, int] = (sys.maxsize, sys.maxsize)
) -> list[Outline]:
    """The classes of a GeoJSON file. UserError in one line where it is none, or its crs does not suit the image.

    `place`: the image's georeference; `size`: its width and height.
    """
    try:
        features, crs = read_features(path)
        to_pixels = _to_pixels(crs or _degrees_on(features, place, size), place)
        classes: dict[str, Outline] = {}
        for feature in features:
            name = feature.name[:NAME_LENGTH] or UNNAMED
            colour = f"#{bytes(feature.colour).hex()}" if feature.colour else COLOURS[len(classes) % len(COLOURS)]
            outline = classes.setdefault(name, Outline(name, colour))
            outline.count += 1
            for points in _paths(feature.geometry):
                outline.paths.append(to_pixels(points).round(DECIMALS).ravel().tolist())
        return list(classes.values())
    except (UserError, OSError) as error:
        raise UserError(f"{path}: cannot be read as GeoJSON: {str(error).removeprefix(f'{path}: ')}") from error


def _paths(geometry: "Geometry | None") -> Iterator[Array]:
    """The paths (n, 2) of a geometry: of a polygon those of all its rings."""
    import shapely

    for part in () if geometry is None else parts(geometry):
        rings = [part.exterior, *part.interiors] if part.geom_type == "Polygon" else [part]
        yield from (points for ring in rings if len(points := shapely.get_coordinates(ring)))


def _degrees_on(features: list[Feature], place: Place | None, size: tuple[int, int]) -> str:
    """DEGREES where all coordinates can be degrees, and some of them lie on the image; else empty."""
    import shapely

    if place is None or not place.crs:
        return ""
    found = np.concatenate([np.zeros((0, 2)), *(shapely.get_coordinates(each.geometry) for each in features)])
    if (np.abs(found) > (180, 90)).any() or not len(found):
        return ""
    try:
        pixels = _to_pixels(DEGREES, place)(found)
    except (UserError, OSError):
        return ""
    return DEGREES if ((pixels >= 0) & (pixels <= size)).all(1).any() else ""


def _to_pixels(crs: str, place: Place | None) -> Callable[[Array], Array]:
    """From the file's coordinates to pixels. UserError for a crs where the image has no georeference."""
    if not crs:
        return lambda points: points
    if place is None:
        raise UserError(f"is in the crs {crs[:60]}, but its image has no georeference; expected pixels and no crs")
    from rasterio.crs import CRS
    from rasterio.transform import Affine
    from rasterio.warp import transform

    a, b, c, d, e, f = (~Affine(*place.transform))[:6]
    with gdal_errors():
        own, target = CRS.from_user_input(crs), CRS.from_wkt(place.crs) if place.crs else None

    def pixels(points: Array) -> Array:
        x, y = points.T
        if target is not None and own != target:
            with gdal_errors():
                x, y = map(np.asarray, transform(own, target, x, y))
        found = np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)
        if not np.isfinite(found).all():
            raise UserError(f"places outside the system {crs[:60]}; expected places of the image")
        return found

    return pixels


def moved(outlines: list[Outline], origin: tuple[float, float], step: float) -> list[Outline]:
    """Outlines of full-resolution pixels in those of an image that begins at `origin`, each `step` of them wide."""
    if origin == (0, 0) and step == 1:
        return outlines
    offset = np.array(origin)
    return [replace(each, paths=[_moved(path, offset, step) for path in each.paths]) for each in outlines]


def _moved(path: list[float], offset: Array, step: float) -> list[float]:
    if not math.isfinite(step) or step <= 0:
        raise ValueError(f"{step} pixels a pixel")
    return ((np.reshape(path, (-1, 2)) - offset) / step).round(DECIMALS).ravel().tolist()
