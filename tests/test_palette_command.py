"""`zoomldm palette`: classes of annotated slides and of clusters, from files to a palette and its picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from rasterio.crs import CRS

from benchmarks.fixtures import toy
from ldm.cli.palette import main
from ldm.commands.palette import annotated, nearest
from ldm.data.cohort import open_cohort
from ldm.errors import UserError
from ldm.images.geojson import ClassRegion
from ldm.images.geojson_writer import write_regions
from ldm.multiscale.palette import load_palette
from ldm.multiscale.prototypes import make_palette

T = toy.TILE_PX


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three slides of 8x8 base tiles, two of them annotated: tumour in the first four columns, fat in the last two."""
    (tmp_path / "cohort").mkdir()
    (tmp_path / "annotations").mkdir()
    for number in range(3):
        toy.slide(tmp_path / f"cohort/s{number}.h5", source=f"s{number}.svs")
    tumor, fat = shapely.box(0, 0, 4 * T, 8 * T), shapely.box(6 * T, 0, 999, 8 * T)
    regions = [ClassRegion("Tumor", tumor, (200, 0, 0)), ClassRegion("Fat", fat)]
    for number in range(2):
        write_regions(
            tmp_path / f"annotations/s{number}.geojson", [*regions, ClassRegion("Ignore*", regions[1].geometry)]
        )
    return tmp_path


def run(folder: Path, *more: str) -> Path:
    main(["--cohort", str(folder / "cohort"), "--out", str(folder / "p.safetensors"), *more])
    return folder / "p.safetensors"


