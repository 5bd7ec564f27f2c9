"""User pictures, plain or georeferenced: reading, and writing results in the same format.

Shapes: h, w pixels. Pictures are uint8 (h, w, 3).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ldm.errors import UserError
from ldm.images.cog import CogWriter
from ldm.images.contact_sheet import Pixels, on_background
from ldm.images.picture_files import PICTURE_SUFFIXES, READ_ERRORS, check_pixels, read_file, unreadable
from ldm.images.pyramid_tiff import PyramidWriter
from ldm.images.rasters import Place, Raster, is_raster
from ldm.support.files import atomic_write

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".tif": {"compression": "tiff_deflate"},
    ".tiff": {"compression": "tiff_deflate"},
}
"""formats for writing; everything else becomes PNG"""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
WHOLE_PX = 4096
"""images with a longer side are written as a pyramid"""


class Picture(NamedTuple):
    """Pixels (h, w, 3) and their colour profile (ICC), if any."""

    pixels: Pixels
    profile: bytes | None = None


class Located(NamedTuple):
    """A picture, its georeference if any, and notes on what was read differently than the file says."""

    picture: Picture
    place: Place | None = None
    notes: tuple[str, ...] = ()


def read_picture(path: Path) -> Picture:
    """As `read_located`, the picture alone."""
    return read_located(path).picture


def read_located(path: Path) -> Located:
    """An image of 8 bits per channel, upright, transparent parts on white; scenes are black where they have no data.

    UserError for one that cannot be read correctly (picture_files.py, rasters.py).
    """
    try:
        if is_raster(path):
            return _read_scene(path)
    except UserError:
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    pixels, profile = read_file(path)
    return Located(Picture(on_background(pixels, WHITE), profile))


def _read_scene(path: Path) -> Located:
    with Raster(path) as raster:
        level = raster.levels[0]
        check_pixels(path, level.width, level.height)
        pixels = raster.read(0, 0, 0, level.width, level.height)
        return Located(Picture(on_background(pixels, BLACK)), raster.place, raster.notes)


def listed(given: Sequence[Path]) -> list[Path]:
    """Image files, and those in folders.

    UserError for a missing file, an empty folder, or two names that differ only in suffix.
    """
    paths: list[Path] = []
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: does not exist; correct the path")
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not inside:
            raise UserError(f"{path}: holds no image; expected PNG, JPEG, TIFF, JPEG 2000, WebP, BMP ...")
        paths += inside
    stems = [path.stem for path in paths]
    twice = [path for path in paths if stems.count(path.stem) > 1]
    if twice:
        raise UserError(f"{twice[0]} and {twice[1]}: of one name; expected different ones, so rename one of them")
    return paths


def destination(folder: Path, name: str, height: int, width: int, place: Place | None = None) -> Path:
    """Output path for an input picture `name`; a georeferenced one becomes a GeoTIFF."""
    path = folder / name
    if place is not None:
        return path if path.suffix.lower() in (".tif", ".tiff") else path.with_suffix(".tif")
    if max(height, width) > WHOLE_PX:
        return path.with_suffix(".tiff")
    return path if path.suffix.lower() in FORMATS else path.with_suffix(".png")


def write_picture(path: Path, bands: Iterable[Pixels], profile: bytes | None = None) -> Pixels:
    """Write a picture that comes in bands of rows (rows, w, 3), in the format of its suffix."""
    pixels = np.concatenate(list(bands))
    suffix = path.suffix.lower()
    with atomic_write(path) as partial:
        kind = Image.registered_extensions()[suffix]
        Image.fromarray(pixels).save(partial, format=kind, icc_profile=profile, **FORMATS[suffix])
    return pixels


def write_large(path: Path, bands: Iterable[Pixels], height: int, width: int, mpp: float) -> None:
    """Write a picture as a pyramid, band by band; `mpp` um per pixel."""
    with PyramidWriter(path, height, width, mpp) as writer:
        for band in bands:
            writer.write(band)


def write_scene(path: Path, bands: Iterable[Pixels], height: int, width: int, place: Place) -> Pixels:
    """Write a picture that lies at `place` as a Cloud-Optimised GeoTIFF, and return it, empty where it is large."""
    kept = [np.empty((0, width, 3), np.uint8)]
    with CogWriter(path, height, width, place) as writer:
        for band in bands:
            writer.write(band)
            if max(height, width) <= WHOLE_PX:
                kept.append(band)
    return np.concatenate(kept)
