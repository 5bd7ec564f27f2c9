"""scripts/sample_joint.py end to end on a toy model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import rasterio
from affine import Affine
from imagecodecs import png_encode
from PIL import Image
from rasterio.crs import CRS

from benchmarks.fixtures import toy
from benchmarks.fixtures.interrupted import interrupted_after
from ldm.cli import joint as sample_joint
from ldm.commands.joint import OUTPUTS
from ldm.errors import TERMINATED, UserError, cli
from ldm.evaluation.metrics.seams import gradient_energy
from ldm.multiscale.canvas import State
from ldm.multiscale.joint import Joint
from tests.test_evaluate import ToyEncoder

ROOT = Path(__file__).parents[1]


def arguments(world: Path, out: Path, *more: str, origin: str | None = None) -> list[str]:
    given = ["--model", str(world / "zoomldm"), "--from", origin or str(world / "slide.h5"), "--out", str(out)]
    return [*given, "--size", "100x76", "--steps", "2", "--accelerator", "cpu", *more]


def pixels(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "image.png")).astype(int)


def test_the_image_its_picture_and_its_figures_are_written(world: Path, tmp_path: Path) -> None:
    sample_joint.main(arguments(world, tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {*OUTPUTS, "canvas_5x.tiff"}
    assert pixels(tmp_path).shape == (76, 100, 3)
    with openslide.OpenSlide(tmp_path / "image.tiff") as slide:
        assert slide.dimensions == (100, 76)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.5)
    figures = json.loads((tmp_path / "image.json").read_text())
    assert 0 < figures["constraint_error"] < figures["constraint_error_before_pixels"]
    assert len(figures["errors"]["20x"]) == 2
    assert figures["place"] == "1,0"


def test_without_a_preview_head_the_exact_preset_is_used_and_told(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(world, tmp_path / "bare", ignore=shutil.ignore_patterns("preview"))
    codecs = []
    for folder, more in ((world, []), (bare, []), (bare, ["--preview", str(world / "zoomldm/preview")])):
        sample_joint.main([*arguments(folder, tmp_path / "out"), "--scales", "20x,5x", *more])
        codecs.append(json.loads((tmp_path / "out/image.json").read_text())["settings"]["sampling"]["rule"]["codec"])
        assert ("no preview head" in capsys.readouterr().err) == (codecs[-1] == "jvp")
    assert codecs == ["preview", "jvp", "preview"]


def test_conditions_that_end_before_the_image_are_told(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample_joint.main(arguments(world, tmp_path, "--place", "7,6", "--inner", "0"))
    assert "slide.h5: has 1x2 of the image's 3x4 base tiles there; beyond them" in capsys.readouterr().err
    sample_joint.main(arguments(world, tmp_path, "--place", "5,4", "--inner", "0"))
    assert "base tiles" not in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--place: 8,0 lies outside .*expected a row below 8 and a column below 8"):
        sample_joint.main(arguments(world, tmp_path, "--place", "8,0"))


def test_gradient_energy_is_a_share_of_the_real_image_s_and_left_out_without_one(world: Path, tmp_path: Path) -> None:
    slide = toy.slide(tmp_path / "slide.h5")
    place = ["--place", "1,2", "--scales", "20x,5x"]
    sample_joint.main(arguments(world, tmp_path / "a", *place, origin=str(slide)))
    assert "gradient_energy" not in json.loads((tmp_path / "a/image.json").read_text())  # one colour a region
    made = pixels(tmp_path / "a").astype(np.uint8)
    with h5py.File(slide, "r+") as file:
        images = [np.full((32, 32, 3), 9, np.uint8) for _ in range(64)]
        for row, col in ((0, 0), (1, 2)):  # those of the image, with half its contrast
            part = made[32 * row : 32 * row + 32, 32 * col : 32 * col + 32]
            images[8 * (row + 1) + col + 2] = np.pad(part // 2, [(0, 32 - part.shape[0]), (0, 0), (0, 0)])
        files = [np.frombuffer(png_encode(image), np.uint8) for image in images]
        for name, values in (("images", np.concatenate(files)), ("image_ends", np.cumsum([len(one) for one in files]))):
            del file[f"scales/20x/{name}"]
            file.create_dataset(f"scales/20x/{name}", data=values, chunks=True, fletcher32=True)
    sample_joint.main(arguments(world, tmp_path / "b", *place, origin=str(slide)))
    share = json.loads((tmp_path / "b/image.json").read_text())["gradient_energy"]
    inside = [made[32 * row : 32 * row + 32, 32 * col : 32 * col + 32] for row, col in ((0, 0), (1, 2))]
    flat = [made[y : y + 32, x : x + 32] for y in range(0, 76, 32) for x in range(0, 100, 32)]
    energies = [[gradient_energy(part) * part.size for part in parts] for parts in (inside, flat)]
    assert share == pytest.approx(4 * sum(energies[1]) / sum(energies[0]), rel=0.1)


def test_an_image_of_a_georeferenced_slide_or_scene_lies_where_its_tiles_do(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utm, ground = CRS.from_epsg(32614), Affine(0.5, 0, 1000, 0, -0.5, 9000)
    slide = toy.slide(tmp_path / "slide.h5", crs=utm.to_wkt(), transform=" ".join(map(repr, ground[:6])))
    with rasterio.open(
        tmp_path / "scene.tif", "w", "GTiff", 64, 64, 3, crs=utm, transform=ground, dtype="uint8"
    ) as file:
        file.write(np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8))

    monkeypatch.setattr("ldm.commands.joint_origin.load_encoder", lambda name: ToyEncoder())
    cases = {
        "slide": ("20x,5x", ["--place", "2,1"], str(slide), Affine(0.5, 0, 1016, 0, -0.5, 8968)),
        "coarse": ("10x,5x", ["--place", "2,1"], str(slide), Affine(1, 0, 1016, 0, -1, 8968)),
        "scene": ("20x,5x", [], str(tmp_path / "scene.tif"), ground),
    }
    for name, (scales, more, origin, expected) in cases.items():
        sample_joint.main(arguments(world, tmp_path / name, "--scales", scales, *more, origin=origin))
        with rasterio.open(tmp_path / name / "image.tiff") as file:
            assert (file.width, file.height, file.crs) == (100, 76, utm)
            assert file.transform.almost_equals(expected, 1e-9)
            np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), pixels(tmp_path / name))


@pytest.mark.parametrize("scales", ["20x", "20x,5x"])
def test_baselines_need_no_coarser_canvas(world: Path, tmp_path: Path, scales: str) -> None:
    sample_joint.main(arguments(world, tmp_path, "--preset", "interpolated", "--scales", scales))
    assert pixels(tmp_path).shape == (76, 100, 3)
    errors = json.loads((tmp_path / "image.json").read_text())["errors"]
    assert not any(error for errors_of in errors.values() for error in errors_of)


@pytest.mark.parametrize("preset", ["default", "paper", "published"])
def test_an_interrupted_command_typed_again_ends_in_the_same_pixels(world: Path, tmp_path: Path, preset: str) -> None:
    command = ("--preset", preset, "--inner", "1", "--steps", "4")
    sample_joint.main(arguments(world, tmp_path / "straight", *command))
    with interrupted_after(3), pytest.raises(KeyboardInterrupt):
        sample_joint.main(arguments(world, tmp_path / "again", *command))
    assert [file.suffix for file in (tmp_path / "again").glob("unfinished-*")] != []
    sample_joint.main(arguments(world, tmp_path / "again", *command))
    assert np.array_equal(pixels(tmp_path / "straight"), pixels(tmp_path / "again"))
    assert list((tmp_path / "again").glob("unfinished-*")) == []


def test_a_scheduler_s_signal_saves_what_was_sampled(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, run = arguments(world, tmp_path / "out", "--steps", "4", "--preset", "independent"), Joint.run

    def interrupted(joint: Joint) -> Iterator[tuple[str, State]]:
        for i, state in enumerate(run(joint)):
            yield state
            if i == 2:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Joint, "run", interrupted)
        with pytest.raises(SystemExit) as end:
            cli(lambda: sample_joint.main(command))
    assert end.value.code == TERMINATED
    assert "interrupted; after step 3 of 8; the same command continues from step 3\n" in capsys.readouterr().err
    begun: list[int] = []
    monkeypatch.setattr(Joint, "run", lambda joint: (begun.append(joint.done), run(joint))[1])
    sample_joint.main(command)
    assert begun == [3]


@pytest.mark.parametrize(("scales", "size"), [("20x,5x", "4"), ("20x", "2"), ("20x,10x", "2x64")])
def test_the_smallest_images_are_sampled(world: Path, tmp_path: Path, scales: str, size: str) -> None:
    sample_joint.main(arguments(world, tmp_path, "--scales", scales, "--size", size, "--preset", "independent"))
    width, _, height = size.partition("x")
    assert pixels(tmp_path).shape == (int(height or width), int(width), 3)


@pytest.mark.slow
@pytest.mark.parametrize("seam", ["none", "jitter"])
def test_two_processes_paint_the_pixels_of_one(world: Path, tmp_path: Path, seam: str) -> None:
    for name, devices in (("one", "1"), ("two", "2")):
        more = ("--seam", seam, "--devices", devices, "--size", "96x64")
        command = [sys.executable, str(ROOT / "scripts/sample_joint.py"), *arguments(world, tmp_path / name, *more)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True)
    assert np.abs(pixels(tmp_path / "one") - pixels(tmp_path / "two")).max() <= 1


def test_conditions_come_from_the_cdm_or_from_nothing(world: Path, tmp_path: Path) -> None:
    sample_joint.main(arguments(world, tmp_path / "cdm", "--cdm", str(world / "cdm"), origin="cdm"))
    sample_joint.main(arguments(world, tmp_path / "none", "--scales", "20x,10x,5x", origin="none"))
    assert not np.array_equal(pixels(tmp_path / "cdm"), pixels(tmp_path / "none"))


@pytest.mark.parametrize("origin", ["none", "cdm"])
def test_a_place_without_a_slide_is_refused(world: Path, tmp_path: Path, origin: str) -> None:
    with pytest.raises(UserError, match=f"--place: 1,2 names a base tile of a slide, but --from is {origin}"):
        sample_joint.main(arguments(world, tmp_path, "--cdm", str(world / "cdm"), "--place", "1,2", origin=origin))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--size", "10x10x10"), "--size: 10x10x10; expected pixels"),
        (("--size", "-5"), "--size"),
        (("--size", "1"), "--size: 1x1; expected at least 4 px"),
        (
            ("--size", "1000000000000"),
            r"--size: 1000000000000x1000000000000: needs about [\d,.]+ GB of memory, ",
        ),
        (("--scales", "20x,40x"), "scale: 40x is not on the histology ladder"),
        (("--place", "9,0"), "slide"),
        (("--place", "a"), "--place: a; expected"),
        (("--steps", "900"), "steps"),
    ],
)
def test_mistakes_are_told_in_one_line(world: Path, tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        sample_joint.main([*arguments(world, tmp_path), *[f"{wrong[0]}={wrong[1]}"]])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("scales", "size", "columns"),
    [
        ("20x,5x", "100x76", ["canvas at 5x", "image at 20x", "2x2 tiles of it"]),
        ("20x,10x,5x", "64", ["canvas at 5x", "canvas at 10x", "image at 20x"]),
        ("20x", "64", ["image at 20x"]),
    ],
)
def test_the_picture_shows_each_canvas_once(
    scales: str, size: str, columns: list[str], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr("ldm.commands.joint.contact_sheet", lambda rows, labels, columns, path: shown.append(columns))
    sample_joint.main(arguments(world, tmp_path, "--scales", scales, "--size", size, "--steps", "1", "--inner", "0"))
    assert shown == [columns]