def test_annotations_become_classes(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load_palette(run(cohort, "--annotations", str(cohort / "annotations")))
    assert found.names == ("Fat", "Tumor")
    assert found.colours[1] == (200, 0, 0)
    assert found.counts == (2 * 16, 2 * 32)
    assert found.slides == ("s0", "s1")
    assert np.bincount(found.classes).tolist() == [8, 8]
    assert (found.places[found.classes == 1, 1] < 4).all()
    assert (found.places[found.classes == 0, 1] >= 6).all()
    told = capsys.readouterr().out
    assert "1 of 3 slides have no annotation" in told
    assert Image.open(cohort / "p.png").size[0] > 8 * T


def test_the_picture_shows_the_prototypes_themselves(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    toy.slide(tmp_path / "cohort/s0.h5")
    wedge = shapely.Polygon(
        [(0, 0), (0.95 * T, 0), (0.55 * T, 8 * T), (0, 8 * T)]
    )  # covers a share of each tile of a column
    write_regions(tmp_path / "s0.geojson", [ClassRegion("Tumor", wedge)])
    slides, names, _ = annotated(open_cohort(tmp_path / "cohort"), tmp_path)
    palette = make_palette(slides, names, [(200, 0, 0)], 4)
    file, finest = slides[0].file, slides[0].file.ladder.names[0]
    number = {tuple(place): k for k, place in enumerate(file.ij(finest).tolist())}
    own = [file.images(finest, [number[tuple(place)]])[0] for place in palette.places.tolist()]
    shown = nearest(palette, 0, slides, names)
    assert len(shown) == len(own) == 4
    assert all(np.array_equal(*pair) for pair in zip(shown, own, strict=True))


def test_what_prepare_writes_beside_slides_is_no_annotation(cohort: Path) -> None:
    square = shapely.box(0, 0, 4 * T, 4 * T)
    write_regions(cohort / "cohort/s1.geojson", [ClassRegion("tissue", square), ClassRegion("kept 20x", square)])
    with pytest.raises(UserError, match=r"s1\.geojson: holds the tissue and kept 20x, as prepare writes them"):
        run(cohort, "--annotations", str(cohort / "cohort"))
    assert not (cohort / "p.safetensors").exists()


def test_a_class_raster_of_any_size_is_spread_over_its_slide(cohort: Path) -> None:
    values = np.zeros((16, 16), np.uint8)
    values[:, :8] = 7
    for number in range(2):
        (cohort / f"annotations/s{number}.geojson").unlink()
        Image.fromarray(values).save(cohort / f"annotations/s{number}.png")
        (cohort / f"annotations/s{number}.csv").write_text("value,class\n7,Tumor\n")
    found = load_palette(run(cohort, "--annotations", str(cohort / "annotations")))
    assert (found.names, found.counts) == (("Tumor",), (2 * 32,))
    Image.fromarray(values[:9]).save(cohort / "annotations/s0.png")
    with pytest.raises(UserError, match=r"s0.png: is 16x9, but its slide is 256x256; expected a raster of all of it"):
        run(cohort, "--annotations", str(cohort / "annotations"))


def test_annotations_of_a_scene_are_in_its_crs(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    where = {"crs": CRS.from_epsg(32614).to_wkt(), "transform": "1 0 1000 0 -1 9000"}
    toy.slide(tmp_path / "cohort/s0.h5", **where)
    forest = ClassRegion("Forest", shapely.box(1000, 9000 - 8 * T, 1000 + 2 * T, 9000))
    write_regions(tmp_path / "s0.geojson", [forest], "EPSG:32614")
    found = load_palette(run(tmp_path, "--annotations", str(tmp_path)))
    assert (found.places[:, 1] < 2).all()
    write_regions(tmp_path / "s0.geojson", [forest], "EPSG:32615")
    with pytest.raises(UserError, match=r"is in the crs .*32615, but its slide in EPSG:32614; reproject it"):
        run(tmp_path, "--annotations", str(tmp_path))


def test_a_name_that_several_slides_share_is_refused(cohort: Path) -> None:
    for number in (1, 2):
        toy.slide(cohort / f"cohort/s{number}.h5", source=f"part{number}/x.svs")
    (cohort / "annotations/s1.geojson").rename(cohort / "annotations/x.geojson")
    with pytest.raises(UserError, match=r"x\.geojson could be of s1 or s2; name it s1\.geojson"):
        run(cohort, "--annotations", str(cohort / "annotations"))


def test_clusters_are_named_by_size(cohort: Path) -> None:
    found = load_palette(run(cohort, "--clusters", "3"))
    assert found.names == ("cluster-1", "cluster-2", "cluster-3")
    assert list(found.counts) == sorted(found.counts, reverse=True)
    assert sum(found.counts) == 3 * 64
    assert len(set(found.colours)) == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--annotations", "nowhere"], "--annotations: nowhere has no s0.geojson or the like"),
        ([], "neither found beside --cohort"),
        (["--clusters", "2", "--annotations", "x"], "both found beside --cohort"),
        (["--clusters", "2", "--out", "p.png"], "--out: p.png found, expected a name that ends with .safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(given: list[str], told: str, cohort: Path) -> None:
    with pytest.raises(UserError, match=told):
        run(cohort, *given)


def test_annotations_of_another_slide_or_without_classes_are_refused(cohort: Path) -> None:
    for region, told in (
        (ClassRegion("Tumor", shapely.box(5000, 0, 6000, 90)), "all regions lie outside its slide of 256x256 px"),
        (ClassRegion("", shapely.box(0, 0, 90, 90)), "no region has a class"),
        (ClassRegion("Tumor", shapely.box(0, 0, 4, 4)), "in none of 1 slides does a class fill half of a base tile"),
    ):
        (cohort / "annotations/s1.geojson").unlink(missing_ok=True)
        write_regions(cohort / "annotations/s0.geojson", [region])
        with pytest.raises(UserError, match=told):
            run(cohort, "--annotations", str(cohort / "annotations"))


def test_options_without_a_cohort_are_refused() -> None:
    with pytest.raises(UserError, match="--clusters: found without --cohort"):
        main(["--clusters", "3"])


def test_what_of_annotations_is_no_area_is_told(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cohort / "annotations/s1.geojson"
    content = json.loads(path.read_text())
    content["features"].append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}})
    path.write_text(json.dumps(content))
    run(cohort, "--annotations", str(cohort / "annotations"))
    assert f"{path}: 1 features without an area" in capsys.readouterr().err
