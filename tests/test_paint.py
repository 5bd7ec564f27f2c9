"""`zoomldm joint --layout`: what is painted is what the layout says, and its labels come with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image

from benchmarks.fixtures import toy
from benchmarks.fixtures.palettes import palette
from ldm.cli import joint
from ldm.commands.joint import OUTPUTS
from ldm.commands.paint import Painting, layout_contents, legend_picture, write_labels
from ldm.errors import UserError
from ldm.images.class_maps import read_class_raster
from ldm.images.geojson import ClassRegion, ClassRegions, read_regions
from ldm.images.geojson_writer import write_regions
from ldm.multiscale.layout import fitted
from ldm.multiscale.palette import save_palette

REGIONS = [
    ClassRegion("Tumor", shapely.box(0, 0, 64, 76), (1, 2, 3)),
    ClassRegion("stroma", shapely.box(64, 0, 100, 76)),
    ClassRegion("Fat", shapely.box(18, 18, 42, 42)),
]


@pytest.fixture(scope="module")
def given(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a layout and a palette."""
    folder = tmp_path_factory.mktemp("paint")
    save_palette(folder / "palette.safetensors", palette())
    write_regions(folder / "regions.geojson", REGIONS)
    return folder


def paint(world: Path, given: Path, out: Path, *more: str, layout: str = "regions.geojson") -> Path:
    said = ["--model", str(world / "zoomldm"), "--layout", str(given / layout), "--out", str(out), "--steps", "2"]
    joint.main([*said, "--palette", str(given / "palette.safetensors"), "--accelerator", "cpu", *more])
    return out


@pytest.fixture(scope="module")
def painted(world: Path, given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(world, given, tmp_path_factory.mktemp("out"))


def pixels(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "image.png")).astype(int)


def test_the_image_is_as_large_as_its_layout_and_the_labels_lie_beside_it(painted: Path) -> None:
    assert pixels(painted).shape == (76, 100, 3)
    found = read_regions(painted / "image.geojson").regions
    assert [region.name for region in found] == ["Tumor", "Stroma", "Fat"]
    assert [region.colour for region in found] == [(1, 2, 3), (150, 200, 150), (240, 200, 60)]
    for region, asked in zip(found, REGIONS, strict=True):
        assert region.geometry.symmetric_difference(asked.geometry).area < 0.5
    labels = np.asarray(Image.open(painted / "labels.png"))
    assert labels.shape == (76, 100)
    assert [labels[5, 5], labels[5, 90], labels[30, 30]] == [3, 2, 4]
    assert (painted / "labels.csv").read_text().splitlines()[3] == '3,"Tumor",#010203'


def test_labels_that_come_out_are_a_layout_that_goes_in_and_do_not_stay_beside_another_image(
    world: Path, painted: Path, given: Path, tmp_path: Path
) -> None:
    for name in ("labels.png", "labels.csv"):
        shutil.copy(painted / name, given)
    paint(world, given, tmp_path, layout="labels.png")
    assert np.abs(pixels(tmp_path) - pixels(painted)).max() <= 1
    assert (np.asarray(Image.open(tmp_path / "labels.png")) == np.asarray(Image.open(painted / "labels.png"))).all()
    model, slide = str(world / "zoomldm"), str(world / "slide.h5")
    joint.main(["--model", model, "--from", slide, "--out", str(tmp_path), "--size", "64", "--steps", "2"])
    assert {file.name for file in tmp_path.iterdir()} == {*OUTPUTS, "canvas_5x.tiff"}


def test_labels_of_any_names_and_of_many_classes_are_read_again(tmp_path: Path) -> None:
    names = ['a "b", c', *(f"class {k}" for k in range(299))]
    many = palette(names=tuple(names), colours=((1, 2, 3),) * len(names), counts=(1,) * len(names))
    regions = [ClassRegion(name, shapely.box(k, 0, k + 1, 2)) for k, name in enumerate(names)]
    layout = fitted(ClassRegions(regions), many, um=0.5)
    write_labels(tmp_path, Painting(layout, many, tmp_path, 16), 4096)
    assert [region.name for region in read_class_raster(tmp_path / "labels.png").regions] == names


