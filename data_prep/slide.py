"""Slides as planes of pixels at a known size on the ground.

Three planes, and each coordinate carries its own: `_l0` pixels of the file's full resolution, `_level` pixels of one of
its levels, and plain `x, y` pixels of a Plane, at `mpp` um (histology) or m (satellite) a pixel. A Plane reads from the
coarsest level that is still as fine as itself and resamples the rest of the way. Positions follow from the sizes alone,
so a level of factor 4.0161 does not drift.

OpenSlide reads whole slides, rasterio satellite scenes, Pillow plain images (which need a stated mpp).
"""

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import openslide
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from ldm.errors import UserError

Pixels = NDArray[np.uint8]
MPP_RANGE = (0.05, 5.0)
"""um or m per pixel that a file may claim; a 72-dpi tag claims 352.8"""
UPSAMPLING = 1.1
"""a scan may be this much coarser than what is read from it"""
SAME_MPP = 0.02
"""relative difference between a file's mpp and a stated one that is not a contradiction"""


class Reader(Protocol):
    """A file format: levels of RGBA pixels, finest first."""

    sizes: list[tuple[int, int]]
    """(width, height) of each level"""
    mpp: float | None
    """of level 0, when the file says so"""
    background: tuple[int, int, int]

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        """(height, width, 4), inside the level; alpha 0 where nothing was scanned."""


