"""Regions of an image as GeoJSON: read from QuPath or a GIS, written so that both open it.

A region is an area with the name of a class. QuPath writes the name to `properties.classification.name` and has pixels
of full resolution as coordinates; a GIS writes it to `properties.class`, `label` or `name`, and states the coordinate
reference system in a member `crs` (GeoJSON 2008, still written by GDAL and QGIS) or means degrees (RFC 7946).

Coordinates are x, y: of pixels, y points down.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.images.rasters import Place, gdal_errors

if TYPE_CHECKING:
    from shapely import Geometry

Colour = tuple[int, int, int]
LARGEST_BYTES = 2**29
"""of a file, which is read whole"""
FARTHEST = 1e9
"""largest coordinate"""
TISSUE_CLASS, KEPT_NAME = "tissue", "kept "
"""and a scale: the class of the regions of prepared slides that `zoomldm prepare` writes beside their tissue"""
NAMES = ("class", "label", "name")
"""properties with the name of a class, in files that are not of QuPath"""


class ClassRegion(NamedTuple):
    """An area and what it is."""

    name: str
    """of its class; empty: it has none"""
    geometry: "Geometry"
    """a valid polygon or multipolygon with an area"""
    colour: Colour | None = None
    values: Mapping[str, float] = {}
    """measurements"""


class ClassRegions(NamedTuple):
    """The regions of a file."""

    regions: list[ClassRegion]
    crs: str = ""
    """as `rasterio.crs.CRS.from_user_input` takes it; empty: the file states none"""
    notes: tuple[str, ...] = ()
    """what was read otherwise than the file says"""
    frame: tuple[float, float, float, float] | None = None
    """least x and y, largest x and y of what is described, where that is known: of a raster"""


class Feature(NamedTuple):
    """What a file says about one object."""

    name: str
    """of its class; empty: it has none"""
    colour: Colour | None
    geometry: "Geometry | None"
    """of any kind, as it was drawn"""


def is_kept(name: str) -> bool:
    """Whether a class is that of kept regions; one drawn by hand may begin alike."""
    return re.fullmatch(rf"{KEPT_NAME}[\d.]+x", name) is not None


def read_features(path: Path) -> tuple[list[Feature], str]:
    """The features of a GeoJSON file, and its coordinate reference system as in `ClassRegions.crs`.

    UserError when it is missing, no GeoJSON, states an unknown system, or has a coordinate that is no number.
    """
    content, found = parsed(path), []
    for number, feature in enumerate(features_of(path, content), start=1):
        what = f"{path}: feature {number}"
        geometry = _geometry(what, feature.get("geometry"))
        found.append(Feature(*_class(what, feature.get("properties")), geometry))
    return found, _crs(path, content)


def read_regions(path: str | Path) -> ClassRegions:
    """The areas in a GeoJSON file; self-intersections are resolved, points and lines left out, and `notes` says so.

    UserError as `read_features`, and where there is no area at all.
    """
    regions, notes, without = [], [], 0
    features, crs = read_features(Path(path))
    for number, (name, colour, geometry) in enumerate(features, start=1):
        if geometry is not None and not geometry.is_valid:
            notes.append(f"feature {number}{f' ({name})' if name else ''} {_fault(geometry)}")
        areas = None if geometry is None else _areas(geometry)
        if areas is None:
            without += 1
        else:
            regions.append(ClassRegion(name, areas, colour))
    if without:
        notes.append(f"{without} features without an area (points, lines, empty ones) are left out")
    if not regions:
        found = f"{without} features without an area" if without else "no feature"
        raise UserError(f"{path}: {found} found, expected polygons; draw regions and export them again")
    return ClassRegions(regions, crs, tuple(notes))


def parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(
                f"{path}: has {path.stat().st_size:,} bytes, expected at most {LARGEST_BYTES:,}; export regions, not "
                "cells"
            )
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON in UTF-8"
        raise UserError(
            f"{path}: cannot be read ({reason}); expected GeoJSON, as QuPath exports (File, Export objects)"
        ) from error


def _refuse_constant(text: str) -> None:
    raise ValueError(text)  # NaN and infinities are no JSON


def features_of(path: Path, content: Any) -> Iterator[dict[str, Any]]:
    """The features of a collection, of a list of features (older versions of QuPath), of one feature or geometry."""
    kind = content.get("type") if isinstance(content, dict) else None
    found = content
    if kind == "FeatureCollection":
        found = content.get("features")
    elif kind == "Feature":
        found = [content]
    elif isinstance(content, dict) and ("coordinates" in content or "geometries" in content):
        found = [{"type": "Feature", "geometry": content}]
    if not isinstance(found, list) or not all(
        isinstance(item, dict) and item.get("type") == "Feature" for item in found
    ):
        raise UserError(f"{path}: is JSON, but no GeoJSON; expected a FeatureCollection, as QuPath exports")
    yield from found


def _geometry(what: str, found: Any) -> "Geometry | None":
    """The geometry of a feature; None where it has none. UserError for one that cannot be read."""
    import shapely
    from shapely.geometry import shape

    if found is None:
        return None
    try:
        geometry = shapely.force_2d(shape(found))
        corners = shapely.get_coordinates(geometry)
    except Exception as error:  # shapely raises what the content happens to cause
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{what}: its geometry cannot be read ({reason}); export it again") from error
    if not np.isfinite(corners).all() or np.abs(corners).max(initial=0) > FARTHEST:
        raise UserError(
            f"{what}: has coordinates that are no places, expected numbers up to {FARTHEST:g}; export it again"
        )
    return geometry


def _fault(geometry: "Geometry") -> str:
    """What is wrong with an area, and what is taken instead."""
    import shapely

    if "Hole lies outside" in shapely.is_valid_reason(geometry):
        return "has a hole outside its outline: no area is taken there"
    return "crosses itself: the area inside is taken"


def _areas(geometry: "Geometry") -> "Geometry | None":
    """The polygons of a geometry, made valid; None where there are none.

    Polygons of one geometry may overlap, and holes may reach beyond their outline or each other: the area is what lies
    inside an outline and in none of its holes.
    """
    import shapely
    from shapely.geometry import MultiPolygon

    if not geometry.is_valid or geometry.geom_type == "GeometryCollection":
        geometry = shapely.union_all([_inside(part) for part in parts(geometry) if part.geom_type == "Polygon"])
    polygons = [part for part in parts(geometry) if part.geom_type == "Polygon" and part.area > 0]
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons) if polygons else None


def _inside(polygon: "Geometry") -> "Geometry":
    """What lies inside the outline and in no hole of a polygon that need not be valid."""
    import shapely
    from shapely.geometry import Polygon

    outline, *holes = (shapely.make_valid(Polygon(ring)) for ring in (polygon.exterior, *polygon.interiors))
    return shapely.difference(outline, shapely.union_all(holes))


def parts(geometry: "Geometry") -> Iterator["Geometry"]:
    """The simple geometries in a geometry, at any depth."""
    import shapely

    if not hasattr(geometry, "geoms"):
        yield geometry
        return
    for part in shapely.get_parts(geometry):
        yield from parts(part)


def _class(what: str, properties: Any) -> tuple[str, Colour | None]:
    """Name and colour of the class of a feature; empty and None where it has none."""
    if properties is None:
        return "", None
    if not isinstance(properties, dict):
        raise UserError(f"{what}: its properties are {str(properties)[:60]!r}, expected a mapping; export it again")
    found, colour = properties.get("classification"), None
    if isinstance(found, dict):
        names = found.get("names")
        colour = _colour(found)
        found = ": ".join(map(str, names)) if isinstance(names, list) and names else found.get("name")
    elif found is None and "objectType" not in properties:  # with QuPath, `name` is the object's, not the class's
        found, colour = (
            next((properties[key] for key in NAMES if properties.get(key) is not None), None),
            _colour(properties),
        )
    if found is not None and not isinstance(found, str | int):
        raise UserError(f"{what}: its class is {str(found)[:60]!r}, expected a name; export it again")
    return "" if found is None else _plain(str(found)), colour


def _plain(name: str) -> str:
    """A name in one line, in NFC as legends are read, without characters that steer a terminal or are none."""
    letters = (" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in name)
    return " ".join(unicodedata.normalize("NFC", "".join(letters)).split())


def _colour(found: dict[str, Any]) -> Colour | None:
    """QuPath's [red, green, blue], or the one signed number of its older versions; None for anything else."""
    colour, packed = found.get("color"), found.get("colorRGB")
    if isinstance(packed, int) and not isinstance(packed, bool):
        return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    if isinstance(colour, list) and len(colour) == 3 and all(type(x) is int and 0 <= x <= 255 for x in colour):
        return colour[0], colour[1], colour[2]
    return None


