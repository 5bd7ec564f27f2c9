"""Regions as GeoJSON that QuPath and a GIS open: `ldm.images.geojson` says in what form."""

import json
import math
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm.errors import UserError
from ldm.images.geojson import ClassRegion, features_of, parsed
from ldm.images.rasters import gdal_errors
from ldm.support.files import write_text

DECIMALS = {"pixels": 2, "degrees": 8}


def write_regions(path: str | Path, regions: Iterable[ClassRegion], crs: str = "") -> None:
    """Write regions as GeoJSON that QuPath (pixels) and GIS (with `crs`, WKT or a name) open; equal regions give equal
    bytes."""
    from rasterio.crs import CRS

    decimals, member = DECIMALS["pixels"], {}
    if crs:
        with gdal_errors():
            found = CRS.from_user_input(crs)
        code = found.to_epsg()
        name = f"urn:ogc:def:crs:EPSG::{code}" if code else found.to_wkt()
        member = {"crs": {"type": "name", "properties": {"name": name}}}
        decimals = DECIMALS["degrees"] if found.is_geographic else decimals
    features = [_feature(number, region, decimals) for number, region in enumerate(regions)]
    write_text(path, json.dumps({"type": "FeatureCollection", **member, "features": features}) + "\n")


def _feature(number: int, region: ClassRegion, decimals: int) -> dict[str, Any]:
    import shapely
    from shapely.geometry import mapping

    geometry = mapping(shapely.transform(region.geometry, lambda corners: corners.round(decimals)))
    properties: dict[str, Any] = {"objectType": "annotation"}
    if region.name:
        properties["classification"] = {"name": region.name}
        if region.colour is not None:
            properties["classification"]["color"] = list(region.colour)
    if values := {name: value for name, value in region.values.items() if math.isfinite(value)}:
        properties["measurements"] = values
    return {"type": "Feature", "id": _id(number, geometry), "geometry": geometry, "properties": properties}


def _id(number: int, geometry: Any) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{number} {json.dumps(geometry)}"))


def written_here(path: Path) -> bool:
    """Whether the areas in a file are as `write_regions` wrote them, so that it holds nobody's own work."""
    try:
        found = list(features_of(path, parsed(path)))
    except UserError:
        return False
    return all(each.get("id") == _id(number, each.get("geometry")) for number, each in enumerate(found))
