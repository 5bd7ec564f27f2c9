"""One picture file as pixels with the intended colours: upright, 8 bits per channel, with alpha.

Bit depths and frames are read from the file itself, since Pillow's modes do not show that it cut 16 bits to 8, took a
signed channel for an unsigned one, or read the first of several frames. TIFF is read by tifffile
(ldm/images/tiff_pages.py), the formats of FORMATS by Pillow. Anything that cannot be read correctly is refused with a
remedy.

Shapes: h, w pixels.
"""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from ldm.errors import UserError
from ldm.images.alpha import check_alpha
from ldm.images.contact_sheet import Pixels
from ldm.images.rasters import INTO_TILES, TIFF_STARTS
from ldm.images.tiff_pages import SPLIT, TO_8_BITS, check_page, one_page, page_pixels

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".webp", ".avif"),
    *(".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".mpo"),
    *TIFF_SUFFIXES,
)
"""file suffixes that `read_file` reads"""
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Pillow's raw modes of eight bits or fewer"""
PIXELS_MAX = 89_478_485
"""largest number of pixels of a picture that is decoded at once, as for Pillow's check for decompression bombs"""
READ_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, ArithmeticError, TypeError, EOFError, RuntimeError),
    struct.error,
)
"""exceptions of decoders for a damaged file"""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""TIFF's orientation -> the transposition that makes it upright"""


class PictureFile(NamedTuple):
    """Pixels (h, w, 4): red, green, blue and alpha; and the colour profile (ICC) of RGB files that have one."""

    pixels: Pixels
    profile: bytes | None = None


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_STARTS


def read_file(path: Path) -> PictureFile:
    """UserError for a file that is damaged, not a picture, of more than 8 bits per channel or more than one frame."""
    try:
        return decode_file(path)
    except UserError:
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def decode_file(path: Path) -> PictureFile:
    """As `read_file`, but one of READ_ERRORS for a file that is damaged or not a picture."""
    return _read_tiff(path) if is_tiff(path) else _read_pillow(path)


def unreadable(path: Path, error: Exception) -> UserError:
    """The UserError for a file that a decoder failed on."""
    found = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: cannot be read as an image ({found}); take it out or convert it")


def check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > PIXELS_MAX:
        raise UserError(f"{path}: is too large to be read whole ({width}x{height} px); {INTO_TILES}, or in parts")


def _read_tiff(path: Path) -> PictureFile:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = one_page(path, tiff)
            check_page(path, page)
            check_pixels(path, page.imagewidth, page.imagelength)
            pixels = page_pixels(path, page)
            profile = page.tags.valueof("InterColorProfile")
            turn = page.tags.valueof("Orientation", 1)
    except tifffile.TiffFileError as error:
        raise OSError(str(error)) from error
    if profile is not None and page.photometric != tifffile.PHOTOMETRIC.RGB:
        profile = None
    if turn in TURNS:
        pixels = np.asarray(Image.fromarray(pixels).transpose(TURNS[turn]))
    return PictureFile(pixels, profile)


def _read_pillow(path: Path) -> PictureFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise UserError(f"{path}: is too large to be read whole ({error}); {INTO_TILES}") from error
    with image:
        check_pixels(path, *image.size)
        kind = image.format or "unknown"
        if kind not in FORMATS:
            raise UserError(f"{path}: is {kind}, expected one of {', '.join(FORMATS)} or TIFF; convert it")
        depth = FORMATS[kind]
        bits = "8-bit" if depth is None else depth(path.read_bytes())
        if image.mode not in MODES or bits != "8-bit":
            found = image.mode if bits == "8-bit" else bits
            raise UserError(f"{path}: pixels are {found}, expected 8-bit colour; {TO_8_BITS}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and kind != "MPO":  # a camera's JPEG, followed by previews or a second stereo view
            raise UserError(f"{path}: has {frames} frames, expected one picture; {SPLIT}")
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray((_inks(upright, profile) if image.mode == "CMYK" else upright).convert("RGBA"))
        if "A" in image.mode:
            check_alpha(path, pixels[..., 3], pixels[..., :3])
        return PictureFile(pixels, profile if image.mode.startswith("RGB") else None)


def _inks(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK -> RGB, by the embedded profile where it is usable."""
    try:
        if profile:
            own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, own, srgb, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        pass
    return image.convert("RGB")


def _png(content: bytes) -> str:
    return "16-bit" if content[24] == 16 else "8-bit"  # IHDR is the first chunk


def _jpeg2000(content: bytes) -> str:
    """SIZ, the first marker of the codestream, gives bits and sign of each component (ISO 15444-1, A.5.1)."""
    start = content.find(b"\xff\x4f\xff\x51") + 4
    (count,) = struct.unpack_from(">H", content, start + 36)
    depths = content[start + 36 + 2 : start + 36 + 2 + 3 * count : 3]
    wrong = [depth for depth in depths if depth != 7]
    return f"{(wrong[0] & 127) + 1}-bit {'signed' if wrong[0] & 128 else 'unsigned'}" if wrong else "8-bit"


def _avif(content: bytes) -> str:
    """av1C holds the depth: bits 6 and 5 of its third byte, high_bitdepth and twelve_bit (AV1-ISOBMFF, 2.3)."""
    flags = content[content.find(b"av1C") + 6]
    return "8-bit" if not flags & 64 else "12-bit" if flags & 32 else "10-bit"


def _netpbm(content: bytes) -> str:
    """The third number of the header is the largest value; bitmaps have none."""
    lines = b" ".join(line.partition(b"#")[0] for line in content[:1024].splitlines())
    fields = lines.split()
    return "8-bit" if fields[0] in (b"P1", b"P4") or int(fields[3]) < 256 else f"of values up to {int(fields[3])}"


FORMATS: dict[str, Callable[[bytes], str] | None] = {
    "PNG": _png,
    "JPEG": None,
    "MPO": None,
    "JPEG2000": _jpeg2000,
    "WEBP": None,
    "AVIF": _avif,
    "GIF": None,
    "BMP": None,
    "DIB": None,
    "PPM": _netpbm,
    "TGA": None,
}
"""Pillow's name of each supported format -> the function that finds its bit depth, where it varies"""