class OpenSlideReader:
    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(path)
        self.sizes = list(self._slide.level_dimensions)
        mpp_x, mpp_y = (self._slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy")
        self.mpp = _square(float(mpp_x), float(mpp_y), path) if mpp_x and mpp_y else None
        colour = self._slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        red, green, blue = bytes.fromhex(colour)
        self.background = red, green, blue

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        (width_l0, height_l0), (width_level, height_level) = self.sizes[0], self.sizes[level]
        corner_l0 = round(x_level * width_l0 / width_level), round(y_level * height_l0 / height_level)
        return np.asarray(self._slide.read_region(corner_l0, level, (width, height)))


class RasterReader:
    """Satellite scenes: red, green and blue by their colour interpretation, in metres; nodata is transparent."""

    background = (0, 0, 0)

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            first = rasterio.open(path)
            overviews = [rasterio.open(path, overview_level=level) for level in range(len(first.overviews(1)))]
        self._levels = [first, *overviews]
        self.sizes = [(level.width, level.height) for level in self._levels]
        if any(kind != "uint8" for kind in first.dtypes):
            remedy = "scale them with gdal_translate -ot Byte -scale"
            raise UserError(f"{path}: bands are {', '.join(first.dtypes)}, expected uint8; {remedy}")
        wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        missing = [colour.name for colour in wanted if colour not in first.colorinterp]
        if missing:
            found = ", ".join(colour.name for colour in first.colorinterp)
            remedy = "name them with gdal_edit.py -colorinterp_1 red ..."
            raise UserError(f"{path}: bands are {found}, without {', '.join(missing)}; {remedy}")
        self._bands = [first.colorinterp.index(colour) + 1 for colour in wanted]
        self.mpp = self._metres(first, path)

    @staticmethod
    def _metres(scene: rasterio.DatasetReader, path: Path) -> float | None:
        if scene.crs is None:
            return None
        if not scene.crs.is_projected:
            remedy = "reproject with gdalwarp -t_srs to a UTM zone"
            raise UserError(f"{path}: pixels are in degrees ({scene.crs}), expected metres; {remedy}")
        unit = scene.crs.linear_units_factor[1]
        return _square(scene.res[0] * unit, scene.res[1] * unit, path)

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        scene, window = self._levels[level], Window(x_level, y_level, width, height)
        return np.dstack([*scene.read(self._bands, window=window), scene.dataset_mask(window=window)])


class ImageReader:
    """A plain picture, held in memory; its own resolution tags are not trusted."""

    background = (255, 255, 255)
    mpp: float | None = None

    def __init__(self, path: Path) -> None:
        with Image.open(path) as image:
            self._pixels = np.asarray(image.convert("RGBA"))
        self.sizes = [(self._pixels.shape[1], self._pixels.shape[0])]

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        return self._pixels[y_level : y_level + height, x_level : x_level + width]


@dataclass(frozen=True)
class Slide:
    """An open file and its resolution, `mpp` um or m per level-0 pixel."""

    path: Path
    reader: Reader
    mpp: float

    @property
    def size_l0(self) -> tuple[int, int]:
        """(width, height)"""
        return self.reader.sizes[0]


def open_slide(path: str | Path, kind: str, mpp: float | None = None) -> Slide:
    """Open a slide of `kind` ("histology" or "satellite"); `mpp` states the resolution that a file does not.

    Raises UserError for a file that cannot be read, and for a resolution that is missing, absurd or contradictory.
    """
    path = Path(path)
    try:
        reader = _reader(path, kind)
    except (openslide.OpenSlideError, RasterioError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a {kind} slide ({error}); convert it, or take it out") from error
    found = mpp if reader.mpp is None else reader.mpp
    per_pixel = "m per pixel" if kind == "satellite" else "um per pixel"
    if found is None:
        raise UserError(f"{path}: does not say its {per_pixel}; state it, for example mpp=0.5")
    low, high = MPP_RANGE
    if not low <= found <= high:
        raise UserError(f"{path}: says {found:g} {per_pixel}, expected {low} to {high}; correct its resolution tag")
    if mpp is not None and abs(mpp / found - 1) > SAME_MPP:
        raise UserError(f"{path}: says {found:g} {per_pixel}, but mpp={mpp:g} is stated; leave mpp out or correct it")
    return Slide(path, reader, found)


def _reader(path: Path, kind: str) -> Reader:
    if kind == "satellite":
        return RasterReader(path)
    return OpenSlideReader(path) if openslide.OpenSlide.detect_format(path) else ImageReader(path)


def _square(mpp_x: float, mpp_y: float, path: Path) -> float:
    """One resolution for both axes."""
    if not math.isclose(mpp_x, mpp_y, rel_tol=SAME_MPP):
        raise UserError(f"{path}: says {mpp_x:g} by {mpp_y:g} per pixel, expected square pixels; resample it")
    return math.sqrt(mpp_x * mpp_y)


class Source(NamedTuple):
    """Where a Plane's pixels come from."""

    level: int
    mpp: float
    """of that level"""
    factor: float
    """level pixels per plane pixel; 1 when none are resampled"""


class Plane:
    """A slide at `mpp` per pixel, from `origin_l0` (x, y) on: `width` x `height` pixels, background around them."""

    def __init__(self, slide: Slide, mpp: float, origin_l0: tuple[float, float] = (0.0, 0.0)) -> None:
        """Raises UserError when the slide was scanned more than 10 % coarser than `mpp`."""
        if slide.mpp > mpp * UPSAMPLING:
            found = f"{slide.path}: scanned at {slide.mpp:g} per pixel"
            raise UserError(f"{found}, expected {mpp:g} or finer; take it out of the cohort")
        self.slide, self.mpp, self.origin_l0 = slide, mpp, origin_l0
        self.width, self.height = (
            max(1, round((size - at) * slide.mpp / mpp)) for size, at in zip(slide.size_l0, origin_l0, strict=True)
        )

    @cached_property
    def source(self) -> Source:
        """The coarsest level as fine as the plane, to 1 %; level 0 when there is none."""
        width_l0 = self.slide.size_l0[0]
        levels_mpp = [self.slide.mpp * width_l0 / width for width, _ in self.slide.reader.sizes]
        level = max((k for k, mpp in enumerate(levels_mpp) if mpp <= self.mpp * 1.01), default=0)
        factor = self.mpp / levels_mpp[level]
        drift = abs(factor - 1) * max(self.width, self.height)
        return Source(level, levels_mpp[level], 1.0 if drift < 1 else factor)

    @cached_property
    def _origin_level(self) -> tuple[float, float]:
        """Where the plane begins on its source level; on a whole pixel when none are resampled."""
        level_width, level_height = self.slide.reader.sizes[self.source.level]
        (width_l0, height_l0), (x_l0, y_l0) = self.slide.size_l0, self.origin_l0
        x, y = x_l0 * level_width / width_l0, y_l0 * level_height / height_l0
        return (round(x), round(y)) if self.source.factor == 1 else (x, y)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width, 3): pixels from (x, y) on; background where nothing was scanned, and outside."""
        pixels, box = self._window(x, y, width, height)
        return self._resample(_composite(pixels, self.slide.reader.background), (width, height), box)

    def coverage(self, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width): 255 where the slide was scanned, 0 where not, and outside."""
        pixels, box = self._window(x, y, width, height)
        return self._resample(pixels[..., 3], (width, height), box)

    def _window(self, x: int, y: int, width: int, height: int) -> tuple[Pixels, tuple[float, float, float, float]]:
        """The level's pixels (h, w, 4) around a window of the plane, and where in them the window lies."""
        factor = self.source.factor
        margin = 0 if factor == 1 else math.ceil(2 * factor)  # the resampling filter's reach
        x_level, y_level = (at * factor + origin for at, origin in zip((x, y), self._origin_level, strict=True))
        left, top = math.floor(x_level) - margin, math.floor(y_level) - margin
        right, bottom = math.ceil(x_level + width * factor) + margin, math.ceil(y_level + height * factor) + margin
        box = (x_level - left, y_level - top, x_level + width * factor - left, y_level + height * factor - top)
        return self._read_level(left, top, right - left, bottom - top), box

    def _resample(self, pixels: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
        factor = self.source.factor
        if factor == 1:
            return pixels
        whole = math.isclose(factor, round(factor), rel_tol=1e-9)
        kernel = Image.Resampling.BOX if whole else Image.Resampling.BICUBIC  # BOX: plain means of whole pixels
        return np.asarray(Image.fromarray(pixels).resize(size, kernel, box=box))

    def _read_level(self, left: int, top: int, width: int, height: int) -> Pixels:
        """(height, width, 4) of the source level, transparent outside it."""
        reader, level = self.slide.reader, self.source.level
        level_width, level_height = reader.sizes[level]
        x0, x1 = (min(max(x, 0), level_width) for x in (left, left + width))
        y0, y1 = (min(max(y, 0), level_height) for y in (top, top + height))
        canvas = np.zeros((height, width, 4), np.uint8)
        if x0 < x1 and y0 < y1:
            try:
                canvas[y0 - top : y1 - top, x0 - left : x1 - left] = reader.read(level, x0, y0, x1 - x0, y1 - y0)
            except (openslide.OpenSlideError, RasterioError) as error:
                place = f"level {level} at ({x0}, {y0})"
                raise UserError(
                    f"{self.slide.path}: {place} cannot be read ({error}); convert or replace the file"
                ) from error
        return canvas


def _composite(pixels: Pixels, background: tuple[int, int, int]) -> Pixels:
    """RGBA (h, w, 4) over the background colour -> (h, w, 3)."""
    if pixels[..., 3].min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    colour, alpha = pixels[..., :3], pixels[..., 3:].astype(np.float32) / 255
    return np.rint(colour * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)
