"""Places: no drift at odd downsamples, pixels within the scanner's bounds, every scale's regions where they belong."""

import numpy as np
import pytest
from einops import reduce
from PIL import Image

from benchmarks.fixtures.slides import tissue_image, write_leica, write_slide
from data_prep.plan import Plan, plan_slide
from data_prep.preparation import prepare
from data_prep.preparation_config import EncoderConfig, LadderConfig, PrepareConfig
from data_prep.slides.find import Task
from data_prep.slides.readers import Box, OpenSlideReader
from data_prep.slides.slide import Plane, Slide, UnreadableError, open_slide, read_with_recovery
from ldm.data.h5 import SlideFile
from ldm.scales import ladder

FAR = 24
"""level-0 px from the far end to the middle of a dark bar"""


def strip(length: int, across: int, vertical: bool) -> np.ndarray:
    """A white strip with a dark bar just before its far end."""
    image = np.full((across, length, 3), 250, np.uint8)
    image[:, length - FAR - 8 : length - FAR + 8] = 20
    return np.ascontiguousarray(np.swapaxes(image, 0, 1)) if vertical else image


def shrunk(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize(
    ("length", "level", "across", "across_level", "mpp"),
    [
        (8002, 4000, 256, 128, 0.5),  # downsample 2.0005, read where the level is
        (8000, 1992, 256, 64, 1.0),  # 4.0161
        (8000, 1992, 254, 64, 2.0),  # 4.0161 along and 3.97 across, and half of it again
    ],
)
def test_the_far_end_shifts_by_less_than_a_pixel(tmp_path, vertical, length, level, across, across_level, mpp):
    image = strip(length, across, vertical)
    sizes = (across_level, level) if vertical else (level, across_level)
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", [image, shrunk(image, *sizes)], 0.25), "histology"), mpp)
    assert plane.source.level == 1
    end = plane.height if vertical else plane.width
    begin = end - 64
    seen = plane.read(4, begin, 8, 64) if vertical else plane.read(begin, 4, 64, 8)
    dark = 250 - seen[..., 0].astype(float).mean(1 if vertical else 0)
    found = begin + (dark * (np.arange(64) + 0.5)).sum() / dark.sum()
    assert abs(found - (length - FAR) * 0.25 / mpp) < 0.5


def test_pixels_of_a_level_whose_last_ones_were_cut_are_taken_as_they_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (258, 8003, 3), dtype=np.uint8)
    level = shrunk(image[:256, :8000], 2000, 64)
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", [image, level], 0.25), "histology"), 1.0)
    assert (plane.source.step_x, plane.source.step_y) == (1, 1)
    difference = np.abs(plane.read(0, 0, 2000, 64).astype(int) - level)
    assert difference[:, :200].max() <= 1
    assert difference.mean() < 24  # a part of a pixel's shift at the far end, of noise


class Scan:
    """A reader of one level that was scanned only inside `extent`."""

    background = (255, 255, 255)
    mpp = (0.25, 0.25)

    def __init__(self, image: np.ndarray, extent: Box, bad: tuple[int, int] | None = None, failures: int = 0) -> None:
        self._image = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
        self.size_l0, self.extent, self.sizes = image.shape[1::-1], extent, [extent[2:]]
        self.bad, self.failures = bad, failures

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> np.ndarray:
        if self.bad and x_level <= self.bad[0] < x_level + width and y_level <= self.bad[1] < y_level + height:
            self.failures -= 1
            if self.failures >= 0:
                raise OSError("damaged")
        x, y = self.extent.x + x_level, self.extent.y + y_level
        return self._image[y : y + height, x : x + width]


class ScannedSlide(Slide):
    def reopen(self) -> None:
        pass


def scanned(reader: Scan) -> Slide:
    return ScannedSlide("scan", "histology", reader, 0.25, "file")


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.46])
def test_only_what_lies_in_the_bounds_is_read_and_places_stay_those_of_the_file(mpp):
    image = np.random.default_rng(0).integers(0, 200, (400, 600, 3), dtype=np.uint8)
    extent = Box(101, 50, 302, 200)
    plane = Plane(scanned(Scan(image, extent)), mpp)
    cut = Plane(scanned(Scan(image[50:250, 101:403], Box(0, 0, 302, 200))), mpp)
    assert (plane.origin_l0, plane.width, plane.height) == ((101, 50), cut.width, cut.height)
    np.testing.assert_array_equal(plane.read(0, 0, 128, 96), cut.read(0, 0, 128, 96))
    np.testing.assert_array_equal(plane.read(-16, -16, 8, 8), np.full((8, 8, 3), 255))
    assert plane.corner_l0(100, 40) == (round(101 + 100 * mpp / 0.25), round(50 + 40 * mpp / 0.25))
    np.testing.assert_allclose(plane.extent, (0, 0, 302 * 0.25 / mpp, 200 * 0.25 / mpp))


def test_an_origin_off_the_levels_pixels_moves_onto_one_and_says_so(tmp_path):
    image = tissue_image(512, 512)
    path = write_slide(tmp_path / "s.tiff", [image, shrunk(image, 256, 256)], 0.25)
    plane = Plane(open_slide(path, "histology"), 0.5, (101, 50))
    assert plane.origin_l0 == (100, 50)
    np.testing.assert_array_equal(plane.read(0, 0, 64, 64), shrunk(image, 256, 256)[25:89, 50:114])


