"""The demo world: reproducible slides, structure at every scale, valid files."""

import hashlib
import subprocess
import sys

import numpy as np
import openslide
import pytest
import rasterio
from rasterio.crs import CRS
from scipy import ndimage

from ldm.cli.draw import main
from ldm.demo.arrangement import BORDER, COUNT, FOLLICLE_PX, NEST_PX
from ldm.demo.histology import GLASS, histology_slide
from ldm.demo.histology_map import region_maps
from ldm.demo.satellite import satellite_scene
from ldm.demo.textures import STEP, TILE, RegionMaps, jittered_grid, mosaic, noise
from ldm.demo.true_map import CLASSES, true_map
from ldm.demo.world import generate, open_quietly, overview, write_labels
from ldm.errors import UserError
from ldm.images.class_maps import drawn
from ldm.images.geojson import in_pixels, read_regions
from ldm.images.pyramid_tiff import halve
from ldm.images.rasters import place_of

DRAW = {"histology": histology_slide, "satellite": satellite_scene}
SIZE = 1024


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def slides() -> dict[str, np.ndarray]:
    return {kind: draw(5, SIZE) for kind, draw in DRAW.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    for kind in DRAW:
        generate(out, count=1, seed=5, kind=kind, size_px=SIZE)
    return out


@pytest.mark.parametrize(("kind", "bands"), [("histology", 3), ("satellite", 4)])
def test_a_fresh_process_draws_the_same_slide(slides, kind, bands):
    assert slides[kind].shape == (SIZE, SIZE, bands)
    assert slides[kind].dtype == np.uint8
    code = (
        f"import hashlib; from ldm.demo.{kind} import {DRAW[kind].__name__} as draw;"
        f"print(hashlib.sha256(draw(5, {SIZE}).tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == digest(slides[kind])


@pytest.mark.parametrize("kind", DRAW)
def test_another_seed_draws_another_slide(slides, kind):
    other = DRAW[kind](6, SIZE)
    assert (other != slides[kind]).any(-1).mean() > 0.3


@pytest.mark.parametrize("kind", DRAW)
def test_every_zoom_has_structure(slides, kind):
    level = slides[kind]
    while len(level) >= 64:
        detail = np.abs(np.diff(level.astype(float), axis=0)).mean()
        assert detail > 1.5, f"{len(level)} px wide"
        level = halve(level)


def test_glass_is_one_colour(slides):
    tissue = region_maps(np.random.default_rng([5, 0]), SIZE)["tissue"]
    glass = (tissue < -40).repeat(STEP, axis=0).repeat(STEP, axis=1)
    assert glass.mean() > 0.05
    assert (slides["histology"][glass] == GLASS.astype(np.uint8)).all()


@pytest.mark.parametrize("kind", DRAW)
def test_blocks_join_without_a_seam(slides, kind):
    slide = slides[kind].astype(float)
    step = np.abs(np.diff(slide, axis=0)).mean((1, 2))
    across_blocks = step[255::256].mean()
    assert across_blocks < 1.25 * step.mean()


def test_histology_is_a_pyramid_that_openslide_opens(folder, slides):
    with openslide.OpenSlide(folder / "histology_5.tiff") as slide:
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.5, rel=1e-4)
        assert slide.level_dimensions == ((1024, 1024), (512, 512), (256, 256))
        half = np.asarray(slide.read_region((0, 0), 1, (512, 512)).convert("RGB"))
    assert np.abs(half.astype(int) - halve(slides["histology"])).mean() < 3


def test_satellite_is_a_geotiff_in_metres(folder, slides):
    with rasterio.open(folder / "satellite_5.tiff") as scene:
        assert scene.crs.to_epsg() == 32614
        assert scene.res == (1.0, 1.0)
        assert scene.overviews(1) == [2, 4]
        assert scene.descriptions[3] == "near infrared"
        np.testing.assert_array_equal(np.moveaxis(scene.read(), 0, 2), slides["satellite"])


def test_whole_slides_are_kept_and_broken_ones_drawn_again(folder):
    path = folder / "histology_5.tiff"
    before = path.stat().st_mtime_ns
    generate(folder, count=1, seed=5, kind="histology", size_px=SIZE)
    assert path.stat().st_mtime_ns == before
    whole = path.read_bytes()
    path.write_bytes(b"not a slide")
    generate(folder, count=1, seed=5, kind="histology", size_px=SIZE)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "fluorescence"}, "histology, neighbours, satellite"),
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"size_px": 1000}, "multiple of 256"),
        ({"size_px": 512}, "from 1024 on"),
        ({"size_px": 2048}, "1024 x 1024 px, asked for 2048"),
    ],
)
def test_bad_requests_are_refused_in_one_line(folder, change, message):
    request = {"count": 1, "seed": 5, "kind": "histology", "size_px": SIZE} | change
    with pytest.raises(UserError, match=message) as refusal:
        generate(folder, **request)
    assert "\n" not in str(refusal.value)


def test_the_overview_shows_only_zooms_of_a_part(folder, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr("ldm.demo.world.contact_sheet", lambda rows, labels, columns, path: sheets.append(columns))
    overview([folder / "histology_5.tiff"], "histology", tmp_path / "a.png")
    assert sheets == [["whole", "10x", "20x"]]  # at 5x, 256 px are the 1024 of the slide


def test_command_line_ends_with_an_overview(folder, capsys):
    main(["--out", str(folder), "--count", "1", "--seed", "5", "--size", str(SIZE)])
    picture = folder.with_name(f"{folder.name}.png")
    assert str(picture) in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert not [path.name for path in folder.iterdir() if path.suffix == ".png"]  # would be prepared as a slide


def test_noise_is_standard_and_periodic():
    field = noise(np.random.default_rng(0), (128, 192), 16)
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-3)
    wrap = np.abs(field[0] - field[-1]).mean()
    assert wrap < 2 * np.abs(np.diff(field, axis=0)).mean()


