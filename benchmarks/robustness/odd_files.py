"""Odd slides as hospitals, downloads and scanners produce them, and the expected outcome of each kind.

KINDS, at the end, is the table. `expected` is "prepared", with the intended picture, or a part of the message that
refuses it.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
SIDE, TILE = 512, 64
MPP = 0.5


def picture(seed: int = 0) -> Pixels:
    """(512, 512, 3): smooth tissue on glass, no part of it like another."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in rng.uniform(0.5, 2.5, (3, 3))]
    colour = np.stack([190 + 25 * waves[0], 100 + 25 * waves[1], 160 + 20 * waves[2]], -1)
    inside = np.hypot(x - 0.45, y - 0.5) < 0.4
    return np.where(inside[..., None], colour, 243).astype(np.uint8)


PICTURE = picture()


class OddSlide(NamedTuple):
    """An odd slide: `make` fills a folder; `mpp` is its row in the table."""

    name: str
    expected: str
    make: Callable[[Path], object]
    mpp: float | None = None


def tiff(
    path: Path, pixels: NDArray[Any] = PICTURE, mpp: float | tuple[float, float] | None = MPP, **options: Any
) -> Path:
    """A tiled TIFF; `mpp` goes into its resolution tags."""
    tags: dict[str, Any] = {}
    if mpp is not None:
        mpp_x, mpp_y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        tags = {"resolution": (1e4 / mpp_x, 1e4 / mpp_y), "resolutionunit": "CENTIMETER"}
    colour: dict[str, Any] = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None, "compression": "zlib"}
    tifffile.imwrite(path, pixels, **{**colour, **tags, **options})
    return path


def aperio(path: Path, mpp: str) -> Path:
    """What OpenSlide takes for an Aperio scan, with `mpp` in its description."""
    text = f"Aperio Image Library v12.0.15\n512x512 [0,0 512x512] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = {mpp}"
    return tiff(path, mpp=None, description=text)


def damage(path: Path, share: float) -> None:
    """Overwrite a share of the tiles of a TIFF."""
    with tifffile.TiffFile(path) as file:
        places = list(zip(file.pages.first.dataoffsets, file.pages.first.databytecounts, strict=True))
    middle = len(places) // 2
    with path.open("r+b") as file:
        for offset, size in places[middle : middle + max(1, round(share * len(places)))]:
            file.seek(offset)
            file.write(b"\xff" * size)


def as_tiff(name: str = "a.tiff", pixels: NDArray[Any] = PICTURE, **options: Any) -> Callable[[Path], object]:
    """Makes a tiled TIFF; `options` as of `tiff`."""
    return lambda folder: tiff(folder / name, pixels, **options)


def as_aperio(mpp: str) -> Callable[[Path], object]:
    return lambda folder: aperio(folder / "a.svs", mpp)


def as_picture(name: str, image: Image.Image, **options: Any) -> Callable[[Path], object]:
    return lambda folder: image.save(folder / name, **options)


def as_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "a.svs").write_bytes(content)


def zip_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.svs", "w") as archive:
        archive.write(tiff(folder / "inner"), "a.svs")


def cut_before_its_index(folder: Path) -> None:
    path = tiff(folder / "a.svs")
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", len(content) + 1000) + content[8:])


def cut_in_its_pixels(folder: Path) -> None:
    path = tiff(folder / "a.tiff")
    os.truncate(path, path.stat().st_size // 2)


def cut_picture(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "jpeg")
    (folder / "a.jpg").write_bytes(buffer.getvalue()[:4000])


def resource_fork_beside_it(folder: Path) -> None:
    tiff(folder / "a.tiff")
    (folder / "._a.tiff").write_bytes(b"\0\5\x16\7" + bytes(4092))


def link_to_a_slide_elsewhere(folder: Path) -> None:
    elsewhere = folder.parents[1] / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (folder / "a.tiff").symlink_to(tiff(elsewhere / "real.tiff"))


def two_of_one_name(folder: Path) -> None:
    tiff(folder / "a.tif")
    tiff(folder / "a.tiff")


def a_name_that_is_not_utf8(folder: Path) -> None:
    tiff(folder / "a.tiff").rename(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.tiff"))


def transparent_where_glass_was() -> Image.Image:
    glass = (PICTURE == 243).all(-1)
    seen = np.where(glass, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.where(glass[..., None], 0, PICTURE), seen]))


def camera_held_sideways(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned = Image.fromarray(PICTURE).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "a.jpg", quality=95, subsampling=0, exif=exif)


def _with_page(path: Path, page: Pixels) -> Path:
    """PICTURE, its half, and a page that is no level."""
    with tifffile.TiffWriter(path) as file:
        resolution: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
        common: dict[str, Any] = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None}
        file.write(PICTURE, **common, **resolution)
        file.write(PICTURE[::2, ::2], subfiletype=1, **common)
        file.write(page, subfiletype=1, **common)
    return path


