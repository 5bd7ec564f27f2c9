"""Each kind of picture file is read with the intended colours, or refused with file and remedy."""

import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_prep.slides.slide import Plane, open_slide
from ldm.errors import UserError
from ldm.images.pictures import read_picture

SIDE = 48
Y, X = np.mgrid[:SIDE, :SIDE]
COLOUR = np.stack([60 + 3 * X, 40 + 4 * Y, 200 - 2 * X], -1).astype(np.uint8)
GREY = COLOUR[..., 1]
GREY3 = np.repeat(GREY[..., None], 3, 2)
STRIPES = np.repeat((X // 8 % 2 * 255).astype(np.uint8)[..., None], 3, 2)
SOFT = np.dstack([COLOUR, np.where(X < 24, 255, 0).astype(np.uint8)])
HALF = np.where(X[..., None] < 24, COLOUR, 255).astype(np.uint8)
PLANES = COLOUR.transpose(2, 0, 1).copy()

Make = Callable[[Path], object]


def tiff(pixels: np.ndarray, **options: object) -> Make:
    """A TIFF without description."""
    return lambda path: tifffile.imwrite(path, pixels, **{"photometric": "rgb", "metadata": None, **options})


def pillow(image: Image.Image, **options: object) -> Make:
    return lambda path: image.save(path, **options)


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def frames(kind: type = np.uint8, **options: object) -> Make:
    first, *others = [Image.fromarray(np.roll(COLOUR, 8 * k, 1)) for k in range(3)]
    return lambda path: first.save(path, save_all=True, append_images=others, **options)


def png16(pixels: np.ndarray) -> Make:
    return content(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))


def imagej_stack(path: Path) -> None:
    tifffile.imwrite(path, np.stack([GREY, 255 - GREY]), imagej=True, metadata={"axes": "ZYX"})


def two_colours(path: Path) -> None:
    """Two 8-bit planes of grey, as a fluorescence microscope writes them."""
    tifffile.imwrite(path, np.stack([GREY, 255 - GREY]), ome=True, photometric="minisblack", metadata={"axes": "CYX"})


def palette_of_bytes(path: Path) -> None:
    """Colours from 0 to 255 where the format has them to 65535: a common mistake of writers."""
    image = Image.fromarray(COLOUR).quantize(256)
    table = np.array(image.getpalette(), np.uint16).reshape(-1, 3)
    table = np.pad(table, ((0, 256 - len(table)), (0, 0)))
    tiff(np.asarray(image), photometric="palette", colormap=table.T)(path)


def oblique(orientation: int) -> Make:
    return tiff(np.rot90(COLOUR).copy(), extratags=[(274, "H", 1, orientation, True)])


def thumbnail_after(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(COLOUR, photometric="rgb", metadata=None)
        file.write(COLOUR[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)


READ: dict[str, tuple[Make, np.ndarray, float]] = {
    "rgb.tif": (tiff(COLOUR), COLOUR, 0),
    "planar.tif": (tiff(PLANES, planarconfig="separate"), COLOUR, 0),
    "big.btf": (tiff(COLOUR, bigtiff=True), COLOUR, 0),
    "motorola.tif": (tiff(COLOUR, byteorder=">"), COLOUR, 0),
    "tiles.tif": (tiff(COLOUR, tile=(16, 16), compression="zlib", predictor=True), COLOUR, 0),
    "jpeg_in_tiff.tif": (tiff(COLOUR, compression="jpeg", tile=(16, 16)), COLOUR, 4),
    "ycbcr.tif": (tiff(np.asarray(Image.fromarray(COLOUR).convert("YCbCr")), photometric="ycbcr"), COLOUR, 2),
    "grey.tif": (tiff(GREY, photometric="minisblack"), GREY3, 0),
    "white_is_0.tif": (tiff(255 - GREY, photometric="miniswhite"), GREY3, 0),
    "one_bit.tif": (tiff(STRIPES[..., 0] > 0, photometric="minisblack"), STRIPES, 0),
    "one_bit_white_is_0.tif": (tiff(STRIPES[..., 0] == 0, photometric="miniswhite"), STRIPES, 0),
    "palette.tif": (pillow(Image.fromarray(COLOUR).quantize(256)), COLOUR, 8),
    "palette_of_bytes.tif": (palette_of_bytes, COLOUR, 8),
    "nothing_seen.png": (pillow(Image.fromarray(np.dstack([0 * COLOUR, 0 * GREY]))), 0 * COLOUR + 255, 0),
    "inks.tif": (tiff(np.dstack([255 - COLOUR, 0 * GREY]), photometric="separated"), COLOUR, 0),
    "alpha.tif": (tiff(SOFT, extrasamples=["unassalpha"]), HALF, 0),
    "premultiplied.tif": (tiff(SOFT * (SOFT[..., 3:] > 0), extrasamples=["assocalpha"]), HALF, 0),
    "infrared_untagged.tif": (tiff(np.dstack([COLOUR, GREY]), extrasamples=["unspecified"]), COLOUR, 0),
    "grey_alpha.tif": (
        tiff(np.dstack([GREY, SOFT[..., 3]]), photometric="minisblack", extrasamples=["unassalpha"]),
        np.where(X[..., None] < 24, GREY3, 255),
        0,
    ),
    "turned.tif": (oblique(6), COLOUR, 0),
    "thumbnail.tif": (thumbnail_after, COLOUR, 0),
    "rgb.png": (pillow(Image.fromarray(COLOUR)), COLOUR, 0),
    "grey_alpha.png": (
        pillow(Image.fromarray(np.dstack([GREY, SOFT[..., 3]]))),
        np.where(X[..., None] < 24, GREY3, 255),
        0,
    ),
    "palette.png": (pillow(Image.fromarray(COLOUR).quantize(256)), COLOUR, 8),
    "one_bit.png": (pillow(Image.fromarray(STRIPES[..., 0] > 0)), STRIPES, 0),
    "inks.jpg": (pillow(Image.fromarray(COLOUR).convert("CMYK"), quality=98, subsampling=0), COLOUR, 4),
    "rgb.jp2": (content(imagecodecs.jpeg2k_encode(COLOUR, level=0)), COLOUR, 0),
    "rgb.webp": (pillow(Image.fromarray(COLOUR), lossless=True), COLOUR, 0),
    "rgb.bmp": (pillow(Image.fromarray(COLOUR)), COLOUR, 0),
    "one_frame.gif": (pillow(Image.fromarray(COLOUR).quantize(256)), COLOUR, 8),
    "rgb.ppm": (pillow(Image.fromarray(COLOUR)), COLOUR, 0),
    "few_levels.pgm": (content(b"P5\n# comment 1 2 3\n48 48\n15\n" + (GREY // 17).tobytes()), GREY // 17 * 17, 0),
}
"""name -> how it is made, its colours, and the largest mean difference that its coding makes"""
WATER = np.where(X < SIDE - 1, 0, 40).astype(np.uint8)
DEEP, SHORT = GREY.astype(np.uint16) * 257, (GREY.astype(int) - 128).astype(np.int8)
REFUSED: dict[str, tuple[Make, str]] = {
    "planar_16.tif": (tiff(PLANES.astype(np.uint16) * 257, planarconfig="separate"), "16-bit unsigned"),
    "rgb_16.tif": (tiff(COLOUR.astype(np.uint16) * 257), "16-bit unsigned"),
    "grey_16.tif": (tiff(DEEP, photometric="minisblack"), "16-bit unsigned"),
    "rgb_16.png": (png16(COLOUR), "16-bit"),
    "grey_16.png": (png16(GREY), "16-bit"),
    "alpha_16.png": (png16(SOFT), "16-bit"),
    "rgb_16.jp2": (content(imagecodecs.jpeg2k_encode(COLOUR.astype(np.uint16) * 16, bitspersample=12)), "12-bit"),
    "rgb_16.ppm": (content(b"P6 48 48 65535\n" + COLOUR.astype(">u2").tobytes()), "65535"),
    "signed.tif": (tiff(SHORT, photometric="minisblack"), "8-bit signed"),
    "signed_rgb.tif": (tiff((COLOUR.astype(int) - 128).astype(np.int8)), "8-bit signed"),
    "signed.jp2": (content(imagecodecs.jpeg2k_encode(SHORT, level=0)), "8-bit signed"),
    "float.tif": (tiff(COLOUR.astype(np.float32) / 255), "32-bit floating-point"),
    "wide.tif": (tiff(GREY.astype(np.uint32), photometric="minisblack"), "32-bit unsigned"),
    "two_channels.tif": (tiff(np.dstack([GREY, GREY]), photometric="minisblack", planarconfig="contig"), "2 channels"),
    "fluorescence.ome.tif": (two_colours, "2 pages|planes .*C 2"),
    "three_greys.tif": (tiff(COLOUR, photometric="minisblack", planarconfig="contig"), "3 channels"),
    "stack.tif": (imagej_stack, "2 pages"),
    "pages.tif": (frames(), "3 pages"),
    "lab.tif": (tiff(COLOUR, photometric="cielab"), "CIELAB"),
    "infrared_as_alpha.tif": (tiff(np.dstack([COLOUR, GREY]), extrasamples=["unassalpha"]), "neither 0 nor 255"),
    "infrared_as_alpha.png": (pillow(Image.fromarray(np.dstack([COLOUR, GREY]))), "neither 0 nor 255"),
    "water_as_alpha.tif": (tiff(np.dstack([COLOUR, WATER]), extrasamples=["unassalpha"]), "neither 0 nor 255"),
    "water_as_alpha.webp": (pillow(Image.fromarray(np.dstack([COLOUR, WATER])), lossless=True, exact=True), "255"),
    "padding_as_alpha.tif": (tiff(np.dstack([COLOUR, 0 * GREY]), extrasamples=["assocalpha"]), "it is 0 everywhere"),
    "padding_as_alpha.tga": (pillow(Image.fromarray(np.dstack([COLOUR, 0 * GREY]))), "it is 0 everywhere"),
    "film.gif": (frames(), "3 frames"),
    "film.webp": (frames(), "3 frames"),
    "film.png": (frames(), "3 frames"),
}


@pytest.mark.parametrize("name", READ)
def test_a_picture_has_the_colours_that_were_meant(name: str, tmp_path: Path) -> None:
    make, expected, tolerance = READ[name]
    make(tmp_path / name)
    found = read_picture(tmp_path / name).pixels
    assert found.shape == COLOUR.shape
    assert np.abs(found.astype(int) - expected.reshape(SIDE, SIDE, -1)).mean() <= tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_come_out_wrong_is_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    make(tmp_path / name)
    for read in (read_picture, lambda path: open_slide(path, "histology", 0.5)):
        with pytest.raises(UserError, match=message) as refusal:
            read(tmp_path / name)
        assert name in str(refusal.value)
        assert "; " in str(refusal.value)
        assert "\n" not in str(refusal.value)


TILES = {"tile": (16, 16), "compression": "zlib"}


def infrared_ome(path: Path) -> None:
    axes = {"axes": "YXS"}
    bands = np.dstack([COLOUR, GREY])
    tifffile.imwrite(path, bands, ome=True, photometric="rgb", extrasamples=["unassalpha"], metadata=axes, **TILES)


TILED: dict[str, tuple[Make, str]] = {
    "full_16.tif": (tiff(COLOUR.astype(np.uint16) * 257, **TILES), ""),
    "full_grey_16.tif": (tiff(DEEP, photometric="minisblack", **TILES), ""),
    "full_planar_16.tif": (tiff(PLANES.astype(np.uint16) * 257, planarconfig="separate", **TILES), ""),
    "twelve_bits.tif": (tiff(COLOUR.astype(np.uint16) * 16, **TILES), r"reach \d+ of 65535"),
    "twelve_grey.tif": (tiff(GREY.astype(np.uint16) * 16, photometric="minisblack", **TILES), "of 65535"),
    "signed.tif": (tiff((COLOUR.astype(int) - 128).astype(np.int8), **TILES), "8-bit signed"),
    "infrared.tif": (tiff(np.dstack([COLOUR, GREY]), extrasamples=["unspecified"], **TILES), "4 channels"),
    "infrared_as_alpha.tif": (
        tiff(np.dstack([COLOUR, GREY]), extrasamples=["unassalpha"], **TILES),
        "neither 0 nor 255",
    ),
    "infrared_plane.tif": (
        tiff(np.stack([*PLANES, GREY]), planarconfig="separate", extrasamples=["assocalpha"], **TILES),
        "neither 0 nor 255",
    ),
    "infrared.ome.tif": (infrared_ome, "neither 0 nor 255"),
    "padding_16.tif": (
        tiff(np.dstack([COLOUR, 0 * GREY]).astype(np.uint16) * 257, extrasamples=["unassalpha"], **TILES),
        "it is 0 everywhere",
    ),
    "full_opaque.tif": (tiff(np.dstack([COLOUR, 0 * GREY + 255]), extrasamples=["unassalpha"], **TILES), ""),
    "two_channels.tif": (
        tiff(np.dstack([GREY, GREY]), photometric="minisblack", planarconfig="contig", **TILES),
        "2 channels",
    ),
    "two_planes.tif": (tiff(np.stack([GREY, GREY]), photometric="minisblack", **TILES), "2 pages of 48x48"),
}


@pytest.mark.parametrize("name", TILED)
def test_a_tiled_slide_has_the_colours_that_were_meant_or_is_refused(name: str, tmp_path: Path) -> None:
    make, message = TILED[name]
    make(tmp_path / name)
    if message:
        with pytest.raises(UserError, match=message):
            open_slide(tmp_path / name, "histology", 0.5)
        return
    found = Plane(open_slide(tmp_path / name, "histology", 0.5), 0.5).read(0, 0, SIDE, SIDE)
    np.testing.assert_array_equal(found, GREY3 if "grey" in name else COLOUR)


def test_the_bit_depth_of_an_avif_is_read_from_it(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.avif", quality=95)
    assert np.abs(read_picture(tmp_path / "a.avif").pixels.astype(int) - COLOUR).mean() < 4
    for bits in (10, 12):
        (tmp_path / "b.avif").write_bytes(imagecodecs.avif_encode(COLOUR.astype(np.uint16), bitspersample=bits))
        with pytest.raises(UserError, match=f"{bits}-bit"):
            read_picture(tmp_path / "b.avif")


def test_a_format_that_is_not_known_is_refused_and_none_needs_its_ending(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.pcx")
    with pytest.raises(UserError, match="is PCX, expected one of PNG"):
        read_picture(tmp_path / "a.pcx")
    tifffile.imwrite(tmp_path / "really_tiff.png", COLOUR, photometric="rgb")
    assert (read_picture(tmp_path / "really_tiff.png").pixels == COLOUR).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_shown_as_pillow_shows_a_jpeg_of_its_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(COLOUR[:32]).save(tmp_path / "a.png", exif=exif)
    tiff(COLOUR[:32], extratags=[(274, "H", 1, orientation, True)])(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, read_picture(tmp_path / "a.png").pixels)


def test_a_damaged_tiff_is_told_in_one_line(tmp_path: Path) -> None:
    tiff(COLOUR, compression="zlib")(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    for number, cut in enumerate(range(8, len(data), len(data) // 20)):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=f"{number}.tif"):
            read_picture(path)
    (tmp_path / "loop.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<HI", 0, 8))
    with pytest.raises(UserError, match=r"loop\.tif"):
        read_picture(tmp_path / "loop.tif")
