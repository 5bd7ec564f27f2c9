"""Named bands of numbers as one file: OME-TIFF, or a GeoTIFF where they lie at a place.

Shapes: h, w pixels, b bands. Values are float32, compressed without loss.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldm.images.rasters import Place, gdal_errors
from ldm.support.files import atomic_write

Band = NDArray[np.float32]
TILE_PX = 256


def band_suffix(place: Place | None) -> str:
    """.ome.tiff, by which readers know the format, or .tif."""
    return ".ome.tiff" if place is None else ".tif"


def write_bands(path: Path, bands: Mapping[str, Band], um: float, place: Place | None = None) -> None:
    """Write bands (h, w) under their names; pixels are of `um` micrometres where there is no `place`."""
    stacked = np.stack(list(bands.values())).astype(np.float32)  # (b, h, w)
    with atomic_write(path, lambda: stacked.nbytes) as partial:
        if place is None:
            _ome(partial, stacked, list(bands), um)
        else:
            _geotiff(partial, stacked, list(bands), place)


def _ome(path: Path, stacked: Band, names: list[str], um: float) -> None:
    import tifffile

    about = {"axes": "CYX", "Channel": {"Name": names}}
    size = {f"PhysicalSize{axis}": um for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(stacked, photometric="minisblack", compression="zlib", predictor=True, metadata={**about, **size})


def _geotiff(path: Path, stacked: Band, names: list[str], place: Place) -> None:
    import rasterio
    from rasterio.crs import CRS
    from rasterio.transform import Affine

    count, height, width = stacked.shape
    with gdal_errors():
        crs = CRS.from_wkt(place.crs) if place.crs else None
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            crs=crs,
            transform=Affine(*place.transform),
            **{"count": count, "height": height, "width": width, "dtype": "float32"},
            **{"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "compress": "deflate", "predictor": 3},
        ) as file:
            file.write(stacked)
            for number, name in enumerate(names, 1):
                file.set_band_description(number, name)
