"""Tiny slides for tests: real files that OpenSlide and rasterio open."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    tags: dict[str, Any] = {}
    if mpp is not None:
        tags = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate(levels):
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


SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">
<collection name="c" uuid="u" sizeX="{glass[0]}" sizeY="{glass[1]}" orientation="1"><barcode/>{images}
</collection></scn>"""
SCN_IMAGE = """<image name="i" uuid="u"><creationDate>2020-01-01T00:00:00Z</creationDate>
<device model="Leica SCN400" version="1"/><pixels sizeX="64" sizeY="64">{pages}</pixels>
<view sizeX="{size[0]}" sizeY="{size[1]}" offsetX="{corner[0]}" offsetY="{corner[1]}" spacingZ="0"/><scanSettings>
<objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings><numericalAperture>0.65
</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


def write_leica(
    path: Path, levels: Sequence[NDArray[np.uint8]], glass: tuple[int, int], corner: tuple[int, int], mpp: float
) -> Path:
    """A Leica SCN: the scan lies at `corner` (x, y) of a `glass` (width, height), both in its full resolution."""
    nm = round(mpp * 1000)
    sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in levels]

    def image(sizes: Sequence[tuple[int, int]], first: int, **places: object) -> str:
        pages = (f'<dimension sizeX="{w}" sizeY="{h}" r="{k}" ifd="{first + k}"/>' for k, (w, h) in enumerate(sizes))
        return SCN_IMAGE.format(pages="".join(pages), **places)

    def um(place: tuple[int, int]) -> tuple[int, int]:
        return place[0] * nm, place[1] * nm

    macro = image([(64, 64)], len(levels), size=um(glass), corner=(0, 0), power=1)
    scan = image(sizes, 0, size=um(sizes[0]), corner=um(corner), power=40)
    text = SCN.format(glass=um(glass), images=macro + scan)
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, pixels in enumerate([*levels, np.full((64, 64, 3), 200, np.uint8)]):
            more: dict[str, Any] = {} if number else {"description": text}
            tiff.write(pixels, resolution=(1e4 / mpp / 2**number, 1e4 / mpp / 2**number), **options, **more)
    return path