def mask_stored_as_a_level(folder: Path) -> None:
    path = _with_page(folder / "a.tiff", np.zeros((SIDE // 8, SIDE // 8, 3), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[2].aspage().tags["NewSubfileType"].overwrite(1 | 4)


def macro_stored_as_a_level(folder: Path) -> None:
    _with_page(folder / "a.tiff", np.zeros((SIDE // 4, SIDE // 8, 3), np.uint8))


def decompression_bomb(folder: Path) -> None:
    Image.new("1", (60_000, 60_000)).save(folder / "a.png")


def pen_marks() -> Pixels:
    glass = Image.new("RGB", (SIDE, SIDE), (243, 243, 245))
    draw = ImageDraw.Draw(glass)
    inks = ((40, 60, 170), (30, 130, 80), (35, 33, 38), (200, 30, 45))
    for number, ink in enumerate(inks):
        draw.line([(20, 60 + 120 * number), (480, 100 + 120 * number)], fill=ink, width=44)
    return np.asarray(glass)


IMAGE = Image.fromarray(PICTURE)
UNREADABLE, NO_REGION = "cannot be read as a histology slide", "no region of any scale can be kept"
KINDS = [
    # damage by downloads and copies
    OddSlide("empty_file", "is empty (0 bytes)", as_bytes(b"")),
    OddSlide("web_page", "is a web page", as_bytes(b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n")),
    OddSlide("zip_archive", UNREADABLE, zip_archive),
    OddSlide("cut_before_its_index", "is cut short", cut_before_its_index),
    OddSlide("cut_in_its_pixels", UNREADABLE, cut_in_its_pixels),
    OddSlide("one_damaged_tile", "prepared", lambda folder: damage(tiff(folder / "a.tiff"), 0)),
    OddSlide(
        "half_of_the_tiles_damaged",
        "base tiles cannot be read",
        lambda folder: damage(tiff(folder / "a.tiff"), 0.5),
    ),
    OddSlide("cut_picture", "truncated", cut_picture, MPP),
    OddSlide(
        "mirax_without_its_folder", "its data folder a is not beside it", as_picture("a.mrxs", IMAGE, format="jpeg")
    ),
    OddSlide("resource_fork_beside_it", "prepared", resource_fork_beside_it),
    # not a file, or an odd name
    OddSlide("folder_called_as_a_slide", "is a folder without a slide", lambda folder: (folder / "a.svs").mkdir()),
    OddSlide("link_to_nothing", "does not exist", lambda folder: (folder / "a.svs").symlink_to("/nowhere/a.svs")),
    OddSlide("link_to_a_slide_elsewhere", "prepared", link_to_a_slide_elsewhere),
    OddSlide("named_pipe", "is no regular file", lambda folder: os.mkfifo(folder / "a.svs")),
    OddSlide("two_of_one_name", "would both be", two_of_one_name),
    OddSlide("spaces_accents_and_cyrillic", "prepared", as_tiff("препарат № 7 (Überweisung).tiff")),
    OddSlide("dots_and_slashes_in_its_name", "prepared", as_tiff("C:\\..\\..\\%2e%2e%2f$(reboot);..tiff")),
    OddSlide("a_newline_in_its_name", "prepared", as_tiff("a\nerror: b.tiff")),
    OddSlide("a_name_that_is_not_utf8", "prepared", a_name_that_is_not_utf8),
    OddSlide("a_name_of_250_letters", "prepared", as_tiff(f"{'a' * 245}.tiff")),
    # statements of its resolution
    OddSlide("no_resolution", "does not say its um per pixel", as_tiff(mpp=None)),
    OddSlide(
        "seventy_two_dpi",
        "says 352.778 um per pixel, expected 0.05 to 5",
        as_tiff(mpp=None, resolution=(72, 72), resolutionunit="INCH"),
    ),
    OddSlide("resolution_of_zero", "expected 0.05 to 5", as_aperio("0")),
    OddSlide("resolution_not_a_number", "um per pixel", as_aperio("nan")),
    OddSlide("resolution_with_a_comma", "prepared", as_aperio("0,5000")),
    OddSlide("oblong_pixels", "says 0.5 by 0.6 um per pixel, expected square pixels", as_tiff(mpp=(0.5, 0.6))),
    OddSlide("scanned_at_10x", "scanned at 1 um per pixel, expected 0.5 or finer", as_tiff(mpp=1.0)),
    OddSlide("wrong_tag_and_a_right_table", "prepared", as_tiff(mpp=0.25), MPP),
    # pixel formats
    OddSlide("sixteen_bits_a_channel", "prepared", as_tiff(pixels=PICTURE.astype(np.uint16) * 257)),
    OddSlide(
        "sixteen_bit_grey_picture",
        "expected 8-bit colour",
        as_picture("a.png", Image.fromarray(PICTURE[..., 1].astype(np.uint16) * 257)),
        MPP,
    ),
    OddSlide("grey_slide", NO_REGION, as_tiff(pixels=PICTURE[..., 1], photometric="minisblack")),
    OddSlide("one_bit_picture", NO_REGION, as_picture("a.tiff", IMAGE.convert("1")), MPP),
    OddSlide("palette_picture", "prepared", as_picture("a.png", IMAGE.quantize(256)), MPP),
    OddSlide("printers_inks", "prepared", as_picture("a.jpg", IMAGE.convert("CMYK"), quality=95, subsampling=0), MPP),
    OddSlide("transparent_where_glass_was", "prepared", as_picture("a.png", transparent_where_glass_was()), MPP),
    OddSlide("camera_held_sideways", "prepared", camera_held_sideways, MPP),
    OddSlide("slide_stored_turned", "is stored turned (orientation 6)", as_tiff(extratags=[(274, "H", 1, 6, True)])),
    OddSlide("beyond_four_gigabytes", "prepared", as_tiff(bigtiff=True)),
    OddSlide("mask_stored_as_a_level", "prepared", mask_stored_as_a_level),
    OddSlide("macro_stored_as_a_level", "prepared", macro_stored_as_a_level),
    OddSlide("decompression_bomb", "is too large to be read whole", decompression_bomb, MPP),
    OddSlide("a_single_pixel", NO_REGION, as_tiff(pixels=PICTURE[:1, :1], tile=(16, 16))),
    OddSlide("nothing_but_white", NO_REGION, as_tiff(pixels=np.full_like(PICTURE, 255))),
    OddSlide("nothing_but_pen_marks", NO_REGION, as_tiff(pixels=pen_marks())),
]
