"""File formats as levels of RGBA pixels: OpenSlide for whole slides, ldm/images/picture_files.py for plain pictures.

Files that cannot be decoded to the intended colours are refused in one line: file, cause, remedy.
"""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.images.alpha import refuse_alpha
from ldm.images.picture_files import decode_file
from ldm.images.rasters import Place, check_size
from ldm.images.tiff_pages import (
    COLOURS,
    PREMULTIPLIED,
    SPLIT,
    STRAIGHT,
    all_pages,
    check_page,
    full_pages,
    sampled_alpha,
    sampled_tiles,
)

if TYPE_CHECKING:
    import tifffile

Pixels = NDArray[np.uint8]
SAME_SHAPE = 0.01
"""largest relative difference between the aspect ratios of two levels of a slide"""
SIXTEEN_BITS, FILLED = 65535, 0.25
"""largest 16-bit value, and the share of it that a bright-field scan exceeds"""
TIFF_BYTE_ORDERS = {b"II": "<", b"MM": ">"}


class Box(NamedTuple):
    """A rectangle in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int


class Reader(Protocol):
    """A file format: levels of RGBA pixels, finest first."""

    size_l0: tuple[int, int]
    """(width, height) of the whole file"""
    extent: Box
    """the part of it that was scanned"""
    sizes: list[tuple[int, int]]
    """(width, height) of that part at each level"""
    mpp: tuple[float, float] | None
    """um or m per pixel of level 0 in x and y, if stated in the file"""
    background: tuple[int, int, int]
    notes: tuple[str, ...]
    """messages about what was read differently than the file says"""
    place: Place | None
    """georeference of level 0"""

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        """(height, width, 4), inside that part; alpha 0 where nothing was scanned. Raises OSError."""


class OpenSlideReader:
    """Slides that OpenSlide opens; pages of a plain TIFF that are not levels of the slide are ignored."""

    notes: tuple[str, ...] = ()
    place: Place | None = None

    def __init__(self, path: Path) -> None:
        import openslide

        with _openslide_errors():
            self._slide = openslide.OpenSlide(path)
            properties = dict(self._slide.properties)
        tile_px = [int(properties.get(f"openslide.level[0].tile-{side}", 0)) for side in ("width", "height")]
        self.size_l0 = self._slide.dimensions
        check_size(path, self.size_l0, math.prod(tile_px))
        self._levels = self._true_levels(path, properties.get(openslide.PROPERTY_NAME_VENDOR, ""))
        mpp_x, mpp_y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        self.mpp = None if mpp_x is None or mpp_y is None else (mpp_x, mpp_y)
        bounds = [properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height")]
        self.extent = Box(*map(int, bounds)) if all(bounds) else Box(0, 0, *self.size_l0)  # type: ignore[arg-type]
        self.sizes = [self._scanned(self._slide.level_dimensions[level]) for level in self._levels]
        red, green, blue = bytes.fromhex(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF"))
        self.background = red, green, blue

    def _scanned(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size of the scanned part of a level of `size`."""
        width, height = (
            max(1, round(part * level / whole))
            for part, level, whole in zip(self.extent[2:], size, self.size_l0, strict=True)
        )
        return width, height

    def _true_levels(self, path: Path, vendor: str) -> list[int]:
        """Levels that show level 0: with its aspect ratio, and not a mask."""
        sizes = self._slide.level_dimensions
        masks: set[tuple[int, int]] = set()
        if vendor == "generic-tiff":
            masks, self.notes = _check_pages(path)
        if sizes[0] in masks:
            raise UserError(f"{path}: has a mask as large as itself among its levels; take that page out")
        return [k for k, size in enumerate(sizes) if k == 0 or (same_shape(sizes[0], size) and size not in masks)]

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        number = self._levels[level]
        step = self._slide.level_downsamples[number]  # the factor that OpenSlide uses on both axes
        corner_l0 = self.extent.x + round(x_level * step), self.extent.y + round(y_level * step)
        with _openslide_errors():
            return np.asarray(self._slide.read_region(corner_l0, number, (width, height)))


