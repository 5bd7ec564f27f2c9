"""Satellite scenes: true metres for any units, axes and bands; pixels without data are masked."""

import math
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from rasterio.enums import ColorInterp
from rasterio.rio.main import main_group
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.warp import transform

from benchmarks.fixtures.slides import write_scene
from data_prep.slides.slide import Plane, open_slide
from ldm.errors import UserError

UTM, SIDE = "EPSG:32614", 256
CENTRE = 500_000.0, 4_000_000.0
"""of zone 14: 99 W, 36.1 N"""
RGBX = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]


def checkers(square: int = 32) -> np.ndarray:
    """(4, 256, 256) whose colours distinguish east from west and north from south."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([50 + (x // square) * 20, 50 + (y // square) * 20, np.full_like(x, 90), 255 - x]).astype(np.uint8)


def write(path, bands: np.ndarray, place: Affine, crs: str | None, colours=RGBX, **more):
    alpha = "YES" if colours and ColorInterp.alpha in colours else "NO"
    layout = {
        "count": len(bands),
        "photometric": "RGB",
        "alpha": alpha,
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=place, **(layout | more)) as file:
            file.write(bands)
            if colours:
                file.colorinterp = colours[: len(bands)]
    return path


def centred(metres: float) -> Affine:
    return from_origin(CENTRE[0] - SIDE / 2 * metres, CENTRE[1] + SIDE / 2 * metres, metres, metres)


def middle(plane: Plane, size: int = 96) -> np.ndarray:
    """The `size` x `size` m around the middle of a plane of 1 m."""
    return plane.read((plane.width - size) // 2, (plane.height - size) // 2, size, size).astype(float)


@pytest.fixture
def upright(tmp_path) -> np.ndarray:
    return middle(Plane(open_slide(write(tmp_path / "upright.tif", checkers(), centred(1.0), UTM), "satellite"), 1.0))


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for a resampled pixel at the borders of squares."""
    return float(np.abs(found - expected).mean()) < 1.5


@pytest.mark.parametrize("metres", [0.3, 0.6, 0.5])
def test_a_finer_scene_is_resampled_to_the_metre(tmp_path, metres):
    path = write(tmp_path / "s.tif", checkers(), centred(metres), UTM)
    plane = Plane(open_slide(path, "satellite"), 1.0)
    assert (plane.width, plane.height) == (round(SIDE * metres), round(SIDE * metres))
    x, y = plane.width // 4, plane.height // 2
    expected = checkers()[:3, int((y + 0.5) / metres), int((x + 0.5) / metres)]
    assert np.abs(plane.read(x, y, 1, 1)[0, 0].astype(int) - expected).max() <= 20


def test_a_coarser_scene_is_refused(tmp_path):
    path = write(tmp_path / "s.tif", checkers(), centred(10.0), UTM)
    with pytest.raises(UserError, match=r"says 10 m per pixel, expected 0\.05 to 5"):
        open_slide(path, "satellite")
    path = write(tmp_path / "t.tif", checkers(), centred(2.0), UTM)
    with pytest.raises(UserError, match="scanned at 2 m per pixel, expected 1 or finer"):
        Plane(open_slide(path, "satellite"), 1.0)


def test_survey_feet_are_feet(tmp_path):
    crs = "EPSG:2277"  # Texas Central, US survey feet
    x, y = (value[0] for value in transform(UTM, crs, [620_000.0], [3_350_000.0]))
    slide = open_slide(write(tmp_path / "s.tif", checkers(), from_origin(x, y, 3.0, 3.0), crs), "satellite")
    assert slide.mpp == pytest.approx(3 * 1200 / 3937, rel=1e-6)
    assert slide.size_l0 == (SIDE, SIDE)


def test_degrees_are_projected_to_metres(tmp_path, upright):
    (west, east), (south, north) = transform(
        UTM, "EPSG:4326", [CENTRE[0] - 128, CENTRE[0] + 128], [CENTRE[1] - 128, CENTRE[1] + 128]
    )
    place = from_origin(west, north, (east - west) / SIDE, (north - south) / SIDE)
    slide = open_slide(write(tmp_path / "s.tif", checkers(), place, "EPSG:4326"), "satellite")
    assert slide.mpp == pytest.approx(1, abs=0.15)
    plane = Plane(slide, 1.0)
    assert abs(plane.width - SIDE) < 6
    assert close(middle(plane), upright)


