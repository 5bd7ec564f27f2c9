"""OME-TIFF slides: pixel size with unit from OME-XML, levels from SubIFDs, tiles through tifffile.

The largest image of a file is the slide; label and macro images are smaller. It must be one plane of grey or RGB:
fluorescence channels, stacks and series are refused.

(OME-TIFF specification 6.0; OME schema 2016-06: Image, Pixels, Channel, TiffData.)

Shapes: `_level` pixels of a level. Pixels are uint8 (h, w, 4).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from data_prep.slides.readers import Box, Pixels, check_samples, same_shape
from ldm.errors import UserError
from ldm.images.picture_files import READ_ERRORS, is_tiff
from ldm.images.rasters import Place, check_size
from ldm.images.tiff_pages import DECODING_ERRORS, all_pages, check_page, colours, is_reduced, read_tile

if TYPE_CHECKING:
    import tifffile

UM = {"pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
UM |= {"in": 25_400.0}
"""units of length in OME-XML in um; others (pixel, reference frame) are not lengths"""
RESOLUTION_UM = {2: 25_400.0, 3: 1e4}
"""um of TIFF's ResolutionUnit"""


class Image(NamedTuple):
    """An image's description in OME-XML."""

    width: int
    height: int
    page: int
    """index of its first page"""
    counts: dict[str, int]
    """sizes of Z, T and C (channels)"""
    mpp: tuple[float, float] | None


def open_ome(path: Path) -> "OmeReader | None":
    """A reader; None for a file that is not recognised as OME-TIFF."""
    import tifffile

    try:
        if not is_tiff(path):
            return None
        tiff = tifffile.TiffFile(path)
        description = tiff.pages.first.description
    except (*READ_ERRORS, tifffile.TiffFileError):
        return None
    if "<OME" not in description:
        tiff.close()
        return None
    return OmeReader(path, tiff, description)


def images(description: str) -> list[Image]:
    """The images of OME-XML, in order. Raises SyntaxError, LookupError or ValueError for damaged XML."""
    root = ElementTree.fromstring(description.encode())
    found = []
    for pixels in root.findall("{*}Image/{*}Pixels"):
        data = pixels.find("{*}TiffData")
        sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "XYZTC"}
        page = 0 if data is None else int(data.get("IFD", 0))
        found.append(Image(sizes["X"], sizes["Y"], page, {axis: sizes[axis] for axis in "ZTC"}, _mpp(pixels)))
    return found


