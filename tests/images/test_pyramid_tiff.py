"""Pyramidal TIFF: content, independence of the bands, and atomic writes."""

import errno
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

import ldm.images.pyramid_tiff
from ldm.errors import UserError
from ldm.images.pyramid_tiff import PyramidWriter, halve, write_pyramid


def smooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([127 + 100 * np.sin(y / 60), 127 + 100 * np.cos(x / 45), (y + x) / (h + w) * 255], -1).astype(
        np.uint8
    )


def read(slide: openslide.OpenSlide, level: int) -> np.ndarray:
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


def bands(image: np.ndarray, *heights: int) -> Iterator[np.ndarray]:
    """`image` from top to bottom, in bands of `heights` in turn."""
    row = turn = 0
    while row < len(image):
        yield image[row : row + heights[turn % len(heights)]]
        row, turn = row + heights[turn % len(heights)], turn + 1


def test_halve_is_the_rounded_mean_of_2x2():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    means = image.reshape(3, 2, 4, 2, 3).astype(float).mean((1, 3))
    np.testing.assert_array_equal(halve(image), np.floor(means + 0.5))


def test_halve_repeats_an_odd_border():
    image = np.full((3, 5, 3), 200, np.uint8)
    assert halve(image).shape == (2, 3, 3)
    assert (halve(image) == 200).all()


def test_openslide_reads_levels_resolution_and_colours(tmp_path):
    image = smooth(768, 1024)
    write_pyramid(tmp_path / "slide.tiff", image, mpp=0.25, tile_px=128)
    with openslide.OpenSlide(tmp_path / "slide.tiff") as slide:
        assert slide.level_dimensions == ((1024, 768), (512, 384), (256, 192), (128, 96))
        assert slide.level_downsamples == (1, 2, 4, 8)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25, rel=1e-4)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(0.25, rel=1e-4)
        for level, expected in enumerate((image, halve(image), halve(halve(image)))):
            assert np.abs(read(slide, level).astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize("size", [(301, 217), (64, 500), (1, 1), (129, 64)])
def test_bands_of_any_height_make_the_file_of_the_whole_image(tmp_path, size):
    image = smooth(*size)
    write_pyramid(tmp_path / "whole.tiff", image, mpp=0.5, tile_px=64)
    with PyramidWriter(tmp_path / "bands.tiff", *size, mpp=0.5, tile_px=64) as writer:
        for band in bands(image, 7, 100, 1, 64):
            writer.write(band)
    assert (tmp_path / "bands.tiff").read_bytes() == (tmp_path / "whole.tiff").read_bytes()
    with tifffile.TiffFile(tmp_path / "bands.tiff") as file:
        for page in file.pages:
            assert page.shape == image.shape
            assert np.abs(page.asarray().astype(int) - image).max() < 16
            image = halve(image)
        assert min(file.pages[-1].shape[:2]) <= 64


def test_satellite_resolutions_in_metres_come_back(tmp_path):
    write_pyramid(tmp_path / "scene.tiff", smooth(64, 64), mpp=8e6)
    with openslide.OpenSlide(tmp_path / "scene.tiff") as slide:
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(8e6, rel=1e-4)


def test_chroma_is_not_subsampled(tmp_path):
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, ::2] = (200, 40, 40)
    image[:, 1::2] = (40, 40, 200)
    write_pyramid(tmp_path / "stripes.tiff", image, mpp=0.5)
    with openslide.OpenSlide(tmp_path / "stripes.tiff") as slide:
        assert np.abs(read(slide, 0).astype(int) - image).mean() < 8


def test_a_file_that_outgrows_classic_tiff_is_a_bigtiff(tmp_path, monkeypatch):
    write_pyramid(tmp_path / "small.tiff", smooth(300, 300), mpp=0.5)
    monkeypatch.setattr(ldm.images.pyramid_tiff, "CLASSIC_BYTES", 1000)
    write_pyramid(tmp_path / "large.tiff", smooth(300, 300), mpp=0.5)
    for name, big in (("small", False), ("large", True)):
        with tifffile.TiffFile(tmp_path / f"{name}.tiff") as file:
            assert file.is_bigtiff is big
    with openslide.OpenSlide(tmp_path / "large.tiff") as slide:
        assert slide.level_dimensions == ((300, 300), (150, 150))


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    band = smooth(64, 512)
    with PyramidWriter(tmp_path / "tall.tiff", 8192, 512, mpp=0.5) as writer:
        tracemalloc.start()
        for _ in range(8192 // 64):
            writer.write(band)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 256 * 512 * 3 * 8  # a few rows of tiles; the image is 32 of them


@pytest.mark.parametrize(
    ("image", "mpp", "tile_px", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), 0.5, 256, "uint8"),
        (np.zeros((64, 64), np.uint8), 0.5, 256, "uint8"),
        (np.zeros((0, 64, 3), np.uint8), 0.5, 256, "at least 1x1"),
        (np.zeros((64, 64, 3), np.uint8), 0.0, 256, "mpp is 0"),
        (np.zeros((64, 64, 3), np.uint8), float("nan"), 256, "mpp is nan"),
        (np.zeros((64, 64, 3), np.uint8), 0.5, 100, "multiple of 16"),
    ],
)
def test_bad_pyramids_are_refused_in_one_line(tmp_path, image, mpp, tile_px, message):
    with pytest.raises(UserError, match=message) as refusal:
        write_pyramid(tmp_path / "slide.tiff", image, mpp, tile_px)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(20, 30)], "20 rows written; expected 40"),
        ([(30, 30), (20, 30)], "50 rows written; expected 40"),
        ([(40, 29)], r"band is uint8 \(40, 29, 3\); expected uint8 \(rows, 30, 3\)"),
    ],
)
def test_bands_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, sizes, message):
    def write() -> None:
        with PyramidWriter(tmp_path / "a.tiff", 40, 30, mpp=0.5) as writer:
            for size in sizes:
                writer.write(smooth(*size))

    with pytest.raises(UserError, match=message):
        write()
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "slide.tiff"
    path.write_bytes(b"old")

    def fail(image: np.ndarray) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr("ldm.images.pyramid_tiff.halve", fail)
    with pytest.raises(MemoryError):
        write_pyramid(path, smooth(512, 512), mpp=0.5)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("when", ["writing", "assembling"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, when):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "writing":
        monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    else:
        monkeypatch.setattr("tifffile.TiffWriter.write", full)
    path = tmp_path / "slide.tiff"
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)  # 3 MB, as JPEG about 2
    with pytest.raises(UserError, match=r"slide.tiff: the disk is full: it needs [3-7],\d{3},\d{3} bytes") as refusal:
        write_pyramid(path, noise, mpp=0.5)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
