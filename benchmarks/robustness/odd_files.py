"""Odd slides as hospitals, downloads and scanners produce them, and the expected outcome of each kind.

A maker fills a folder with one kind. `expected` is "prepared", with the intended picture, or a part of the message that
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
    mpp: float | None


KINDS: list[OddSlide] = []


def kind(expected: str, mpp: float | None = None) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    def add(make: Callable[[Path], object]) -> Callable[[Path], object]:
        KINDS.append(OddSlide(make.__name__, expected, make, mpp))
        return make

    return add


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


# damage by downloads and copies


@kind("is empty (0 bytes)")
def empty_file(folder: Path) -> None:
    (folder / "a.svs").touch()


@kind("is a web page")
def web_page(folder: Path) -> None:
    (folder / "a.svs").write_text("<!DOCTYPE html>\n<html><body>Please log in</body></html>\n")


@kind("cannot be read as a histology slide")
def zip_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.svs", "w") as archive:
        archive.write(tiff(folder / "inner"), "a.svs")


@kind("is cut short")
def cut_before_its_index(folder: Path) -> None:
    path = tiff(folder / "a.svs")
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", len(content) + 1000) + content[8:])


@kind("cannot be read as a histology slide")
def cut_in_its_pixels(folder: Path) -> None:
    path = tiff(folder / "a.tiff")
    os.truncate(path, path.stat().st_size // 2)


@kind("prepared")
def one_damaged_tile(folder: Path) -> None:
    damage(tiff(folder / "a.tiff"), 0)


@kind("base tiles cannot be read")
def half_of_the_tiles_damaged(folder: Path) -> None:
    damage(tiff(folder / "a.tiff"), 0.5)


@kind("truncated", mpp=MPP)
def cut_picture(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "jpeg")
    (folder / "a.jpg").write_bytes(buffer.getvalue()[:4000])


@kind("its data folder a is not beside it")
def mirax_without_its_folder(folder: Path) -> None:
    Image.fromarray(PICTURE).save(folder / "a.mrxs", "jpeg")


@kind("prepared")
def resource_fork_beside_it(folder: Path) -> None:
    tiff(folder / "a.tiff")
    (folder / "._a.tiff").write_bytes(b"\0\5\x16\7" + bytes(4092))


# not a file, or an odd name


@kind("is a folder without a slide")
def folder_called_as_a_slide(folder: Path) -> None:
    (folder / "a.svs").mkdir()


@kind("does not exist")
def link_to_nothing(folder: Path) -> None:
    (folder / "a.svs").symlink_to("/nowhere/a.svs")


@kind("prepared")
def link_to_a_slide_elsewhere(folder: Path) -> None:
    elsewhere = folder.parents[1] / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (folder / "a.tiff").symlink_to(tiff(elsewhere / "real.tiff"))


@kind("is no regular file")
def named_pipe(folder: Path) -> None:
    os.mkfifo(folder / "a.svs")


@kind("would both be")
def two_of_one_name(folder: Path) -> None:
    tiff(folder / "a.tif")
    tiff(folder / "a.tiff")


@kind("prepared")
def spaces_accents_and_cyrillic(folder: Path) -> None:
    tiff(folder / "препарат № 7 (Überweisung).tiff")


@kind("prepared")
def dots_and_slashes_in_its_name(folder: Path) -> None:
    tiff(folder / "C:\\..\\..\\%2e%2e%2f$(reboot);..tiff")


@kind("prepared")
def a_newline_in_its_name(folder: Path) -> None:
    tiff(folder / "a\nerror: b.tiff")


@kind("prepared")
def a_name_that_is_not_utf8(folder: Path) -> None:
    tiff(folder / "a.tiff").rename(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.tiff"))


@kind("prepared")
def a_name_of_250_letters(folder: Path) -> None:
    tiff(folder / f"{'a' * 245}.tiff")


# statements of its resolution


@kind("does not say its um per pixel")
def no_resolution(folder: Path) -> None:
    tiff(folder / "a.tiff", mpp=None)


@kind("says 352.778 um per pixel, expected 0.05 to 5")
def seventy_two_dpi(folder: Path) -> None:
    tiff(folder / "a.tiff", mpp=None, resolution=(72, 72), resolutionunit="INCH")


@kind("expected 0.05 to 5")
def resolution_of_zero(folder: Path) -> None:
    aperio(folder / "a.svs", "0")


@kind("um per pixel")
def resolution_not_a_number(folder: Path) -> None:
    aperio(folder / "a.svs", "nan")


@kind("prepared")
def resolution_with_a_comma(folder: Path) -> None:
    aperio(folder / "a.svs", "0,5000")


@kind("says 0.5 by 0.6 um per pixel, expected square pixels")
def oblong_pixels(folder: Path) -> None:
    tiff(folder / "a.tiff", mpp=(0.5, 0.6))


@kind("scanned at 1 um per pixel, expected 0.5 or finer")
def scanned_at_10x(folder: Path) -> None:
    tiff(folder / "a.tiff", mpp=1.0)


@kind("prepared", mpp=MPP)
def wrong_tag_and_a_right_table(folder: Path) -> None:
    tiff(folder / "a.tiff", mpp=0.25)


# pixel formats


@kind("prepared")
def sixteen_bits_a_channel(folder: Path) -> None:
    tiff(folder / "a.tiff", PICTURE.astype(np.uint16) * 257)


@kind("expected 8-bit colour", mpp=MPP)
def sixteen_bit_grey_picture(folder: Path) -> None:
    Image.fromarray(PICTURE[..., 1].astype(np.uint16) * 257).save(folder / "a.png")


@kind("no region of any scale can be kept")
def grey_slide(folder: Path) -> None:
    tiff(folder / "a.tiff", PICTURE[..., 1], photometric="minisblack")


@kind("no region of any scale can be kept", mpp=MPP)
def one_bit_picture(folder: Path) -> None:
    Image.fromarray(PICTURE).convert("1").save(folder / "a.tiff")


@kind("prepared", mpp=MPP)
def palette_picture(folder: Path) -> None:
    Image.fromarray(PICTURE).quantize(256).save(folder / "a.png")


@kind("prepared", mpp=MPP)
def printers_inks(folder: Path) -> None:
    Image.fromarray(PICTURE).convert("CMYK").save(folder / "a.jpg", quality=95, subsampling=0)


@kind("prepared", mpp=MPP)
def transparent_where_glass_was(folder: Path) -> None:
    glass = (PICTURE == 243).all(-1)
    seen = np.where(glass, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([np.where(glass[..., None], 0, PICTURE), seen])).save(folder / "a.png")


@kind("prepared", mpp=MPP)
def camera_held_sideways(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned = Image.fromarray(PICTURE).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "a.jpg", quality=95, subsampling=0, exif=exif)


@kind("is stored turned (orientation 6)")
def slide_stored_turned(folder: Path) -> None:
    tiff(folder / "a.tiff", extratags=[(274, "H", 1, 6, True)])


@kind("prepared")
def beyond_four_gigabytes(folder: Path) -> None:
    tiff(folder / "a.tiff", bigtiff=True)


def _with_page(path: Path, page: Pixels) -> Path:
    """PICTURE, its half, and a page that is no level."""
    with tifffile.TiffWriter(path) as file:
        resolution: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
        common: dict[str, Any] = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None}
        file.write(PICTURE, **common, **resolution)
        file.write(PICTURE[::2, ::2], subfiletype=1, **common)
        file.write(page, subfiletype=1, **common)
    return path


@kind("prepared")
def mask_stored_as_a_level(folder: Path) -> None:
    path = _with_page(folder / "a.tiff", np.zeros((SIDE // 8, SIDE // 8, 3), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[2].aspage().tags["NewSubfileType"].overwrite(1 | 4)


@kind("prepared")
def macro_stored_as_a_level(folder: Path) -> None:
    _with_page(folder / "a.tiff", np.zeros((SIDE // 4, SIDE // 8, 3), np.uint8))


@kind("is too large to be read whole", mpp=MPP)
def decompression_bomb(folder: Path) -> None:
    Image.new("1", (60_000, 60_000)).save(folder / "a.png")


@kind("no region of any scale can be kept")
def a_single_pixel(folder: Path) -> None:
    tiff(folder / "a.tiff", PICTURE[:1, :1], tile=(16, 16))


@kind("no region of any scale can be kept")
def nothing_but_white(folder: Path) -> None:
    tiff(folder / "a.tiff", np.full_like(PICTURE, 255))


@kind("no region of any scale can be kept")
def nothing_but_pen_marks(folder: Path) -> None:
    glass = Image.new("RGB", (SIDE, SIDE), (243, 243, 245))
    draw = ImageDraw.Draw(glass)
    inks = ((40, 60, 170), (30, 130, 80), (35, 33, 38), (200, 30, 45))
    for number, ink in enumerate(inks):
        draw.line([(20, 60 + 120 * number), (480, 100 + 120 * number)], fill=ink, width=44)
    tiff(folder / "a.tiff", np.asarray(glass))