@pytest.mark.parametrize("corner", [(200, 301), (201, 300)])
def test_the_scan_on_a_leica_slide_is_what_is_read(tmp_path, corner):
    image = tissue_image(512, 640)
    levels = [image, shrunk(image, 320, 256)]
    path = write_leica(tmp_path / "s.scn", levels, (1400, 1200), corner, 0.25)
    slide = open_slide(path, "histology")
    assert slide.size_l0 == (1400, 1200)
    assert slide.reader.extent == Box(*corner, 640, 512)
    full, half = Plane(slide, 0.25), Plane(slide, 0.5)
    assert (full.width, full.height, full.origin_l0) == (640, 512, corner)
    np.testing.assert_array_equal(full.read(0, 0, 640, 512), image)
    assert half.source.level == 1
    assert half.origin_l0 == corner
    np.testing.assert_array_equal(half.read(0, 0, 320, 256), levels[1])
    assert (full.read(-32, 0, 32, 32) == 255).all()


def test_the_background_is_what_openslide_says(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "s.tiff", [tissue_image(256, 256)], 0.5)
    monkeypatch.setattr("openslide.OpenSlide.properties", {"openslide.background-color": "F0E1D2"}, raising=False)
    assert OpenSlideReader(path).background == (0xF0, 0xE1, 0xD2)


def test_what_fails_once_is_read_again_and_what_fails_twice_is_lost_alone():
    image = np.random.default_rng(0).integers(0, 200, (64, 64, 3), dtype=np.uint8)
    extent, blank = Box(0, 0, 64, 64), np.array([1, 2, 3], np.uint8)
    once = Plane(scanned(Scan(image, extent, bad=(40, 20), failures=1)), 0.25)
    np.testing.assert_array_equal(once.read(0, 0, 64, 64), image)
    often = Plane(scanned(Scan(image, extent, bad=(40, 20), failures=1000)), 0.25)
    with pytest.raises(UnreadableError, match=r"level 0 at \(0, 0\)"):
        often.read(0, 0, 64, 64)
    pixels, lost = read_with_recovery(often.read, (0, 0, 64, 64), 16, blank)
    assert np.argwhere(lost).tolist() == [[1, 2]]
    np.testing.assert_array_equal(pixels[16:32, 32:48], np.broadcast_to(blank, (16, 16, 3)))
    pixels[16:32, 32:48] = image[16:32, 32:48]
    np.testing.assert_array_equal(pixels, image)


def test_partial_regions_are_padded_or_skipped_and_tissue_is_asked_for_by_scale(tmp_path):
    path = write_slide(tmp_path / "a.tiff", [np.full((300, 420, 3), (200, 90, 150), np.uint8)], 0.5)
    task = Task(path, "a", tmp_path / "a.h5")

    def plan(**more: object) -> Plan:
        ladder, encoder = LadderConfig("histology", 4), EncoderConfig("demo")
        common = {"slides": "", "out": "", "ladder": ladder, "encoder": encoder, "autoencoder": None, "tile_px": 32}
        return plan_slide(task, PrepareConfig(**common, tissue_share={"20x": 0.5, "2.5x": 0.2}, **more), 4)

    padded, skipped = plan(), plan(partial="skip", valid_share=0.7)
    assert padded.valid[0][:10, :14].min() == pytest.approx(4 / 32 * 12 / 32)  # the corner tile
    assert padded.valid[3][0].tolist() == pytest.approx([1, 164 / 256])
    for index, least in enumerate((0.5, 0.1, 0.1, 0.2)):
        mask, valid = padded.kept[index], padded.valid[index]
        np.testing.assert_array_equal(mask, valid >= least)  # all of the slide is tissue
        np.testing.assert_array_equal(skipped.kept[index], mask & (valid >= 0.7))
    assert [int(mask.sum()) for mask in skipped.kept] == [9 * 13, 4 * 6, 2 * 3, 1]


@pytest.mark.parametrize("pyramid", [False, True])
def test_regions_of_the_eight_scales_are_level_0_at_their_size_on_a_slide_smaller_than_a_field(tmp_path, pyramid):
    tile, zooms = 32, ladder("histology")
    image = tissue_image(1100, 1500, 3)
    levels = [image, shrunk(image, 750, 550), shrunk(image, 187, 137)] if pyramid else [image]
    write_slide(tmp_path / "slides" / "a.tiff", levels, 0.25)
    config = PrepareConfig(
        slides=str(tmp_path / "slides"),
        out=str(tmp_path / "out"),
        ladder=LadderConfig("histology"),
        encoder=EncoderConfig("demo"),
        autoencoder=None,
        tile_px=tile,
        tissue_share=0.0,
        images="png",
    )
    assert prepare(config)[0].status == "prepared"
    slide = SlideFile(tmp_path / "out" / "a.h5")
    assert slide.grid == (128, 128)
    base = np.full((4096, 4096, 3), 255.0)
    base[:550, :750] = reduce(image.astype(float), "(h a) (w b) c -> h w c", "mean", a=2, b=2)
    inside = np.zeros((4096, 4096))
    inside[:550, :750] = 1
    assert [slide.embedding(name, 0).shape[-1] for name in zooms.names] == [1, 2, 4, 8, 8, 8, 8, 8]
    for scale in zooms:
        side, count = tile * scale.downsample, slide.count(scale.name)
        assert count > 0
        for (i, j), valid, pixels in zip(
            slide.ij(scale.name), slide.valid(scale.name), slide.images(scale.name, range(count)), strict=True
        ):
            place = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
            expected = reduce(base[place], "(h a) (w b) c -> h w c", "mean", a=scale.downsample, b=scale.downsample)
            assert np.abs(pixels - expected).max() <= 2
            assert valid == pytest.approx(inside[place].mean(), abs=1e-4)