def _mpp(pixels: ElementTree.Element) -> tuple[float, float] | None:
    """um per pixel in x and y, if both are stated in a unit of length."""
    sides = [
        float(pixels.get(f"PhysicalSize{axis}", math.nan))
        * UM.get(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"), math.nan)
        for axis in "XY"
    ]
    return None if any(map(math.isnan, sides)) else (sides[0], sides[1])


class OmeReader:
    """The largest image of an OME-TIFF."""

    background = (255, 255, 255)
    place: Place | None = None

    def __init__(self, path: Path, tiff: "tifffile.TiffFile", description: str) -> None:
        """UserError for more than one plane, more than 8 bits a channel, or planes in other files."""
        self._tiff = tiff
        image = self._largest(path, images(description))
        pages = all_pages(tiff)
        page = pages[image.page] if image.page < len(pages) else None
        if page is None or (page.imagewidth, page.imagelength) != (image.width, image.height):
            remedy = "convert it to one file, for example bfconvert IN OUT.ome.tiff"
            raise UserError(f"{path}: its OME-XML refers to pixels in another file; {remedy}")
        if math.prod(image.counts.values()) > page.samplesperpixel:
            planes = ", ".join(f"{axis} {count}" for axis, count in image.counts.items())
            remedy = "save one plane of RGB or grey, for example bfconvert -channel 0 -z 0 -timepoint 0 IN OUT.ome.tiff"
            raise UserError(f"{path}: has several planes ({planes}), as fluorescence or a stack; {remedy}")
        check_page(path, page, bits=(8, 16))
        check_samples(path, page)
        check_size(path, (image.width, image.height), math.prod(_tile_size(page)))
        turned = page.tags.valueof("Orientation", 1)
        if turned != 1:
            raise UserError(f"{path}: is stored turned (orientation {turned}), expected 1; turn it with vips autorot")
        self._levels = _levels(page, pages)
        self.sizes = [(level.imagewidth, level.imagelength) for level in self._levels]
        self.size_l0, self.extent = self.sizes[0], Box(0, 0, *self.sizes[0])
        self.mpp = image.mpp or _tag_mpp(page)
        self.notes: tuple[str, ...] = ()

    @staticmethod
    def _largest(path: Path, found: list[Image]) -> Image:
        if not found:
            raise UserError(f"{path}: its OME-XML describes no image; convert it: bfconvert IN OUT.ome.tiff")
        image = max(found, key=lambda image: image.width * image.height)
        alike = [other for other in found if (other.width, other.height) == (image.width, image.height)]
        if len(alike) > 1:
            remedy = "save the one that is meant, for example bfconvert -series 0 IN OUT.ome.tiff"
            raise UserError(f"{path}: has {len(alike)} images of {image.width}x{image.height} px; {remedy}")
        return image

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        page = self._levels[level]
        canvas = np.zeros((height, width, 4), np.uint8)
        try:
            for row, col, tile in _tiles(page, x_level, y_level, width, height):
                pixels = colours(page, _eight_bits(tile))
                top, left = row - y_level, col - x_level
                y0, x0 = max(0, top), max(0, left)
                inside = pixels[y0 - top : height - top, x0 - left : width - left]
                canvas[y0 : y0 + inside.shape[0], x0 : x0 + inside.shape[1]] = inside
        except DECODING_ERRORS as error:
            raise OSError(str(error)) from error
        return canvas


def _levels(page: "tifffile.TiffPage", pages: "list[tifffile.TiffPage]") -> "list[tifffile.TiffPage]":
    """`page` and its reduced copies, finest first: SubIFDs, or separate pages."""
    below = [sub.aspage() for sub in page.pages or ()] if page.subifds else [one for one in pages if is_reduced(one)]
    size, kind = (page.imagewidth, page.imagelength), (page.samplesperpixel, page.bitspersample, page.photometric)
    copies = [
        one
        for one in below
        if one.imagewidth < size[0]
        and same_shape(size, (one.imagewidth, one.imagelength))
        and (one.samplesperpixel, one.bitspersample, one.photometric) == kind
    ]
    return [page, *sorted(copies, key=lambda one: -one.imagewidth)]


def _tile_size(page: "tifffile.TiffPage") -> tuple[int, int]:
    """(height, width) of a page's tiles or strips."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _tiles(
    page: "tifffile.TiffPage", x: int, y: int, width: int, height: int
) -> Iterator[tuple[int, int, NDArray[np.unsignedinteger]]]:
    """First row and column, and samples (h, w, s), of the stored tiles under a window."""
    tile_height, tile_width = _tile_size(page)
    across = -(-page.imagewidth // tile_width)
    for row in range(y // tile_height, -(-(y + height) // tile_height)):
        for col in range(x // tile_width, -(-(x + width) // tile_width)):
            tile = read_tile(page, row * across + col)
            if tile is not None:
                yield row * tile_height, col * tile_width, tile


def _eight_bits(samples: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """16-bit values rounded to 8 bits."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8) if samples.itemsize == 2 else samples


def _tag_mpp(page: "tifffile.TiffPage") -> tuple[float, float] | None:
    """um per pixel from the resolution tags."""
    um = RESOLUTION_UM.get(page.tags.valueof("ResolutionUnit", 2))
    counts = [page.tags.valueof(f"{axis}Resolution", (0, 1)) for axis in "XY"]
    if um is None or any(pixels <= 0 or units <= 0 for pixels, units in counts):
        return None
    x, y = (um * units / pixels for pixels, units in counts)
    return x, y
