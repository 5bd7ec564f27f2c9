"""Satellite scenes as levels of RGBA pixels in metres: red, green and blue by their colour interpretation.

A pixel without data (nodata value, mask or alpha of 0) is transparent. A scene whose pixels are no upright squares on
the ground, to 2 %: in degrees, in Web Mercator away from the equator, rotated, sheared, upside down, is projected
while it is read: to the UTM zone of its centre, or upright on its own axes when those are true to the ground.
"""

import math
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning
from rasterio.transform import xy
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from rasterio.windows import Window

from data_prep.readers import Box, Pixels, check_size
from ldm.errors import UserError

DRIVERS = {"GTiff", "COG", "JP2OpenJPEG", "PNG", "JPEG", "HFA", "NITF"}
"""formats that hold their own pixels; a VRT would read whatever it names"""
WANTED = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
TRUE_TO_GROUND = 0.02
LONGITUDE_LATITUDE = CRS.from_epsg(4326)
EQUATOR_M, ECCENTRICITY2 = 6_378_137.0, 0.00669438  # WGS 84: half axis, squared eccentricity


class SceneReader:
    """A GeoTIFF or another raster of eight bits."""

    background = (0, 0, 0)

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            scene = rasterio.open(path)
            if scene.driver not in DRIVERS:
                raise UserError(f"{path}: is {scene.driver}, expected GeoTIFF; convert it with gdal_translate")
            check_size(path, (scene.width, scene.height), math.prod(scene.block_shapes[0]))
            self._bands = _colour_bands(scene, path)
            target = _warp_target(scene, path)
            if target is None:
                overviews = [rasterio.open(path, overview_level=k) for k in range(len(scene.overviews(1)))]
                self._levels = [scene, *overviews]
            else:
                transparent = ColorInterp.alpha in scene.colorinterp
                scene = WarpedVRT(
                    scene, crs=target, resampling=Resampling.bilinear, add_alpha=not transparent, tolerance=0
                )
                self._levels = [scene]
        self.sizes = [(level.width, level.height) for level in self._levels]
        self.size_l0, self.extent = self.sizes[0], Box(0, 0, *self.sizes[0])
        self.mpp: tuple[float, float] | None = None
        if scene.crs is not None:
            metres = scene.crs.linear_units_factor[1]
            self.mpp = scene.res[0] * metres, scene.res[1] * metres

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        scene, window = self._levels[level], Window(x_level, y_level, width, height)
        if isinstance(scene, WarpedVRT):
            seen = scene.read(scene.colorinterp.index(ColorInterp.alpha) + 1, window=window)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NodataShadowWarning)  # of two masks, nodata counts
                seen = scene.dataset_mask(window=window)
        return np.dstack([*scene.read(self._bands, window=window), np.where(seen, np.uint8(255), np.uint8(0))])


def _colour_bands(scene: rasterio.DatasetReader, path: Path) -> list[int]:
    """Numbers of the red, green and blue band. UserError when they have more than eight bits or no names."""
    if any(kind != "uint8" for kind in scene.dtypes):
        remedy = "scale all scenes alike, for example gdal_translate -ot Byte -scale 0 3000 0 255"
        raise UserError(f"{path}: bands are {', '.join(scene.dtypes)}, expected uint8; {remedy}")
    missing = [colour.name for colour in WANTED if colour not in scene.colorinterp]
    if missing:
        found = ", ".join(colour.name for colour in scene.colorinterp)
        remedy = "name them in order, for NAIP: rio edit-info --colorinterp red,green,blue,undefined FILE"
        raise UserError(f"{path}: bands are {found}, without {', '.join(missing)}; {remedy}")
    return [scene.colorinterp.index(colour) + 1 for colour in WANTED]


def _warp_target(scene: rasterio.DatasetReader, path: Path) -> CRS | None:
    """Where to project a scene; None when it can be read as it is, or does not say where it lies."""
    if scene.crs is None:
        return None
    place = scene.transform
    upright = place.b == place.d == 0 and place.a > 0 > place.e
    row, col = scene.height // 2, scene.width // 2
    xs, ys = xy(place, [row, row, row + 1], [col, col + 1, col], offset="ul")
    try:
        longitudes, latitudes = transform(scene.crs, LONGITUDE_LATITUDE, xs, ys)
    except CPLE_BaseError as error:
        remedy = "assign one, for example rio edit-info --crs EPSG:32614 FILE"
        raise UserError(f"{path}: its coordinates are in no system of the Earth; {remedy}") from error
    if not (max(map(abs, longitudes)) <= 360 and max(map(abs, latitudes)) <= 90):
        raise UserError(f"{path}: lies at ({xs[0]:g}, {ys[0]:g}) in {scene.crs}, nowhere on Earth; mend its transform")
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
    """Metres from the first place to the second and to the third, on the ellipsoid; they are near."""
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
