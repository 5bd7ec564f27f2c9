"""scripts/sample_joint.py end to end on a toy model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.joint import Joint
from ldm.sampling.multiscale import State
from scripts import sample_joint

ROOT = Path(__file__).parents[1]


def arguments(world: Path, out: Path, *more: str, origin: str | None = None) -> list[str]:
    given = ["--model", str(world / "zoomldm"), "--from", origin or str(world / "slide.h5"), "--out", str(out)]
    return [*given, "--size", "100x76", "--steps", "2", "--accelerator", "cpu", *more]


def pixels(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "image.png")).astype(int)


def test_the_image_its_picture_and_its_figures_are_written(world: Path, tmp_path: Path) -> None:
    sample_joint.main(arguments(world, tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"image.tiff", "image.png", "image.json", "picture.png"}
    assert pixels(tmp_path).shape == (76, 100, 3)
    with openslide.OpenSlide(tmp_path / "image.tiff") as slide:
        assert slide.dimensions == (100, 76)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.5)
    figures = json.loads((tmp_path / "image.json").read_text())
    assert figures["constraint_error"] > 0
    assert len(figures["errors"]["20x"]) == 2
    assert figures["place"] == "1,0"


@pytest.mark.parametrize("scales", ["20x", "20x,5x"])
def test_baselines_need_no_coarser_canvas(world: Path, tmp_path: Path, scales: str) -> None:
    sample_joint.main(arguments(world, tmp_path, "--preset", "interpolated", "--scales", scales))
    assert pixels(tmp_path).shape == (76, 100, 3)
    errors = json.loads((tmp_path / "image.json").read_text())["errors"]
    assert not any(error for errors_of in errors.values() for error in errors_of)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Runs a command that is stopped after three steps."""
    run = Joint.run

    def interrupted(joint: Joint) -> Iterator[tuple[str, State]]:
        for i, state in enumerate(run(joint)):
            if i == 3:
                raise KeyboardInterrupt
            yield state

    def stop(command: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Joint, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                sample_joint.main(command)

    return stop


@pytest.mark.parametrize("preset", ["default", "paper", "published"])
def test_an_interrupted_command_typed_again_ends_in_the_same_pixels(
    world: Path, tmp_path: Path, interrupt: Callable[[list[str]], None], preset: str
) -> None:
    command = ("--preset", preset, "--inner", "1", "--steps", "4")
    sample_joint.main(arguments(world, tmp_path / "straight", *command))
    interrupt(arguments(world, tmp_path / "again", *command))
    assert [file.suffix for file in (tmp_path / "again").glob("unfinished-*")] != []
    sample_joint.main(arguments(world, tmp_path / "again", *command))
    assert np.array_equal(pixels(tmp_path / "straight"), pixels(tmp_path / "again"))
    assert list((tmp_path / "again").glob("unfinished-*")) == []


def test_another_command_does_not_go_on_from_what_is_not_its_own(
    world: Path, tmp_path: Path, interrupt: Callable[[list[str]], None]
) -> None:
    interrupt(arguments(world, tmp_path / "left", "--seed", "1"))
    sample_joint.main(arguments(world, tmp_path / "left", "--seed", "2"))
    sample_joint.main(arguments(world, tmp_path / "clean", "--seed", "2"))
    assert np.array_equal(pixels(tmp_path / "left"), pixels(tmp_path / "clean"))
    assert list((tmp_path / "left").glob("unfinished-*")) != []


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--size", "10x10x10"), "--size: 10x10x10; expected pixels"),
        (("--size", "-5"), "--size"),
        (("--scales", "20x,40x"), "scale: 40x is not on the histology ladder"),
        (("--scales", "20x,20x"), "expected different scales"),
        (("--place", "9,0"), "slide"),
        (("--place", "a"), "--place: a; expected"),
        (("--steps", "0"), "steps"),
    ],
)
def test_mistakes_are_told_in_one_line(world: Path, tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        sample_joint.main([*arguments(world, tmp_path), *[f"{wrong[0]}={wrong[1]}"]])
    assert "\n" not in str(told.value)
