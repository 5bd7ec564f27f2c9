"""OME-TIFF: um per pixel from OME-XML in any unit, levels from SubIFDs, refusal of all but one colour plane."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from benchmarks.fixtures.slides import tissue_image
from data_prep.slides.slide import Plane, open_slide
from ldm.errors import UserError

IMAGE = tissue_image(200, 330)


def halved(image: np.ndarray) -> np.ndarray:
    return image[: len(image) // 2 * 2 : 2, : image.shape[1] // 2 * 2 : 2]


def write(path: Path, image: np.ndarray = IMAGE, levels: int = 3, sizes: dict[str, Any] | None = None, **more: Any):
    """An OME-TIFF whose levels are SubIFDs; `sizes` are PhysicalSizeX and the like."""
    planar = more.get("planarconfig") == "separate"
    options = {"photometric": "rgb", "tile": (64, 64), **more}
    axes = {"SYX": planar, "YX": image.ndim == 2, "YXS": True}
    metadata = {"axes": next(name for name, suits in axes.items() if suits), **(sizes or {})}
    with tifffile.TiffWriter(path, ome=True) as file:
        for level in range(levels):
            pixels = np.moveaxis(image, -1, 0).copy() if planar else image
            extra: dict[str, Any] = {"subfiletype": 1} if level else {"subifds": levels - 1, "metadata": metadata}
            file.write(pixels, **options, **extra)
            image = halved(image)
    return path


def um(size: float, unit: str | None = None) -> dict[str, Any]:
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return {"PhysicalSizeX": size, "PhysicalSizeY": size, **units}


@pytest.mark.parametrize(
    ("size", "unit"), [(0.25, None), (0.25, "µm"), (250, "nm"), (2.5e-4, "mm"), (2.5e-7, "m"), (2500, "Å")]
)
def test_the_size_of_a_pixel_is_read_in_its_unit(size: float, unit: str | None, tmp_path: Path) -> None:
    slide = open_slide(write(tmp_path / "a.ome.tif", levels=1, sizes=um(size, unit)), "histology")
    assert (slide.mpp, slide.mpp_from) == (pytest.approx(0.25), "file")


def test_a_size_that_is_no_length_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", sizes=um(1, "pixel"))
    with pytest.raises(UserError, match="does not say its um per pixel"):
        open_slide(path, "histology")
    path = write(tmp_path / "b.ome.tif", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    assert open_slide(path, "histology").mpp == pytest.approx(0.5)


LAYOUTS = {
    "tiles": {},
    "strips": {"tile": None, "rowsperstrip": 50},
    "planes": {"planarconfig": "separate"},
    "deflate": {"compression": "zlib", "predictor": True},
    "odd tiles": {"tile": (48, 80)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_levels_are_subifds_and_any_window_of_them_is_read(layout: str, tmp_path: Path) -> None:
    slide = open_slide(write(tmp_path / "a.ome.tif", sizes=um(0.25), **LAYOUTS[layout]), "histology")
    assert slide.reader.sizes == [(330, 200), (165, 100), (82, 50)]
    expected = IMAGE
    for level in range(3):
        height, width = expected.shape[:2]
        for window in ((0, 0, width, height), (37, 11, 31, 29), (width - 20, height - 3, 20, 3)):
            x, y, w, h = window
            found = slide.reader.read(level, *window)
            np.testing.assert_array_equal(found[..., :3], expected[y : y + h, x : x + w])
            assert found[..., 3].min() == 255
        expected = halved(expected)
    plane = Plane(slide, 0.5)
    assert plane.source.level == 1
    np.testing.assert_array_equal(plane.read(5, 7, 50, 40), halved(IMAGE)[7:47, 5:55])


def test_jpeg_grey_and_sixteen_bits_are_read_as_they_are_meant(tmp_path: Path) -> None:
    smooth = np.repeat(np.repeat(IMAGE[::10, ::10], 10, 0), 10, 1)
    path = write(tmp_path / "a.ome.tif", smooth, sizes=um(0.5), compression="jpeg", compressionargs={"level": 95})
    assert np.abs(Plane(open_slide(path, "histology"), 0.5).read(0, 0, 330, 200).astype(int) - smooth).mean() < 4
    path = write(tmp_path / "b.ome.tif", IMAGE[..., 0], sizes=um(0.5), photometric="minisblack")
    grey = Plane(open_slide(path, "histology"), 0.5).read(0, 0, 330, 200)
    np.testing.assert_array_equal(grey, np.repeat(IMAGE[..., :1], 3, -1))
    path = write(tmp_path / "c.ome.tif", IMAGE.astype(np.uint16) * 257, sizes=um(0.5))
    np.testing.assert_array_equal(Plane(open_slide(path, "histology"), 0.5).read(0, 0, 330, 200), IMAGE)
    path = write(tmp_path / "d.ome.tif", IMAGE.astype(np.uint16) * 16, sizes=um(0.5))
    with pytest.raises(UserError, match="16-bit values reach"):
        open_slide(path, "histology")


def test_the_largest_image_is_the_slide_and_a_label_is_not(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(IMAGE[:64, :64] // 2, photometric="rgb", metadata={"axes": "YXS", "Name": "label", **um(9.0)})
        file.write(IMAGE, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS", **um(0.5)})
    slide = open_slide(tmp_path / "a.ome.tif", "histology")
    assert (slide.mpp, slide.size_l0) == (0.5, (330, 200))
    np.testing.assert_array_equal(Plane(slide, 0.5).read(0, 0, 330, 200), IMAGE)


@pytest.mark.parametrize(("axes", "count"), [("CYX", 2), ("CYX", 3), ("ZYX", 5), ("TYX", 2)])
def test_fluorescence_and_stacks_are_refused(axes: str, count: int, tmp_path: Path) -> None:
    planes = np.stack([IMAGE[..., 0]] * count)
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64), "metadata": {"axes": axes, **um(0.5)}}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, ome=True, **options)
    with pytest.raises(
        UserError,
        match=rf"a\.ome\.tif: has several planes \(.*{axes[0]} {count}.*\), .*; save one",
    ):
        open_slide(tmp_path / "a.ome.tif", "histology")


def test_damaged_or_strange_xml_is_told_in_one_line(tmp_path: Path) -> None:
    texts = {
        "cannot be read as a histology slide": "<OME><Image>",
        "describes no image": '<OME><BinaryOnly MetadataFile="x.companion.ome" UUID="u"/></OME>',
        "in another file": '<OME><Image><Pixels SizeX="9" SizeY="9" SizeZ="1" SizeC="3" SizeT="1"/></Image></OME>',
        "has 2 images of": "<OME>{0}{0}</OME>".format(
            '<Image><Pixels SizeX="330" SizeY="200" SizeZ="1" SizeC="3" SizeT="1"/></Image>'
        ),
    }
    for message, text in texts.items():
        tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", description=text, metadata=None)
        with pytest.raises(UserError, match=message) as refusal:
            open_slide(tmp_path / "a.tif", "histology", 0.5)
        assert "\n" not in str(refusal.value)


def test_a_damaged_tile_is_an_unreadable_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", levels=1, sizes=um(0.5), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)
    slide = open_slide(path, "histology")
    with pytest.raises(OSError, match=r"."):
        slide.reader.read(0, 0, 0, 10, 10)
    np.testing.assert_array_equal(slide.reader.read(0, 64, 64, 20, 20)[..., :3], IMAGE[64:84, 64:84])