def test_mosaic_has_thin_walls_around_wide_cells():
    walls = mosaic(np.random.default_rng(0), 100, vary=0.5, rounding=8)
    assert walls.shape == (TILE, TILE)
    assert 0.02 < (walls < 2).mean() < 0.35
    assert walls.max() > 20


def test_region_maps_are_linear_between_samples():
    y, x = np.mgrid[0:64, 0:64].astype(np.float32) * 8 + 3.5
    maps = RegionMaps({"slope": 2 * y - x})
    block = maps.block("slope", 256, 0)
    rows, columns = np.mgrid[256:512, 0:256]
    inner = (slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(block[inner], (2 * rows - columns)[inner], atol=1e-2)
    points = np.array([[300.0, 100.0], [40.0, 77.0]])
    np.testing.assert_allclose(maps.at("slope", points + 0.5), 2 * points[:, 0] - points[:, 1], atol=1e-2)


def test_jittered_grid_fills_the_square_evenly():
    points = jittered_grid(np.random.default_rng(0), 512, 16)
    assert ((points >= 0) & (points < 512)).all()
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=8, range=[[0, 512], [0, 512]])
    assert counts.min() > 8
    assert counts.max() < 24


def test_neighbours_are_drawn_as_their_labels_say(tmp_path):
    generate(tmp_path, count=1, seed=7, kind="neighbours", size_px=2048)
    path = tmp_path / "neighbours_8.tiff"
    (tmp_path / "neighbours_7.tiff").rename(path)
    write_labels(tmp_path, {tmp_path / "neighbours_7.tiff"})
    expected = ["slide,label", "neighbours_7,beside", "neighbours_8,apart"]
    assert (tmp_path / "labels.csv").read_text().splitlines() == expected
    with pytest.raises(UserError, match="size: 1024 px; expected a multiple of 256 from 2048 on"):
        generate(tmp_path, count=1, seed=7, kind="neighbours", size_px=1024)


@pytest.mark.parametrize("seed", [500, 501, 512, 533])
def test_only_an_arrangement_tells_beside_from_apart(seed):
    """No tile shows both; 512 px do on one kind alone; and both kinds hold as much of everything."""
    shown = {}
    for beside in (True, False):
        maps = region_maps(np.random.default_rng([seed, 0]), 2048, beside)
        nest, follicle = maps["nest"] > 0, maps["lymphocytes"] > 0
        assert ndimage.label(maps["nest"] > 5)[1] == ndimage.label(maps["lymphocytes"] > 0.5)[1] == 4
        for side in (128, 512):
            size = side // STEP
            both = ndimage.maximum_filter(nest, size) & ndimage.maximum_filter(follicle, size)
            shown[beside, side] = both[size // 2 : -size // 2, size // 2 : -size // 2].any()
        assert (maps["tissue"] > 100).all()
        assert ((maps["fat"] > 0) & follicle).sum() == 0
        for drawn_there, radii, more in ((nest, NEST_PX, 0), (follicle, FOLLICLE_PX, BORDER)):
            low, high = (COUNT * np.pi * (r + more) ** 2 / 2048**2 for r in radii)
            assert 0.75 * low < drawn_there.mean() < 1.25 * high
    assert shown == {(True, 128): False, (False, 128): False, (True, 512): True, (False, 512): False}


@pytest.mark.parametrize(("count", "size", "message"), [(1, 2**24, "size: 16777216 px need"), (10**9, 1024, "count: ")])
def test_slides_that_do_not_fit_are_refused_at_once(tmp_path, count, size, message):
    with pytest.raises(UserError, match=rf"{message}.* at least [\d,]+ GB of .*, [\d,]+ GB are free"):
        generate(tmp_path / "out", count=count, seed=0, kind="histology", size_px=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", DRAW)
def test_the_true_map_lies_beside_a_slide_and_covers_what_was_drawn(folder, kind):
    found = read_regions(folder / f"{kind}_5.geojson")
    regions = found.regions
    with open_quietly(folder / f"{kind}_5.tiff") as image:
        pixels = np.moveaxis(image.read([1, 2, 3]), 0, 2).astype(float)
        if kind == "satellite":
            assert CRS.from_user_input(found.crs) == image.crs
            regions = in_pixels(regions, place_of(image))
    order = list(CLASSES[kind])
    drawn_map = drawn([(r.geometry, order.index(r.name)) for r in regions], (SIZE // STEP,) * 2, STEP, 0)
    assert (drawn_map == true_map(kind, 5, SIZE)).mean() > 0.97  # outlines are smooth
    cells = pixels.reshape(SIZE // STEP, STEP, SIZE // STEP, STEP, 3).mean((1, 3))
    dark = {name: cells[drawn_map == k].mean() for k, name in enumerate(order) if (drawn_map == k).any()}
    if kind == "histology":
        assert dark["Background"] > 230 > dark["Stroma"] > dark["Tumor"]
    else:
        assert dark["Fields"] > dark["Forest"]
