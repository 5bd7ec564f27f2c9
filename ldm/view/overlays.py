"""Outlines over an image: GeoJSON in QuPath's form, grouped by the names of their classes.

A feature's class is `properties.classification.name` (else one of NAMES), its colour `classification.color` as
[r, g, b], or `colorRGB` as one number. Coordinates are full-resolution pixels of the file, x first; with a member `crs`
and over a georeferenced image, coordinates of that system.

Paths are flat lists x, y, x, y ...; that of a polygon's ring ends where it began, that of a point is one place.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.images.rasters import Place, gdal_errors

COLOURS = ("#1f9e5a", "#2f6fde", "#d9483b", "#c98a00", "#8e44ad", "#0f9fb5", "#d6408a", "#7a7f35")
"""for classes that state none, in turn"""
UNNAMED, TISSUE_NAME = "outlines", "at least half tissue"
NAMES = ("class", "label", "name")
"""properties with the name of a class, in files that are not of QuPath"""
DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
"""how deep the places of a geometry lie in its coordinates"""
DECIMALS, NAME_LENGTH = 3, 200
LARGEST_BYTES = 2**29
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


def read_outlines(path: Path, place: Place | None = None) -> list[Outline]:
    """The classes of a GeoJSON file. UserError in one line where it is none; `place`: the image's georeference."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes, expected at most {LARGEST_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        to_pixels = _to_pixels(content, place)
        classes: dict[str, Outline] = {}
        for feature in _features(content):
            name, colour = _class(feature)
            outline = classes.setdefault(name, Outline(name, colour or COLOURS[len(classes) % len(COLOURS)]))
            outline.count += 1
            for points in _paths(feature.get("geometry")):
                outline.paths.append(to_pixels(points).round(DECIMALS).ravel().tolist())
        return list(classes.values())
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        if isinstance(error, UserError):
            raise
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{path}: cannot be read as GeoJSON ({why}); write it again, for example from QuPath"
        ) from error


def _features(content: Any) -> Iterator[dict[str, Any]]:
    """Those of a collection, a list, or one alone."""
    if isinstance(content, list):
        found = content
    elif content.get("type") == "FeatureCollection":
        found = content["features"]
    elif content.get("type") == "Feature":
        found = [content]
    else:
        raise ValueError(f"its type is {str(content.get('type'))[:40]}, expected FeatureCollection")
    for feature in found:
        if not isinstance(feature, dict):
            raise ValueError(f"a feature is {type(feature).__name__}, expected an object")
        yield feature


def _class(feature: dict[str, Any]) -> tuple[str, str | None]:
    """Name and colour, the colour None where it is not stated."""
    properties = feature.get("properties") or {}
    told = properties.get("classification") or {}
    if isinstance(told, str):
        told = {"name": told}
    name = told.get("name") or ": ".join(map(str, told.get("names") or ()))
    name = name or next((properties[key] for key in NAMES if properties.get(key)), UNNAMED)
    return str(name)[:NAME_LENGTH], _colour(told.get("color", told.get("colorRGB", properties.get("color"))))


def _colour(told: Any) -> str | None:
    """#rrggbb of [r, g, b] or of one signed number, as QuPath writes both."""
    if isinstance(told, int) and not isinstance(told, bool):
        return f"#{told & 0xFFFFFF:06x}"
    if isinstance(told, list) and len(told) >= 3 and all(isinstance(value, int) and 0 <= value < 256 for value in told):
        return "#" + "".join(f"{value:02x}" for value in told[:3])
    return None


def _paths(geometry: Any) -> Iterator[Array]:
    """The paths (n, 2) of a geometry."""
    if geometry is None:
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _paths(part)
        return
    if kind not in DEPTH:
        raise ValueError(f"a geometry is {str(kind)[:40]}, expected one of {', '.join(DEPTH)}")
    yield from _points(geometry["coordinates"], DEPTH[kind], alone=kind in ("Point", "MultiPoint"))


def _points(coordinates: Any, depth: int, alone: bool) -> Iterator[Array]:
    if depth > 1 or (depth == 1 and alone):
        for part in coordinates:
            yield from _points(part, depth - 1, alone)
        return
    points = np.array([coordinates] if alone else [place[:2] for place in coordinates], float)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError("a place is not two numbers")
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    yield points[:, :2]


def _to_pixels(content: Any, place: Place | None) -> Callable[[Array], Array]:
    """From the file's coordinates to pixels."""
    crs = content.get("crs") if isinstance(content, dict) else None
    if not crs or place is None:
        return lambda points: points
    from rasterio.crs import CRS
    from rasterio.transform import Affine
    from rasterio.warp import transform

    named = str(crs["properties"]["name"])
    a, b, c, d, e, f = (~Affine(*place.transform))[:6]
    with gdal_errors():
        own, target = CRS.from_user_input(named), CRS.from_wkt(place.crs) if place.crs else None

    def pixels(points: Array) -> Array:
        x, y = points.T
        if target is not None and own != target:
            with gdal_errors():
                x, y = map(np.asarray, transform(own, target, x, y))
        found = np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)
        if not np.isfinite(found).all():
            raise ValueError(f"places outside the system {named[:60]}")
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