@contextmanager
def _openslide_errors() -> Iterator[None]:
    """OpenSlide's errors as OSError."""
    from openslide import OpenSlideError

    try:
        yield
    except OpenSlideError as error:
        raise OSError(str(error)) from error


class ImageReader:
    """A plain picture, held in memory; its resolution tags are not trusted."""

    background = (255, 255, 255)
    mpp: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    place: Place | None = None

    def __init__(self, path: Path) -> None:
        self._pixels = decode_file(path).pixels
        height, width = self._pixels.shape[:2]
        self.size_l0 = width, height
        self.sizes, self.extent = [self.size_l0], Box(0, 0, width, height)

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        return self._pixels[y_level : y_level + height, x_level : x_level + width]


def open_reader(path: Path) -> Reader:
    """Open a histology slide. UserError, or one of READ_ERRORS, for any other file."""
    cause = diagnose(path)
    if cause:
        raise UserError(f"{path}: {cause}")
    import openslide

    return OpenSlideReader(path) if openslide.OpenSlide.detect_format(path) else ImageReader(path)


def diagnose(path: Path) -> str:
    """Cause and remedy of damage by downloads and copies; empty if none is recognised."""
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        return "is empty (0 bytes); copy or download it again"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a slide; download it again, logged in"
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        return f"its data folder {path.stem} is not beside it; copy that too"
    order = TIFF_BYTE_ORDERS.get(head[:2])
    if order and len(head) >= 16 and head[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
        big = b"+" in head[2:4]
        first_page = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        if first_page >= path.stat().st_size:
            return f"is cut short: {path.stat().st_size} bytes, its index is at {first_page}; copy or download it again"
    return ""


def _check_pages(path: Path) -> tuple[set[tuple[int, int]], tuple[str, ...]]:
    """Sizes of a plain TIFF's masks, and notes.

    UserError for pixels that OpenSlide would show rotated or in other colours, and for more than one picture.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        first, others = full_pages(tiff)
        turned = first.tags.valueof("Orientation", 1)
        if turned != 1:
            raise UserError(f"{path}: is stored turned (orientation {turned}), expected 1; turn it with vips autorot")
        check_page(path, first, bits=(8, 16))
        size = first.imagewidth, first.imagelength
        alike = [page for page in others if (page.imagewidth, page.imagelength) == size]
        if alike:
            raise UserError(f"{path}: has {1 + len(alike)} pages of {size[0]}x{size[1]} px, expected one; {SPLIT}")
        check_samples(path, first)
        pages = all_pages(tiff)
        masks = {(page.imagewidth, page.imagelength) for page in pages if page.subfiletype & tifffile.FILETYPE.MASK}
        sizes = ", ".join(f"{page.imagewidth}x{page.imagelength}" for page in others)
        return masks, (f"pages that are no levels of the first were left out: {sizes} px",) if others else ()


def check_samples(path: Path, page: "tifffile.TiffPage") -> None:
    """UserError for values that would be misread: 12 bits in 16, or a fourth band that is not alpha."""
    extra = page.samplesperpixel - COLOURS[page.photometric]
    if extra and not (extra == 1 and page.extrasamples[0] in (PREMULTIPLIED, STRAIGHT)):
        raise UserError(
            f"{path}: has {page.samplesperpixel} channels, expected 3; take the first three: "
            "vips extract_band IN OUT 0 --n 3"
        )
    refuse_alpha(path, sampled_alpha(page))
    if page.bitspersample == 16:
        largest = max((int(tile.max()) for tile in sampled_tiles(page)), default=SIXTEEN_BITS)
        if largest < FILLED * SIXTEEN_BITS:
            raise UserError(
                f"{path}: its 16-bit values reach {largest} of {SIXTEEN_BITS}, so it would be dark; scale it to 8 bits"
                f", for example vips linear IN OUT {255 / max(1, largest):.4g} 0 --uchar"
            )


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether `other` is `size` shrunk, within SAME_SHAPE and a rounding of one pixel per side."""
    (width, height), (other_width, other_height) = size, other
    rounding = 1 / other_width + 1 / other_height
    return math.isclose(other_width / width, other_height / height, rel_tol=SAME_SHAPE + rounding)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
