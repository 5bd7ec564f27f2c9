"""Tiny slides for tests: real files that OpenSlide and rasterio open."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import tifffile
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

GLASS = 243


def tissue_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Glass with a coloured, textured disc of tissue over most of the picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y / height - 0.4, x / width - 0.4) < 0.45
    colour = np.array([200, 90, 150]) + rng.integers(-40, 40, (height, width, 3))
    return np.where(inside[..., None], colour, GLASS).astype(np.uint8)


def write_slide(path: Path, levels: Sequence[NDArray[np.uint8]], mpp: float | None) -> Path:
    """A tiled TIFF without loss, a page a level; `mpp` of the first in the resolution tags, None for no tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate(levels):
            tags = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
            kind = 1 if number else 0
            tiff.write(pixels, tile=(64, 64), photometric="rgb", subfiletype=kind, metadata=None, **tags)
    return path


def write_scene(
    path: Path, bands: NDArray[np.uint8], metres: float = 1.0, crs: str = "EPSG:32614", **more: object
) -> Path:
    """(bands, h, w) as a GeoTIFF: red, green, blue, then undefined bands."""
    count, height, width = bands.shape
    layout = {"count": count, "height": height, "width": width, "dtype": bands.dtype, "crs": crs}
    transform = from_origin(400_000, 4_000_000, metres, metres)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, photometric="RGB", **layout, **more) as file:
        file.write(bands)
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined][:count]
    return path
