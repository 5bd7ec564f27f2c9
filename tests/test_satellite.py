"""`--model satellite` without any other argument: a satellite's scales, its own scene, and pictures on the map."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from benchmarks.fixtures import toy
from ldm.cli import evaluate, joint, mil, sample, superres
from ldm.commands import evaluate as evaluation
from ldm.commands import superres as enlarging
from ldm.demo.world import write_geotiff
from ldm.errors import UserError
from ldm.evaluation.experiments.context import EvalContext, Report
from ldm.support import bundled_models
from ldm.support.bundled_models import BUNDLED, MODELS, BundledModel

LADDER = {"kind": "satellite", "scales": 3}
TINY = ["--model", "satellite", "--precision", "fp32", "--steps", "2"]
UTM, CORNER = CRS.from_epsg(32614), (500_000.0, 4_000_000.0)
SCENE: dict[str, Any] = {"kind": "satellite", "scales": ["1x", "2x", "3x"], "base_mpp": 1.0, "mpp_l0": 1.0}
PLACE = (2, 1)


@pytest.fixture
def satellite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundledModel:
    """A toy in the place of the bundled satellite model; the current folder is empty."""
    monkeypatch.setattr(bundled_models, "WEIGHTS", tmp_path / "weights")
    model = replace(MODELS["satellite"], place=PLACE)
    monkeypatch.setitem(BUNDLED, "satellite", model)
    for system in ("zoomldm", "cdm"):
        toy.run_folder(model.folder / system, system, ladder=LADDER)
    x, y = CORNER
    ground = {"crs": UTM.to_wkt(), "transform": f"1.0 0.0 {x} 0.0 -1.0 {y}"}
    toy.slide(model.slide, **SCENE, **ground)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return model


def placed(path: Path) -> tuple[CRS, Affine]:
    with rasterio.open(path) as file:
        return file.crs, file.transform


def on_earth(row: int, col: int) -> tuple[CRS, Affine]:
    """Where base tile (row, col) of the scene begins, at 1 m per pixel."""
    return UTM, Affine(1, 0, CORNER[0] + col * toy.TILE_PX, 0, -1, CORNER[1] - row * toy.TILE_PX)


def test_patches_are_of_every_scale_beside_the_scenes_own(satellite: BundledModel) -> None:
    sample.main([*TINY, "--count", "1", "--device", "cpu"])
    made = {path.name for path in Path("samples/patches/satellite").iterdir()}
    assert made == {"1x_0.png", "2x_0.png", "3x_0.png", "contact_sheet.png"}
    assert Image.open("samples/patches/satellite/contact_sheet.png").width > 2 * toy.TILE_PX  # real and sampled


def test_a_large_image_is_of_the_scenes_middle_and_lies_there(satellite: BundledModel) -> None:
    joint.main([*TINY, "--size", "64", "--inner", "0", "--accelerator", "cpu"])
    record = json.loads(Path("samples/joint/satellite/image.json").read_text())
    assert record["settings"]["scales"] == ["1x", "3x"]
    assert record["origin"] == str(satellite.slide)
    row, col = map(int, record["place"].split(","))
    assert placed(Path("samples/joint/satellite/image.tiff")) == on_earth(row, col)


def test_a_part_of_the_scene_is_enlarged_and_lies_where_it_was_cut(
    satellite: BundledModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (256, 256, 4), np.uint8)
    asked: list[tuple[object, ...]] = []

    def generate(*arguments: object) -> list[Path]:
        asked.append(arguments)
        write_geotiff(tmp_path / "scene.tiff", scene, seed=0)
        return [tmp_path / "scene.tiff"]

    monkeypatch.setattr(enlarging, "generate", generate)
    monkeypatch.setattr(enlarging, "DEMO_SIDE_PX", 32)
    assert superres.main([*TINY, "--device", "cpu", "--condition", "none"]) == 0
    assert asked == [(Path("data/demo/satellite/held_out"), 1, 132, "satellite", 8 * toy.TILE_PX)]
    assert placed(Path("samples/superres/satellite/satellite.tif")) == on_earth(*PLACE)
    with rasterio.open("samples/superres/satellite/satellite.tif") as file:
        image = np.moveaxis(file.read(), 0, -1).astype(float)
    row, col = (toy.TILE_PX * at for at in PLACE)
    truth = scene[row : row + 32, col : col + 32, :3].astype(float)
    means = [pixels.reshape(8, 4, 8, 4, 3).mean((1, 3)) for pixels in (image, truth)]
    assert np.abs(means[0] - means[1]).mean() < 4  # it is that part, not another
    with pytest.raises(UserError, match=r"images: none given; only --model .*satellite.* brings its own"):
        superres.main([*TINY, "--scales", "1x,2x"])


@pytest.mark.parametrize("metres", [0.5, 1.0, 4.0])
def test_a_scene_of_other_pixels_than_it_is_taken_for_is_told(
    metres: float, satellite: BundledModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(
        "scene.tif",
        "w",
        driver="GTiff",
        height=16,
        width=16,
        count=3,
        dtype="uint8",
        photometric="RGB",
        crs=UTM,
        transform=Affine(metres, 0, CORNER[0], 0, -metres, CORNER[1]),
    ) as file:
        file.write(np.full((3, 16, 16), 99, np.uint8))
    superres.main(["scene.tif", *TINY, "--device", "cpu", "--condition", "none", "--out", "out"])
    told = f"scene.tif: its pixels are {metres:g} m wide, expected 4 m, those of 3x, for which it is taken; gdalwarp"
    assert (told in capsys.readouterr().err) == (metres != 4)


class Stopped(Exception):
    """An experiment that would have begun."""


@pytest.mark.parametrize("command", ["patches", "large_images", "superres_scores", "memorization"])
def test_it_is_measured_on_scenes_of_its_own_in_its_own_space(
    command: str, satellite: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohorts = {"held_out": 300, "trained_on": 101}
    for name, first in cohorts.items():
        for seed in (first, first + 1):
            toy.slide(Path(name) / f"satellite_{seed}.h5", **SCENE)
    monkeypatch.setattr(evaluation, "held_out_cohort", lambda model: Path("held_out") if model == satellite else None)
    monkeypatch.setattr(evaluation, "training_cohort", lambda model: Path("trained_on") if model == satellite else None)
    pictures = [Path(f"satellite_{seed}_0_0.tif") for seed in (300, 301)]
    monkeypatch.setattr(evaluation, "held_out_pictures", lambda model, *size: pictures if model == satellite else None)
    given: list[Any] = []

    def experiment(setup: EvalContext, *more: Any) -> Report:
        given.extend([setup, *more])
        raise Stopped

    monkeypatch.setattr(getattr(evaluation, command), "run", experiment)
    name = command.partition("_")[0]
    with pytest.raises(Stopped):
        evaluate.main([name, "--model", "satellite", "--precision", "fp32", "--accelerator", "cpu", "--count", "2"])
    assert all(space.id.startswith("satellite-") for space in given[0].spaces)
    if name in ("large", "superres"):
        assert ["1x", "3x"] in given
        assert pictures[0] in (given[1][0] if name == "large" else given[1])
    else:
        slides = given[1].slides + given[2] if name == "patches" else given[1] + given[2]
        seen = {slide.attrs["slide_id"] for slide in slides}
        wanted = cohorts if name == "memorization" else ["held_out"]
        assert seen == {f"satellite_{cohorts[of] + number}" for of in wanted for number in (0, 1)}


def test_slides_of_histology_are_not_drawn_for_it(satellite: BundledModel) -> None:
    with pytest.raises(UserError, match="--features: none given, but the demo slides are of histology"):
        mil.main(["--model", "satellite"])
    assert list(Path().iterdir()) == []
