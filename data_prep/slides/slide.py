"""Slides as planes of pixels at a given physical resolution.

Names tell a coordinate's plane: `_l0` are pixels of the file's full resolution, `_level` pixels of one of its levels,
and plain `x, y` pixels of a Plane, at `mpp` um (histology) or m (satellite) per pixel. A Plane begins at `origin_l0`,
by default the corner of the scanned area. It reads the coarsest level that is at least as fine as itself, and
resamples. Positions are computed from the sizes, per axis, so they do not drift at downsampling factors such as 4.0161.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.slides.ome import open_ome
from data_prep.slides.readers import Pixels, Reader, open_reader
from ldm.errors import UserError
from ldm.images.contact_sheet import on_background
from ldm.images.picture_files import READ_ERRORS
from ldm.images.rasters import Place

MPP_RANGE = (0.05, 5.0)
"""plausible um or m per pixel of a file; a 72-dpi tag means 352.8"""
UPSAMPLING = 1.1
"""largest ratio of a scan's um per pixel to that of the plane"""
SAME_MPP = 0.02
"""tolerated relative difference between two statements of a resolution"""
UNITS = {"histology": "um", "satellite": "m"}


class UnreadableError(UserError):
    """A part of a slide cannot be read, even after reopening the file."""


@dataclass
class Slide:
    """An open file and its resolution, `mpp` um or m per level-0 pixel."""

    path: Path
    kind: str
    reader: Reader
    mpp: float
    mpp_from: str
    """who says so: "file", "config" or "table" """

    @property
    def size_l0(self) -> tuple[int, int]:
        """(width, height)"""
        return self.reader.size_l0

    def reopen(self) -> None:
        """Reopen the file after an error, since OpenSlide then refuses all further reads."""
        self.reader = _reader(self.path, self.kind)


def open_slide(path: str | Path, kind: str, mpp: float | None = None, table_mpp: float | None = None) -> Slide:
    """Open a slide of `kind` ("histology" or "satellite").

    Its resolution is that of the table, else of the file, else `mpp`, the config's value for all slides.
    Raises UserError for a file that cannot be read, and for a resolution that is missing, absurd or contradictory.
    """
    path = Path(path)
    try:
        reader = _reader(path, kind)
    except UserError:
        raise
    except READ_ERRORS as error:
        raise UserError(f"{path}: cannot be read as a {kind} slide ({error}); copy it again, or convert it") from error
    return Slide(path, kind, reader, *_resolution(path, kind, reader.mpp, mpp, table_mpp))


def _reader(path: Path, kind: str) -> Reader:
    if kind == "satellite":
        from data_prep.slides.scenes import SceneReader

        return SceneReader(path)
    return open_ome(path) or open_reader(path)


def _resolution(
    path: Path, kind: str, tag: tuple[float, float] | None, mpp: float | None, table_mpp: float | None
) -> tuple[float, str]:
    """um or m per pixel, and its source."""
    unit, (low, high) = f"{UNITS[kind]} per pixel", MPP_RANGE
    for name, stated in (("mpp", mpp), ("mpp of the table", table_mpp)):
        if stated is not None and not low <= stated <= high:
            raise UserError(f"{path}: {name} is {stated:g} {unit}, expected {low} to {high}; correct it")
    if table_mpp is not None:
        return table_mpp, "table"
    remedy = "pass --mpp, or give it in a table's column mpp"
    if tag is None:
        if mpp is None:
            raise UserError(f"{path}: does not say its {unit}; {remedy}")
        return mpp, "config"
    found = f"{path}: says {' by '.join(f'{value:g}' for value in dict.fromkeys(tag))} {unit}"
    sane = all(low <= value <= high for value in tag)
    if not (sane and math.isclose(*tag, rel_tol=SAME_MPP)):
        if mpp is None:
            raise UserError(f"{found}, expected {'square pixels' if sane else f'{low} to {high}'}; {remedy}")
        return mpp, "config"
    own = math.sqrt(math.prod(tag))
    if mpp is not None and not math.isclose(mpp, own, rel_tol=SAME_MPP):
        raise UserError(f"{found}, but mpp={mpp:g} is stated; leave mpp out, or give this slide a row in a table")
    return own, "file"