def _crs(path: Path, content: Any) -> str:
    """The name in the member `crs`; empty without one. UserError for one that is unknown."""
    from rasterio import Env
    from rasterio.crs import CRS

    member = content.get("crs") if isinstance(content, dict) else None
    if member is None:
        return ""
    properties = member.get("properties") if isinstance(member, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    try:
        with gdal_errors(), Env():  # outside of an Env, PROJ writes its own line to the terminal
            CRS.from_user_input(name)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: crs is {str(name or member)[:80]!r}, which is unknown; expected a name as EPSG:32614"
        ) from error
    return str(name)


def in_coordinates(regions: Iterable[ClassRegion], place: Place) -> list[ClassRegion]:
    """Regions of an image that lies at `place`, from its pixels to coordinates of its crs."""
    return _moved(regions, np.array(place.transform).reshape(2, 3))


def in_pixels(regions: Iterable[ClassRegion], place: Place) -> list[ClassRegion]:
    """The inverse of `in_coordinates`."""
    matrix = np.vstack([np.array(place.transform).reshape(2, 3), [0, 0, 1]])
    return _moved(regions, np.linalg.inv(matrix)[:2])


def _moved(regions: Iterable[ClassRegion], matrix: NDArray[np.float64]) -> list[ClassRegion]:
    import shapely

    def move(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return xy @ matrix[:, :2].T + matrix[:, 2]

    return [region._replace(geometry=shapely.transform(region.geometry, move)) for region in regions]
