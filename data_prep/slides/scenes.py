"""Satellite scenes as levels of RGBA pixels in metres (bands and masks: ldm/images/rasters.py).

A scene whose pixels are not upright squares on the ground, to 2 % (in degrees, in Web Mercator away from the equator,
rotated, sheared, upside down), is reprojected while it is read: to the UTM zone of its centre, or to upright axes of
its own system if that is true to scale.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.slides.readers import Box, Pixels
from ldm.errors import UserError
from ldm.images.rasters import Raster, gdal_errors, place_of, read_rgba

if TYPE_CHECKING:
    import rasterio
    from rasterio.crs import CRS

TRUE_TO_GROUND = 0.02
LONGITUDE_LATITUDE = "EPSG:4326"
EQUATOR_M, ECCENTRICITY2 = 6_378_137.0, 0.00669438  # WGS 84: semi-major axis, squared eccentricity


class SceneReader:
    """Reader of a GeoTIFF or another 8-bit raster."""

    background = (0, 0, 0)

    def __init__(self, path: Path) -> None:
        raster = Raster(path)
        self._bands, self.notes, self._levels = raster.bands, raster.notes, raster.levels
        target = _warp_target(self._levels[0], path)
        if target is not None:
            self._levels = [_projected(self._levels[0], target)]
        self.sizes = [(level.width, level.height) for level in self._levels]
        self.size_l0, self.extent = self.sizes[0], Box(0, 0, *self.sizes[0])
        self.mpp: tuple[float, float] | None = None
        scene = self._levels[0]
        self.place = place_of(scene)
        if scene.crs is not None:
            metres = scene.crs.linear_units_factor[1]
            self.mpp = scene.res[0] * metres, scene.res[1] * metres

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        return read_rgba(self._levels[level], self._bands, x_level, y_level, width, height)


def _projected(scene: "rasterio.DatasetReader", target: "CRS") -> "rasterio.DatasetReader":
    """The scene reprojected to `target`, with an alpha band for pixels outside it."""
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.vrt import WarpedVRT

    masked = ColorInterp.alpha in scene.colorinterp
    with gdal_errors():
        return WarpedVRT(scene, crs=target, resampling=Resampling.bilinear, add_alpha=not masked, tolerance=0)


def _warp_target(scene: "rasterio.DatasetReader", path: Path) -> "CRS | None":
    """The target of a reprojection; None when the scene can be read directly, or is not georeferenced."""
    from rasterio.crs import CRS
    from rasterio.transform import xy
    from rasterio.warp import transform

    if scene.crs is None:
        return None
    place = scene.transform
    upright = place.b == place.d == 0 and place.a > 0 > place.e
    row, col = scene.height // 2, scene.width // 2
    xs, ys = xy(place, [row, row, row + 1], [col, col + 1, col], offset="ul")
    try:
        with gdal_errors():
            longitudes, latitudes = transform(scene.crs, LONGITUDE_LATITUDE, xs, ys)
    except OSError as error:
        remedy = "assign one, for example rio edit-info --crs EPSG:32614 FILE"
        raise UserError(f"{path}: its coordinates are in no system of the Earth; {remedy}") from error
    if not (max(map(abs, longitudes)) <= 360 and max(map(abs, latitudes)) <= 90):
        raise UserError(f"{path}: lies at ({xs[0]:g}, {ys[0]:g}) in {scene.crs}, nowhere on Earth; fix its transform")
    if scene.crs.is_projected:
        metres = scene.crs.linear_units_factor[1]
        sides = math.hypot(place.a, place.d) * metres, math.hypot(place.b, place.e) * metres
        ground = _ground_sides(longitudes, latitudes)
        true = all(math.isclose(a, b, rel_tol=TRUE_TO_GROUND) for a, b in zip(sides, ground, strict=True))
        square = math.isclose(*sides, rel_tol=TRUE_TO_GROUND)
        if true:
            return None if upright and square else scene.crs
    zone = min(60, int((longitudes[0] + 180) // 6) + 1)
    return CRS.from_epsg((32600 if latitudes[0] >= 0 else 32700) + zone)


def _ground_sides(longitudes: list[float], latitudes: list[float]) -> tuple[float, float]:
    """Metres from the first place to the second and to the third, on the ellipsoid, for small distances."""
    latitude = math.radians(latitudes[0])
    bulge = 1 - ECCENTRICITY2 * math.sin(latitude) ** 2
    east = EQUATOR_M / math.sqrt(bulge) * math.cos(latitude)  # metres per radian
    north = EQUATOR_M * (1 - ECCENTRICITY2) / bulge**1.5
    first, second = (
        math.hypot(
            east * math.radians(longitudes[k] - longitudes[0]), north * math.radians(latitudes[k] - latitudes[0])
        )
        for k in (1, 2)
    )
    return first, second