def test_web_mercator_is_no_metre_on_the_ground(tmp_path, upright):
    (x,), (y,) = transform(UTM, "EPSG:3857", [CENTRE[0]], [CENTRE[1]])
    (_,), (latitude,) = transform(UTM, "EPSG:4326", [CENTRE[0]], [CENTRE[1]])
    step = 1 / math.cos(math.radians(latitude))
    place = from_origin(x - SIDE / 2 * step, y + SIDE / 2 * step, step, step)
    slide = open_slide(write(tmp_path / "s.tif", checkers(), place, "EPSG:3857"), "satellite")
    assert slide.mpp == pytest.approx(1, abs=0.02)
    assert close(middle(Plane(slide, 1.0)), upright)


def test_a_rotated_scene_is_turned_upright(tmp_path, upright):
    turned = np.rot90(checkers(), axes=(1, 2))  # columns run north to south, rows east to west
    place = Affine(0.0, -1.0, CENTRE[0] + 128, -1.0, 0.0, CENTRE[1] + 128)
    plane = Plane(open_slide(write(tmp_path / "s.tif", turned, place, UTM), "satellite"), 1.0)
    assert close(middle(plane), upright)


def test_a_scene_stored_upside_down_is_read_north_up(tmp_path, upright):
    place = Affine(1.0, 0.0, CENTRE[0] - 128, 0.0, 1.0, CENTRE[1] - 128)
    path = write(tmp_path / "s.tif", checkers()[:, ::-1], place, UTM)
    assert close(middle(Plane(open_slide(path, "satellite"), 1.0)), upright)


def test_what_lies_outside_a_turned_scene_has_no_data(tmp_path):
    place = Affine.translation(*CENTRE) * Affine.rotation(30) * Affine.scale(1, -1)
    plane = Plane(open_slide(write(tmp_path / "s.tif", checkers(), place, UTM), "satellite"), 1.0)
    assert plane.coverage(0, 0, 8, 8).max() == 0
    seen = plane.coverage(0, 0, plane.width, plane.height) > 0
    assert seen.sum() == pytest.approx(SIDE**2, rel=0.02)


def test_bands_go_by_their_colours_and_not_their_order(tmp_path):
    bands = checkers()
    order = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    path = write(tmp_path / "s.tif", bands[::-1], centred(1.0), UTM, order, photometric="MINISBLACK")
    found = Plane(open_slide(path, "satellite"), 1.0).read(0, 0, SIDE, SIDE)
    np.testing.assert_array_equal(found, np.moveaxis(bands[:3], 0, -1))


def test_bands_without_colours_are_refused_and_the_remedy_works(tmp_path):
    path = write(tmp_path / "naip.tif", checkers(), centred(1.0), UTM, None, photometric="MINISBLACK")
    with pytest.raises(UserError, match="bands are gray, undefined, undefined, undefined, without red") as error:
        open_slide(path, "satellite")
    remedy = str(error.value).rsplit(": ", 1)[1]
    assert remedy.startswith("rio edit-info --colorinterp ")
    done = CliRunner().invoke(main_group, remedy.removeprefix("rio ").replace("FILE", str(path)).split())
    assert done.exit_code == 0, done.output
    found = Plane(open_slide(path, "satellite"), 1.0).read(0, 0, SIDE, SIDE)
    np.testing.assert_array_equal(found, np.moveaxis(checkers()[:3], 0, -1))


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("how", ["nodata", "mask", "alpha"])
def test_what_has_no_data_is_not_seen(tmp_path, how, crs):
    bands = np.full((4, 128, 128), 120, np.uint8)
    bands[:, :, 64:] = 0
    place = centred(1.0) if crs == UTM else from_origin(-99, 36, 1.11e-5, 9e-6)
    path = tmp_path / "s.tif"
    if how == "alpha":
        bands[3, :, :64] = 255
        write(path, bands, place, crs, [*RGBX[:3], ColorInterp.alpha])
    else:
        write(path, bands, place, crs, **({"nodata": 0} if how == "nodata" else {}))
    if how == "mask":
        with rasterio.open(path, "r+") as file:
            file.write_mask(bands[0] > 0)
    plane = Plane(open_slide(path, "satellite"), 1.0)
    half = plane.width // 2
    seen = plane.coverage(0, 0, plane.width, plane.height) > 127
    assert seen[4:-4, 4 : half - 4].all()
    assert not seen[:, half + 4 :].any()
    assert (plane.read(4, 4, half - 8, 32) == 120).all()


def test_a_coarse_level_that_the_file_has_is_read(tmp_path):
    path = write(tmp_path / "s.tif", np.full((4, 512, 512), 100, np.uint8), centred(0.5), UTM, tiled=True)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    plane = Plane(open_slide(path, "satellite"), 1.0)
    assert (plane.source.level, plane.source.step_x) == (1, 1)
    assert (plane.read(10, 10, 50, 50) == 100).all()


