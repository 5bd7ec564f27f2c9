"""Pictures on disk: what a viewer finds in a pyramid, and that a file is whole or absent."""

import numpy as np
import openslide
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.io import contact_sheet, halve, save_png, write_pyramid


def smooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([127 + 100 * np.sin(y / 60), 127 + 100 * np.cos(x / 45), (y + x) / (h + w) * 255], -1).astype(
        np.uint8
    )


def read(slide: openslide.OpenSlide, level: int) -> np.ndarray:
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


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


def test_chroma_is_not_subsampled(tmp_path):
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, ::2] = (200, 40, 40)
    image[:, 1::2] = (40, 40, 200)
    write_pyramid(tmp_path / "stripes.tiff", image, mpp=0.5)
    with openslide.OpenSlide(tmp_path / "stripes.tiff") as slide:
        assert np.abs(read(slide, 0).astype(int) - image).mean() < 8


@pytest.mark.parametrize(
    ("image", "mpp", "tile_px", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), 0.5, 256, "uint8"),
        (np.zeros((64, 64), np.uint8), 0.5, 256, "uint8"),
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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "slide.tiff"
    path.write_bytes(b"old")

    def fail(image: np.ndarray) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr("ldm.io.halve", fail)
    with pytest.raises(MemoryError):
        write_pyramid(path, smooth(512, 512), mpp=0.5)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_png_round_trip(tmp_path):
    save_png(tmp_path / "new" / "a.png", smooth(40, 30))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), smooth(40, 30))


@pytest.mark.parametrize("side", [32, 128])
def test_contact_sheet_shows_every_picture_unscaled(tmp_path, side):
    colours = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250)]]
    rows = [[np.full((side, side, 3), colour, np.uint8) for colour in row] for row in colours]
    contact_sheet(rows, ["first", "second"], ["real", "generated"], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for colour in (colour for row in colours for colour in row):
        assert (sheet == colour).all(-1).sum() == side * side


def test_contact_sheet_labels_leave_ink(tmp_path):
    rows = [[np.full((64, 64, 3), 255, np.uint8)]]
    contact_sheet(rows, [""], [""], tmp_path / "bare.png")
    contact_sheet(rows, ["20x"], ["real"], tmp_path / "labelled.png")
    assert np.asarray(Image.open(tmp_path / "bare.png")).min() == 255
    assert np.asarray(Image.open(tmp_path / "labelled.png")).min() < 100


def test_contact_sheet_refuses_wrong_labels(tmp_path):
    rows = [[smooth(16, 16)]]
    with pytest.raises(UserError, match="expected one each"):
        contact_sheet(rows, ["a", "b"], ["c"], tmp_path / "sheet.png")
    with pytest.raises(UserError, match="no pictures"):
        contact_sheet([], [], [], tmp_path / "sheet.png")