class SlideSource(NamedTuple):
    """The level that a Plane reads from."""

    level: int
    mpp: float
    """of that level"""
    step_x: float
    step_y: float
    """level pixels per plane pixel; 1 without resampling"""


class Plane:
    """A slide at `mpp` per pixel from `origin_l0` on: `width` x `height` pixels, background around them."""

    def __init__(self, slide: Slide, mpp: float, origin_l0: tuple[float, float] | None = None) -> None:
        """Raises UserError when the slide was scanned more than 10 % coarser than `mpp`."""
        if slide.mpp > mpp * UPSAMPLING:
            found = f"{slide.path}: scanned at {slide.mpp:g} {UNITS[slide.kind]} per pixel"
            raise UserError(f"{found}, expected {mpp:g} or finer; take it out of the cohort")
        self.slide, self.mpp = slide, mpp
        extent = slide.reader.extent
        corner = (0.0, 0.0) if origin_l0 is None else (origin_l0[0] - extent.x, origin_l0[1] - extent.y)
        self.width, self.height = (
            max(1, round((size - start) * slide.mpp / mpp)) for size, start in zip(extent[2:], corner, strict=True)
        )
        self._corner = self._on_pixels(corner)
        """origin in level-0 pixels of the scanned area"""
        self.origin_l0 = extent.x + self._corner[0], extent.y + self._corner[1]

    def _on_pixels(self, corner: tuple[float, float]) -> tuple[float, float]:
        """The place itself or, without resampling, the pixel corner at or just before it."""
        if (self.source.step_x, self.source.step_y) != (1, 1):
            return corner
        x_step, y_step = self._downsample(self.source.level)
        return math.floor(corner[0] / x_step) * x_step, math.floor(corner[1] / y_step) * y_step

    def _downsample(self, level: int) -> tuple[float, float]:
        """Level-0 pixels per pixel of a level, in x and y."""
        (width_l0, height_l0), (width, height) = self.slide.reader.sizes[0], self.slide.reader.sizes[level]
        return width_l0 / width, height_l0 / height

    @cached_property
    def source(self) -> SlideSource:
        """The coarsest level as fine as the plane, to 1 %; level 0 when there is none."""
        steps = [self._downsample(level) for level in range(len(self.slide.reader.sizes))]
        levels_mpp = [self.slide.mpp * math.sqrt(x * y) for x, y in steps]
        level = max((k for k, mpp in enumerate(levels_mpp) if mpp <= self.mpp * 1.01), default=0)
        step_x, step_y = (self.mpp / (self.slide.mpp * step) for step in steps[level])
        drift = max(abs(step_x - 1) * self.width, abs(step_y - 1) * self.height)
        return SlideSource(level, levels_mpp[level], *((1.0, 1.0) if drift < 1 else (step_x, step_y)))

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width, 3): pixels from (x, y) on; background where nothing was scanned, and outside.

        Raises UnreadableError.
        """
        pixels, box = self._window(x, y, width, height)
        return self._resample(on_background(pixels, self.slide.reader.background), (width, height), box)

    def coverage(self, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width): 255 where the slide was scanned, 0 elsewhere. Raises UnreadableError."""
        pixels, box = self._window(x, y, width, height)
        return self._resample(pixels[..., 3], (width, height), box)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the scanned area, in pixels of the plane."""
        scale, (x, y), extent = self.mpp / self.slide.mpp, self._corner, self.slide.reader.extent
        return -x / scale, -y / scale, (extent.width - x) / scale, (extent.height - y) / scale

    @property
    def place(self) -> Place | None:
        """Georeference of the plane; None without one."""
        own = self.slide.reader.place
        return None if own is None else own.moved(*self.origin_l0).scaled(self.mpp / self.slide.mpp)

    def corner_l0(self, x: int, y: int) -> tuple[int, int]:
        """Level-0 position of a pixel's corner, rounded to a pixel."""
        scale = self.mpp / self.slide.mpp
        return round(self.origin_l0[0] + x * scale), round(self.origin_l0[1] + y * scale)

    def _window(self, x: int, y: int, width: int, height: int) -> tuple[Pixels, tuple[float, float, float, float]]:
        """The level's pixels (h, w, 4) around a window of the plane, and the window's position in them."""
        source, (down_x, down_y) = self.source, self._downsample(self.source.level)
        x0, y0 = self._corner[0] / down_x + x * source.step_x, self._corner[1] / down_y + y * source.step_y
        if (source.step_x, source.step_y) == (1, 1):
            return self._read_level(round(x0), round(y0), width, height), (0, 0, width, height)
        x1, y1 = x0 + width * source.step_x, y0 + height * source.step_y
        margin = 0 if _whole(x0, y0, source) else math.ceil(2 * max(1, source.step_x, source.step_y))  # bicubic
        left, top, right, bottom = (
            math.floor(x0) - margin,
            math.floor(y0) - margin,
            math.ceil(x1) + margin,
            math.ceil(y1) + margin,
        )
        pixels = self._read_level(left, top, right - left, bottom - top)
        return pixels, (x0 - left, y0 - top, x1 - left, y1 - top)

    def _resample(self, pixels: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
        if (self.source.step_x, self.source.step_y) == (1, 1):
            return pixels
        whole = _whole(box[0], box[1], self.source)
        kernel = Image.Resampling.BOX if whole else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(pixels).resize(size, kernel, box=box))

    def _read_level(self, left: int, top: int, width: int, height: int) -> Pixels:
        """(height, width, 4) of the source level, transparent outside the scanned area."""
        level_width, level_height = self.slide.reader.sizes[self.source.level]
        x0, x1 = (min(max(x, 0), level_width) for x in (left, left + width))
        y0, y1 = (min(max(y, 0), level_height) for y in (top, top + height))
        canvas = np.zeros((height, width, 4), np.uint8)
        if x0 < x1 and y0 < y1:
            canvas[y0 - top : y1 - top, x0 - left : x1 - left] = self._read_twice(x0, y0, x1 - x0, y1 - y0)
        return canvas

    def _read_twice(self, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        """Read, with a second attempt after reopening the file."""
        window = (self.source.level, x_level, y_level, width, height)
        try:
            return self.slide.reader.read(*window)
        except OSError:
            self.slide.reopen()
        try:
            return self.slide.reader.read(*window)
        except OSError as error:
            self.slide.reopen()
            place = f"level {self.source.level} at ({x_level}, {y_level})"
            raise UnreadableError(
                f"{self.slide.path}: {place} cannot be read ({error}); convert or replace the file"
            ) from error


Read = Callable[[int, int, int, int], Pixels]
"""x, y, width, height -> pixels (height, width, ...): Plane.read or Plane.coverage"""


def read_with_recovery(
    read: Read, window: tuple[int, int, int, int], step: int, blank: NDArray[np.uint8]
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Read a `window` (x, y, width, height); if that fails, in parts, down to squares of `step`.

    Returns (height, width, ...) and the mask (height / step, width / step) of unreadable squares, filled with `blank`.
    """
    x, y, width, height = window
    rows, cols = height // step, width // step
    try:
        return read(x, y, width, height), np.zeros((rows, cols), bool)
    except UnreadableError:
        if rows == cols == 1:
            return np.broadcast_to(blank, (step, step, *blank.shape)), np.ones((1, 1), bool)
    if rows >= cols:
        half, axis = rows // 2 * step, 0
        windows = (x, y, width, half), (x, y + half, width, height - half)
    else:
        half, axis = cols // 2 * step, 1
        windows = (x, y, half, height), (x + half, y, width - half, height)
    parts, lost = zip(*(read_with_recovery(read, part, step, blank) for part in windows), strict=True)
    return np.concatenate(parts, axis), np.concatenate(lost, axis)


def _whole(x_level: float, y_level: float, source: SlideSource) -> bool:
    """Whether pixels from this position on are means of whole pixels of the level."""
    return all(
        math.isclose(edge, round(edge), abs_tol=1e-6) for edge in (x_level, y_level, source.step_x, source.step_y)
    )
