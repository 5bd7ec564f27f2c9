"""Planes: the right level, the right place, the right colour; resolutions that cannot be trusted are refused."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from benchmarks.fixtures.slides import tissue_image, write_scene, write_slide
from data_prep.slides.grid import halve
from data_prep.slides.slide import Plane, open_slide
from data_prep.slides.tissue import PER_TILE, read_foreground, tile_shares
from ldm.errors import UserError


def mean2(image: np.ndarray) -> np.ndarray:
    return np.rint(halve(image.astype(np.float32))).astype(np.uint8)


def test_a_slide_is_read_pixel_by_pixel_with_background_around_it(tmp_path):
    image = tissue_image(300, 400)
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", [image], 0.5), "histology"), 0.5)
    assert (plane.width, plane.height, plane.source.step_x) == (400, 300, 1)
    np.testing.assert_array_equal(plane.read(30, 50, 100, 120), image[50:170, 30:130])
    corner = plane.read(390, 290, 20, 20)
    np.testing.assert_array_equal(corner[:10, :10], image[290:, 390:])
    assert (corner[10:] == 255).all()


def test_a_40x_slide_without_levels_is_averaged_to_20x(tmp_path):
    image = tissue_image(512, 512)
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", [image], 0.25), "histology"), 0.5)
    assert (plane.width, plane.height, plane.source.level, plane.source.step_x) == (256, 256, 0, 2)
    difference = plane.read(16, 32, 64, 64).astype(int) - mean2(image)[32:96, 16:80]
    assert abs(difference).max() <= 1  # halves round either way


def test_a_40x_slide_with_a_20x_level_is_read_there(tmp_path):
    image = tissue_image(512, 512)
    levels = [image, mean2(image)]
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", levels, 0.25), "histology"), 0.5)
    assert (plane.source.level, plane.source.step_x) == (1, 1)
    np.testing.assert_array_equal(plane.read(0, 0, 256, 256), levels[1])


def test_resampling_does_not_drift_and_blocks_meet(tmp_path):
    y, x = np.mgrid[:600, :600]
    image = np.stack([x * 0.4, y * 0.4, np.full_like(x, 100)], -1).astype(np.uint8)
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", [image], 0.46), "histology"), 0.5)
    assert (plane.width, plane.height) == (552, 552)
    assert plane.source.step_x == pytest.approx(0.5 / 0.46)
    far = plane.read(500, 500, 40, 40)[20, 20, :2].astype(float)
    np.testing.assert_allclose(far / 0.4, 520.5 * 0.5 / 0.46 - 0.5, atol=3)
    whole = plane.read(100, 100, 64, 64)
    np.testing.assert_array_equal(whole[:, 32:], plane.read(132, 100, 32, 64))


def test_transparent_pixels_take_the_background(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32] = 200, 90, 150, 255
    Image.fromarray(pixels).save(tmp_path / "s.png")
    found = Plane(open_slide(tmp_path / "s.png", "histology", 0.5), 0.5).read(0, 0, 64, 64)
    assert (found[:32] == (200, 90, 150)).all()
    assert (found[32:] == 255).all()


def test_a_scene_is_read_in_metres_by_the_meaning_of_its_bands(tmp_path):
    bands = np.random.default_rng(0).integers(1, 256, (4, 128, 128), dtype=np.uint8)
    bands[:, :, 64:] = 0
    slide = open_slide(write_scene(tmp_path / "s.tif", bands, nodata=0), "satellite")
    plane = Plane(slide, 1.0)
    assert slide.mpp == pytest.approx(1.0)
    np.testing.assert_array_equal(plane.read(0, 0, 128, 128), np.moveaxis(bands[:3], 0, -1))
    mask = read_foreground(Plane(slide, 1.0 * 32 / PER_TILE), 4, 4).mask
    np.testing.assert_array_equal(tile_shares(mask), np.tile([1, 1, 0, 0], (4, 1)))


def test_pages_that_are_no_levels_are_left_out_or_refused(tmp_path):
    image = tissue_image(512, 512)
    black = np.zeros((64, 64, 3), np.uint8)
    path = write_slide(tmp_path / "s.tiff", [image, mean2(image), black, black[:32]], 0.25)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[2].tags["NewSubfileType"].overwrite(1 | 4)  # a mask; the last is of another shape
    assert open_slide(path, "histology").reader.sizes == [(512, 512), (256, 256)]
    path = write_slide(tmp_path / "t.tiff", [image, image], 0.25)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[1].tags["NewSubfileType"].overwrite(1 | 4)
    with pytest.raises(UserError, match="has a mask as large as itself"):
        open_slide(path, "histology")


def test_pictures_too_large_to_hold_and_tiles_too_large_to_decode_are_refused_before_they_are(tmp_path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "s.png")
    with pytest.raises(UserError, match=r"too large to be read whole .* save it in tiles"):
        open_slide(tmp_path / "s.png", "histology", 0.5)
    path = write_slide(tmp_path / "s.tiff", [tissue_image(64, 64)], 0.5)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("TileWidth", "TileLength"):
            tiff.pages.first.tags[name].overwrite(32_768)
    with pytest.raises(UserError, match=f"its tiles have {32_768**2} px, expected at most"):
        open_slide(path, "histology")
