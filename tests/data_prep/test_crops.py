"""Large pictures cut out of tissue: the slide's own pixels, apart from each other, where there is tissue."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from benchmarks.fixtures.slides import tissue_image, write_scene, write_slide
from data_prep import crops
from data_prep.crops import apart, cut
from data_prep.slides.slide import Plane, open_slide
from ldm.errors import UserError
from ldm.images.pictures import read_picture


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "slide.tiff"
    write_slide(path, [tissue_image(1024, 1024)], 0.5)
    return path


def test_pictures_are_the_pixels_of_the_slide_and_lie_apart(slide: Path, tmp_path: Path) -> None:
    paths = cut([slide], "histology", 256, 2, tmp_path / "out")
    places = [tuple(map(int, path.stem.split("_")[1:])) for path in paths]
    plane = Plane(open_slide(slide, "histology"), 0.5)
    for path, (row, col) in zip(paths, places, strict=True):
        np.testing.assert_array_equal(np.array(Image.open(path)), plane.read(col, row, 256, 256))
    (row, col), (other_row, other_col) = places
    assert max(abs(row - other_row), abs(col - other_col)) >= 256
    assert cut([slide], "histology", 256, 2, tmp_path / "out") == paths
    assert {path.parent for path in paths} == {tmp_path / "out"}


def test_pictures_of_another_slide_or_size_of_that_name_are_cut_again(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (path,) = cut([slide], "histology", 256, 1, out)
    made, first = path.stat().st_mtime_ns, path.read_bytes()
    cut([slide], "histology", 256, 1, out)
    assert path.stat().st_mtime_ns == made
    write_slide(slide, [np.flip(tissue_image(1024, 1024), 2) // 2], 0.5)
    for again in cut([slide], "histology", 256, 4, out):
        row, col = map(int, again.stem.split("_")[1:])
        expected = Plane(open_slide(slide, "histology"), 0.5).read(col, row, 256, 256)
        np.testing.assert_array_equal(np.array(Image.open(again)), expected)
    for again in cut([slide], "histology", 128, 4, out):
        assert Image.open(again).size == (128, 128)
    path.write_bytes(first)
    (out / crops.KEPT).unlink()
    assert all(Image.open(again).size == (256, 256) for again in cut([slide], "histology", 256, 4, out))


def test_pictures_of_a_scene_lie_where_they_were_cut(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(1, 256, (4, 600, 600), dtype=np.uint8)
    path = write_scene(tmp_path / "scene.tif", bands, metres=0.5)
    (cutting,) = cut([path], "satellite", 128, 1, tmp_path / "out")
    row, col = map(int, cutting.stem.split("_")[1:])
    with rasterio.open(path) as scene, rasterio.open(cutting) as part:
        assert part.crs == scene.crs
        assert part.transform * (0, 0) == pytest.approx(scene.transform * (2 * col, 2 * row))
        assert part.res == (1.0, 1.0)
    assert read_picture(cutting).pixels.shape == (128, 128, 3)


def test_places_are_in_the_tissue_and_do_not_touch() -> None:
    shares = np.zeros((12, 12))
    shares[2:10, 2:10] = 1
    places = apart(shares, 3, 100, seed=0)
    assert 2 <= len(places) <= 4
    for number, (row, col) in enumerate(places):
        assert shares[row : row + 3, col : col + 3].mean() >= crops.TISSUE
        assert all(max(abs(row - i), abs(col - j)) >= 3 for i, j in places[:number])
    assert apart(shares, 3, 100, seed=0) == places != apart(shares, 3, 100, seed=1)
    assert apart(shares, 13, 1, seed=0) == []


def test_a_slide_with_too_little_tissue_is_told(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"slide\.tiff: \d places of 256 px in its tissue; expected 99"):
        cut([slide], "histology", 256, 99, tmp_path / "out")


def test_slides_of_one_name_are_refused_since_their_pictures_would_be_mixed(slide: Path, tmp_path: Path) -> None:
    other = tmp_path / "b" / slide.name
    other.parent.mkdir()
    other.write_bytes(slide.read_bytes())
    with pytest.raises(UserError, match=r"slide\.tiff and .*b/slide\.tiff: their pictures would have one name"):
        cut([slide, other], "histology", 256, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