def test_the_legend_of_a_raster_is_part_of_what_the_image_depends_on(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("value,class\n1,Fat\n")
    before = layout_contents(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("value,class\n1,Tumor\n")
    after = layout_contents(tmp_path / "a.png")
    assert before["layout"] == after["layout"]
    assert before != after


def test_the_legend_shows_the_classes_of_the_layout_alone() -> None:
    given = palette(names=("Background", "Stroma", "Tumor with a name that is longer than its place", "Fat"))
    layout = fitted(
        ClassRegions([ClassRegion("stroma", shapely.box(0, 0, 9, 9), (1, 2, 3))]), given, um=0.5, size=(20, 20)
    )
    sheet = legend_picture(layout, given, 256).reshape(-1, 3)
    shown = {tuple(colour) for colour in np.unique(sheet, axis=0).tolist()}
    assert {(1, 2, 3), (235, 235, 235)} <= shown
    assert not {(200, 0, 0), (240, 200, 60), (150, 200, 150)} & shown
    tumor = fitted(ClassRegions([ClassRegion(given.names[2], shapely.box(0, 0, 9, 9))]), given, um=0.5, size=(20, 20))
    assert (legend_picture(tumor, given, 256)[:, -5:] == 255).all()  # the long name ends before the border


def test_another_layout_gives_another_image(world: Path, given: Path, painted: Path, tmp_path: Path) -> None:
    write_regions(given / "other.geojson", [ClassRegion("Fat", shapely.box(0, 0, 100, 76))])
    other = pixels(paint(world, given, tmp_path, layout="other.geojson"))
    assert np.abs(other - pixels(painted)).mean() > 1


def test_what_the_image_depends_on_is_recorded(painted: Path) -> None:
    record = json.loads((painted / "image.json").read_text())
    assert record["origin"].endswith("regions.geojson")
    assert record["inputs"].keys() == {"layout", "palette"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--from", "none"], "--from: none and --layout both say"),
        (["--rest", "Glass"], "class 'Glass' is not in the palette"),
        (["--size", "32", "--place", "9,9"], "all regions lie outside"),
        (["--palette", "none.safetensors"], "none.safetensors does not exist"),
        (["--place", "x"], "--place: x; expected"),
        (["--label", "tumour"], "--label: tumour is for conditions of a CDM, not of a layout"),
    ],
)
def test_what_contradicts_a_layout_is_refused(
    more: list[str], told: str, world: Path, given: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        paint(world, given, tmp_path, *more)


@pytest.mark.parametrize("option", [["--palette", "p.safetensors"], ["--rest", "Fat"], ["--mpp", "0.5"]])
def test_options_of_a_layout_are_refused_without_one(option: list[str], world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{option[0]}: belongs to --layout"):
        joint.main(["--model", str(world / "zoomldm"), "--out", str(tmp_path), *option])


def test_a_layout_in_the_folder_of_the_results_is_not_overwritten(world: Path, given: Path, tmp_path: Path) -> None:
    for name in ("regions.geojson", "palette.safetensors"):
        shutil.copy(given / name, tmp_path / name.replace("regions", "image"))
    with pytest.raises(UserError, match=r"would be overwritten; choose another folder"):
        paint(world, tmp_path, tmp_path, layout="image.geojson")


def test_a_painted_scene_is_georeferenced_and_its_regions_are_in_its_crs(tmp_path: Path) -> None:
    toy.run_folder(tmp_path / "zoomldm", "zoomldm", ladder={"kind": "satellite", "scales": 3})
    save_palette(tmp_path / "palette.safetensors", palette(kind="satellite"))
    ground = ClassRegion("Tumor", shapely.box(1000, 9000, 1096, 9064))
    write_regions(tmp_path / "scene.geojson", [ground], "EPSG:32614")
    out = paint(tmp_path, tmp_path, tmp_path / "out", "--inner", "0", layout="scene.geojson")
    with rasterio.open(out / "image.tiff") as file:
        assert file.crs.to_epsg() == 32614
        assert file.bounds == (1000, 9000, 1096, 9064)
        assert (file.width, file.height) == (96, 64)
    found = read_regions(out / "image.geojson")
    assert found.crs.endswith("32614")
    assert found.regions[0].geometry.equals(ground.geometry)