def test_scenes_without_place_bits_or_pixels_of_their_own_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not say its m per pixel"):
        open_slide(write(tmp_path / "a.tif", checkers(), Affine.identity(), None), "satellite")
    assert open_slide(tmp_path / "a.tif", "satellite", mpp=0.6).mpp == 0.6
    with pytest.raises(
        UserError, match=r"bands are uint16, uint16, uint16, uint16, expected uint8; scale all scenes alike.*-ot Byte"
    ):
        open_slide(write(tmp_path / "b.tif", checkers().astype(np.uint16), centred(1.0), UTM), "satellite")
    with pytest.raises(UserError, match="nowhere on Earth"):
        open_slide(write_scene(tmp_path / "c.tif", checkers()[:3], crs="EPSG:4326"), "satellite")
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    with pytest.raises(UserError, match="in no system of the Earth"):
        open_slide(write(tmp_path / "f.tif", checkers(), centred(1.0), local), "satellite")
    source = write(tmp_path / "d.tif", checkers(), centred(1.0), UTM)
    copy(source, tmp_path / "e.tif", driver="VRT")
    with pytest.raises(UserError, match="is VRT, expected GeoTIFF"):
        open_slide(tmp_path / "e.tif", "satellite")


def naip(water: float) -> np.ndarray:
    """(4, 256, 256) like an aerial photograph: infrared is 0 on most of the water, `water` of the width, never 255."""
    rng = np.random.default_rng(0)
    bands = rng.integers(40, 200, (4, SIDE, SIDE), dtype=np.uint8)
    edge = round(water * SIDE)
    bands[3, :, :edge] = rng.choice(np.array([0, 0, 0, 0, 0, 0, 0, 0, 3, 30], np.uint8), (SIDE, edge))
    return bands


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("water", [0.33, 0.97, 1.0, "none of it"])
def test_infrared_that_gdal_tags_alpha_hides_nothing(tmp_path, crs, water):
    bands = naip(1.0 if water == "none of it" else water)
    if water == "none of it":
        bands[3] = 0
    place = centred(1.0) if crs == UTM else from_origin(-99, 36, 1.11e-5, 9e-6)
    layout = {"driver": "GTiff", "count": 4, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    layout |= {"crs": crs, "transform": place}
    for name, options in (("tagged", {}), ("named", {"photometric": "RGB", "alpha": "NO"})):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **layout, **options) as file:
            file.write(bands)
    with rasterio.open(tmp_path / "tagged.tif") as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    tagged, named = (Plane(open_slide(tmp_path / f"{name}.tif", "satellite"), 1.0) for name in ("tagged", "named"))
    window = (0, 0, tagged.width, tagged.height)
    np.testing.assert_array_equal(tagged.read(*window), named.read(*window))
    np.testing.assert_array_equal(tagged.coverage(*window), named.coverage(*window))
    if crs == UTM:
        assert tagged.coverage(*window).min() == 255
        np.testing.assert_array_equal(tagged.read(*window), np.moveaxis(bands[:3], 0, -1))
    (note,) = tagged.slide.reader.notes
    assert note.startswith("band 4 is tagged alpha")
    assert named.slide.reader.notes == ()


def test_infrared_is_no_mask_at_coarse_levels_and_beside_a_mask_of_its_own(tmp_path):
    bands = np.tile(naip(0.5), (1, 2, 2))
    path = write(tmp_path / "s.tif", bands, centred(0.5), UTM, None, tiled=True, alpha="YES")
    with rasterio.open(path, "r+") as file:
        hidden = np.zeros(bands.shape[1:], bool)
        hidden[:64] = True
        file.write_mask(~hidden)
        file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    plane = Plane(open_slide(path, "satellite"), 1.0)
    assert plane.source.level == 1
    seen = plane.coverage(0, 0, SIDE, SIDE)
    assert seen[:31].max() == 0
    assert seen[33:].min() == 255


def test_a_mask_with_soft_edges_is_a_mask(tmp_path):
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(y - 100, x - 140)
    for radius in (20, 100):
        bands = naip(0.0)
        bands[3] = np.clip((radius - distance) * 128, 0, 255)
        path = write(tmp_path / f"{radius}.tif", bands, centred(1.0), UTM, [*RGBX[:3], ColorInterp.alpha])
        plane = Plane(open_slide(path, "satellite"), 1.0)
        assert plane.slide.reader.notes == ()
        np.testing.assert_array_equal(plane.coverage(0, 0, SIDE, SIDE) > 0, bands[3] > 0)
