"""Pages of TIFF files as RGBA, by their tags: bits, sign, photometric interpretation, planes, alpha.

Eight bits per sample (grey and palettes also fewer); everything else is refused with a remedy. Sample formats: TIFF
6.0, sections 4 to 8 and 16 to 21; ExtraSamples: section 18.

Shapes: h, w pixels; s samples a pixel. Pixels are uint8 (h, w, 4): red, green, blue, alpha (not premultiplied).
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.errors import UserError
from ldm.images.alpha import Alpha, check_alpha
from ldm.images.contact_sheet import Pixels

if TYPE_CHECKING:
    import tifffile

TO_8_BITS = "save it with 8 bits a channel, for example vips cast"
SPLIT = "save the one that is meant as a file of its own, for example magick 'IN[0]' OUT"
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
GREY = (MIN_IS_WHITE, MIN_IS_BLACK)
COLOURS = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""samples per pixel of each photometric interpretation, without extra samples"""
UNSPECIFIED, PREMULTIPLIED, STRAIGHT = 0, 1, 2
"""values of ExtraSamples"""
DECODING_ERRORS = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError)
"""exceptions of tifffile and imagecodecs for damaged data"""
FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
DECODED_TO_RGB = {6, 7, 33003, 33007, 34712, 50001}
"""compressions whose decoders convert YCbCr to RGB: JPEG, JPEG 2000, WebP"""


def check_page(path: Path, page: "tifffile.TiffPage", bits: tuple[int, ...] = (8,)) -> None:
    """UserError for samples of other than `bits` (or, in grey and palettes, 1, 2, 4), or without a known colour."""
    depths = set(np.ravel(page.bitspersample).tolist())
    found = f"{path}: pixels are {'/'.join(map(str, sorted(depths)))}-bit {FORMATS.get(page.sampleformat, 'unknown')}"
    few = (1, 2, 4) if page.photometric in (*GREY, PALETTE) and page.samplesperpixel == 1 else ()
    if len(depths) > 1 or not depths <= {*bits, *few} or page.sampleformat not in (1, 4):
        raise UserError(f"{found}, expected 8-bit colour; {TO_8_BITS}")
    name = getattr(page.photometric, "name", page.photometric)
    if page.photometric not in COLOURS or getattr(page, "imagedepth", 1) > 1:
        raise UserError(f"{path}: its colours are {name}, expected RGB or grey; convert it, for example magick IN OUT")
    extra = page.samplesperpixel - COLOURS[page.photometric]
    if extra < 0 or (extra and page.photometric in (*GREY, PALETTE) and _alpha(page) is None):
        raise UserError(
            f"{path}: has {page.samplesperpixel} channels that are {name}, expected grey, RGB or RGB with alpha; "
            "choose three as red, green and blue, for example vips bandjoin"
        )
    subsampled = tuple(page.tags.valueof("YCbCrSubSampling", (2, 2))) != (1, 1)
    if page.photometric == YCBCR and page.compression not in DECODED_TO_RGB and subsampled:
        raise UserError(f"{path}: is subsampled YCbCr without JPEG; convert it to RGB, for example magick IN OUT")


def one_page(path: Path, tiff: "tifffile.TiffFile") -> "tifffile.TiffPage":
    """The picture in a file. UserError when there are several: frames, planes of a stack, channels."""
    first, others = full_pages(tiff)
    count = 1 + len(others)
    stack = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    count = max(count, int(stack.get("images", 1)))  # ImageJ may store planes without pages
    if count > 1:
        raise UserError(f"{path}: has {count} pages, expected one picture; {SPLIT}")
    return first


def full_pages(tiff: "tifffile.TiffFile") -> "tuple[tifffile.TiffPage, list[tifffile.TiffPage]]":
    """The first page, and others that are neither a reduced copy nor a mask."""
    first, *others = all_pages(tiff)
    return first, [page for page in others if not (is_reduced(page) or is_mask(page))]


def all_pages(tiff: "tifffile.TiffFile") -> "list[tifffile.TiffPage]":
    """The pages of a file in order. ValueError for a damaged one whose page offsets form a cycle."""
    pages: list[tifffile.TiffPage] = []
    offsets: set[int] = set()
    while True:
        try:
            page = tiff.pages[len(pages)].aspage()
        except IndexError:
            return pages
        if page.offset in offsets or not page.tags:
            raise ValueError(f"page {len(pages)} at byte {page.offset} is damaged")
        offsets.add(page.offset)
        pages.append(page)


def is_mask(page: "tifffile.TiffPage") -> bool:
    return bool(page.subfiletype & 4)


def is_reduced(page: "tifffile.TiffPage") -> bool:
    """Whether the tag NewSubfileType, or the older SubfileType, marks a reduced copy."""
    return bool(page.subfiletype & 1) or page.tags.valueof("SubfileType", 1) == 2


def _alpha(page: "tifffile.TiffPage") -> tuple[int, int] | None:
    """Which sample is alpha, and of what kind; None without one."""
    kinds = list(page.extrasamples)
    for number, kind in enumerate(kinds):
        if kind in (PREMULTIPLIED, STRAIGHT):
            return COLOURS[page.photometric] + number, int(kind)
    return None


def page_pixels(path: Path, page: "tifffile.TiffPage") -> Pixels:
    """The pixels of a page that passed `check_page`. UserError for an alpha channel that is not a mask."""
    samples = page.asarray()
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    if alpha := _alpha(page):
        check_alpha(path, samples[..., alpha[0]], samples[..., : COLOURS[page.photometric]])
    return colours(page, samples)


def sampled_tiles(page: "tifffile.TiffPage", count: int = 16) -> Iterator[NDArray[Any]]:
    """At most `count` tiles or strips (h, w, s) of a page, evenly spread, as tifffile decodes them; damaged ones are
    left out.
    """
    stored = np.flatnonzero(page.databytecounts[: len(page.databytecounts) // _planes(page)])
    for place in np.unique(np.linspace(0, len(stored) - 1, count).round().astype(int)) if len(stored) else ():
        with suppress(*DECODING_ERRORS):
            tile = read_tile(page, int(stored[place]))
            if tile is not None:
                yield tile


def sampled_alpha(page: "tifffile.TiffPage") -> Alpha:
    """Alpha statistics of some tiles of a page; empty without alpha."""
    found, seen = _alpha(page), Alpha()
    if found is None:
        return seen
    for tile in sampled_tiles(page, 64):
        parts = tile if tile.dtype == np.uint8 else (tile >> 8).astype(np.uint8)
        seen.add(parts[..., found[0]], parts[..., : COLOURS[page.photometric]])
    return seen


def _planes(page: "tifffile.TiffPage") -> int:
    return page.samplesperpixel if page.planarconfig == 2 else 1


def read_tile(page: "tifffile.TiffPage", index: int) -> NDArray[Any] | None:
    """Tile or strip `index` of a page, (h, w, s), its planes put together; None where the file holds none.

    Raises one of DECODING_ERRORS.
    """
    planes = _planes(page)
    parts = [_stored_tile(page, index + plane * (len(page.dataoffsets) // planes)) for plane in range(planes)]
    found = [part for part in parts if part is not None]
    return np.concatenate(found, axis=-1) if len(found) == planes else None


def _stored_tile(page: "tifffile.TiffPage", index: int) -> NDArray[Any] | None:
    file = page.parent.filehandle
    with file.lock:
        file.seek(page.dataoffsets[index])
        data = file.read(page.databytecounts[index])
    tile, _, (_, height, width, _) = page.decode(data, index, jpegtables=page.jpegtables)
    return None if tile is None else tile[0, :height, :width]


def _palette(page: "tifffile.TiffPage") -> Pixels:
    """Colour map (n, 3) of 8 bits, from 16 bits (section 5) or, detected as in libtiff, from faulty 8-bit values."""
    table = np.asarray(page.colormap)
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8).T


def colours(page: "tifffile.TiffPage", samples: NDArray[Any]) -> Pixels:
    """Samples (h, w, s) of a part of `page`, as tifffile decodes them -> (h, w, 4)."""
    photometric, count = page.photometric, COLOURS[page.photometric]
    found = _alpha(page)
    if samples.dtype == bool:
        samples = samples.view(np.uint8)
    alpha = np.full(samples.shape[:2], 255, np.uint8) if found is None else samples[..., found[0]]
    own = samples[..., :count]
    if photometric in GREY:
        own = own * np.uint8(255 // (2**page.bitspersample - 1))
        rgb = np.repeat(255 - own if photometric == MIN_IS_WHITE else own, 3, axis=2)
    elif photometric == PALETTE:
        rgb = _palette(page)[own[..., 0]]
    elif photometric == CMYK:
        rgb = np.asarray(Image.fromarray(np.ascontiguousarray(own), "CMYK").convert("RGB"))
    elif photometric == YCBCR and page.compression not in DECODED_TO_RGB:
        rgb = np.asarray(Image.fromarray(np.ascontiguousarray(own), "YCbCr").convert("RGB"))
    else:
        rgb = own
    if found is not None and found[1] == PREMULTIPLIED:
        opaque = np.maximum(alpha, 1)[..., None].astype(np.uint16)
        rgb = np.minimum((rgb.astype(np.uint16) * 255 + opaque // 2) // opaque, 255).astype(np.uint8)
    return np.dstack([rgb, alpha])
