"""Super-resolution, and its command, on a toy model."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from benchmarks.fixtures import toy
from benchmarks.fixtures.interrupted import interrupted_after
from ldm.cli import superres
from ldm.errors import UserError
from ldm.images.rasters import Place
from ldm.images.tensors import from_uint8
from ldm.model_slides import kind_notes
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.constraint import Residual, Shrink
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import Settings
from ldm.multiscale.super_resolution import SuperResolution, bicubic, inferred
from ldm.pipeline import ZoomLDM
from ldm.scales import ladder

SCALES = ["20x", "5x"]
QUICK = Settings(steps=2, rounds=4)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(60, 200, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def enlarge(model: ZoomLDM, y: np.ndarray, scales: list[str], settings: Settings = QUICK, batch_size: int = 16):
    sampling = SuperResolution(model, y, scales, Unconditional(model), settings=settings, batch_size=batch_size)
    for _ in sampling.run():
        pass
    return np.concatenate(list(sampling.bands())), sampling


@pytest.mark.parametrize(("scales", "factor"), [(["20x", "10x"], 2), (SCALES, 4), (["20x", "10x", "5x"], 4)])
def test_any_size_is_enlarged_and_shrinks_back_to_what_it_was(model: ZoomLDM, scales: list[str], factor: int) -> None:
    y = picture(13, 18)
    image, sampling = enlarge(model, y, scales)
    assert image.shape == (13 * factor, 18 * factor, 3)
    assert sampling.after.rms < 0.2 * sampling.before.rms
    error = Shrink(factor)(from_uint8(image[None])) - from_uint8(y[None])
    assert error.square().mean().sqrt().item() == pytest.approx(sampling.after.rms, rel=1e-4)
    assert np.abs(image.mean((0, 1)) - y.mean((0, 1))).max() < 3  # of 255, after clipping: colours stay


def test_without_consistency_both_residuals_are_the_same(model: ZoomLDM) -> None:
    _, sampling = enlarge(model, picture(8, 8), SCALES, Settings(steps=2))
    assert sampling.after.rms == pytest.approx(sampling.before.rms, abs=0.003)  # the output is rounded to 8 bits


def test_the_number_of_tiles_at_a_time_does_not_matter(model: ZoomLDM) -> None:
    one, four = (enlarge(model, picture(12, 12), SCALES, batch_size=size)[0].astype(int) for size in (1, 4))
    assert np.abs(one - four).max() <= 1


def test_a_residual_does_not_depend_on_the_bands() -> None:
    x, y = torch.rand(3, 20, 8), torch.rand(3, 5, 2)
    expected = (Shrink(4)(x[None])[0] - y).square().mean().sqrt().item()
    for rows in (1, 3, 20):
        residual = Residual(y, 4)
        for band in x.split(rows, dim=1):
            residual.add(band)
        assert residual.rms == pytest.approx(expected, rel=1e-5)


def test_bicubic_is_that_of_torch() -> None:
    y = picture(9, 7)
    x = torch.nn.functional.interpolate(from_uint8(y[None]), scale_factor=4, mode="bicubic", antialias=True)
    assert (from_uint8(bicubic(y, 4)[None]) - x.clamp(-1, 1)).abs().max() < 2.1 / 127.5


def test_inferred_conditions_cover_the_image_and_depend_on_each_tile_alone(model: ZoomLDM) -> None:
    y = picture(12, 20)
    tokens = inferred(model, y, SCALES, steps=3).tokens
    assert tokens.shape == (toy.EMBEDDING, 2, 3)
    again = inferred(model, y, SCALES, steps=3, batch_size=1).tokens
    assert torch.allclose(tokens, again, atol=1e-3)


def test_a_single_scale_enlarges_nothing(model: ZoomLDM) -> None:
    with pytest.raises(UserError, match="finest and coarser"):
        SuperResolution(model, picture(8, 8), ["20x"], Unconditional(model))


def arguments(world: Path, out: Path, *more: str) -> list[str]:
    given = ["--model", str(world / "zoomldm"), "--out", str(out), "--steps", "2", "--device", "cpu"]
    return [*more, *given]


def test_a_folder_in_and_a_folder_out(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(picture(8, 10)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.png").write_text("")
    status = superres.main(arguments(world, tmp_path / "out", str(tmp_path / "in"), "--condition", "none"))
    assert status == 1
    assert "failed" in capsys.readouterr().err.splitlines()[-1]
    assert {Image.open(tmp_path / "out" / name).size for name in ("a.png", "b.jpg", "c.tif")} == {(40, 32)}
    record = json.loads((tmp_path / "out" / "superres.json").read_text())
    assert (len(record["images"]), len(record["failed"])) == (3, 1)
    settings = record["settings"]
    assert (settings["condition"], settings["steps"], settings["slide"]) == ("none", 2, None)  # values, not their text
    assert all(figures["residual"] < figures["residual_before"] for figures in record["images"])


@pytest.mark.parametrize("scales", ["20x,5x", "20x,10x,5x"])
def test_an_interrupted_command_typed_again_ends_in_the_same_bytes(
    world: Path, tmp_path: Path, scales: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.commands.superres.inferred", partial(inferred, steps=3))
    Image.fromarray(picture(12, 10)).save(tmp_path / "a.png")
    given = [str(tmp_path / "a.png"), "--scales", scales]
    assert superres.main(arguments(world, tmp_path / "straight", *given)) == 0
    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        superres.main(arguments(world, tmp_path / "again", *given))
    left = {path.suffixes[0] for path in (tmp_path / "again").glob("unfinished-*.safetensors")}
    assert left == {".conditions", ".safetensors"}
    monkeypatch.setattr("ldm.commands.superres.inferred", pytest.fail)  # conditions are kept, too
    taken: list[int] = []
    run = Joint.run
    monkeypatch.setattr(Joint, "run", lambda joint: (taken.append(joint.done), run(joint))[1])
    assert superres.main(arguments(world, tmp_path / "again", *given)) == 0
    assert taken == [1]
    assert [path.name for path in (tmp_path / "again").iterdir() if path.name.startswith("unfinished")] == []
    assert (tmp_path / "straight/a.png").read_bytes() == (tmp_path / "again/a.png").read_bytes()


def test_nothing_else_goes_on_from_what_was_left(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, given = tmp_path / "a.png", ["--condition", "given", "--from", str(tmp_path / "slide.h5")]
    Image.fromarray(picture(12, 10)).save(path)
    toy.slide(tmp_path / "slide.h5")

    def begin(*more: str, steps: int = 0) -> int:
        with interrupted_after(steps) as begun, pytest.raises(KeyboardInterrupt):
            superres.main(arguments(world, tmp_path / "out", str(path), *given, *more))
        return begun[0]

    assert (begin(steps=1), begin()) == (0, 1)
    for option in ("--seed=1", "--guidance=3", "--batch-size=2", "--no-consistency", "--place=1,0"):
        assert begin(option) == 0, option
    (tmp_path / "slide.h5").unlink()
    toy.slide(tmp_path / "slide.h5", height_l0=8 * toy.TILE_PX + 1)
    capsys.readouterr()
    assert begin() == 0
    assert "is of another sampling (inputs.slide: " in capsys.readouterr().out
    Image.fromarray(picture(12, 10, seed=1)).save(path)
    assert begin() == 0


def test_scores_against_the_truth_and_conditions_of_a_slide(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "small.png")
    Image.fromarray(255 - picture(32, 32)).save(tmp_path / "truth.png")
    more = ["--from", str(world / "slide.h5"), "--place", "7,7", "--truth", str(tmp_path / "truth.png")]
    assert superres.main(arguments(world, tmp_path / "out", str(tmp_path / "small.png"), *more)) == 0
    printed = capsys.readouterr()
    assert {"PSNR", "SSIM", "LPIPS", "bicubic", "zoomldm"} < set(printed.out.split())
    assert "small.png: its truth, shrunk, differs from it by" in printed.err
    assert (tmp_path / "out" / "small.comparison.png").is_file()


def test_a_truth_of_the_same_place_is_scored_without_a_remark(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = picture(8, 8)
    Image.fromarray(low).save(tmp_path / "small.png")
    Image.fromarray(low.repeat(4, 0).repeat(4, 1)).save(tmp_path / "truth.png")
    more = ["--method", "bicubic", "--truth", str(tmp_path / "truth.png")]
    assert superres.main(arguments(world, tmp_path / "out", str(tmp_path / "small.png"), *more)) == 0
    assert "truth" not in capsys.readouterr().err


def test_large_images_become_pyramids(world: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(8, 1100)).save(tmp_path / "long.png")
    assert superres.main(arguments(world, tmp_path / "out", str(tmp_path / "long.png"), "--method", "bicubic")) == 0
    assert Image.open(tmp_path / "out" / "long.tiff").size == (4400, 32)


@pytest.mark.parametrize("method", ["bicubic", "zoomldm"])
def test_a_scene_with_infrared_keeps_its_place_on_earth(
    method: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, turned = tmp_path / "scene.tif", Affine(0.6, 0.2, 400_000, 0.2, -0.6, 4_000_000)
    y = picture(8, 10)
    infrared = np.linspace(0, 90, 80).astype(np.uint8).reshape(8, 10)
    layout = {"driver": "GTiff", "count": 4, "height": 8, "width": 10, "dtype": "uint8", "crs": "EPSG:32614"}
    with rasterio.open(path, "w", transform=turned, **layout) as file:
        file.write(np.concatenate([np.moveaxis(y, -1, 0), infrared[None]]))
    more = [str(path), "--condition", "none", "--method", method]
    assert superres.main(arguments(world, tmp_path / "out", *more)) == 0
    assert "scene.tif: band 4 is tagged alpha" in capsys.readouterr().err
    with rasterio.open(tmp_path / "out" / "scene.tif") as file:
        assert (file.width, file.height, file.count, file.crs) == (40, 32, 3, CRS.from_epsg(32614))
        for corner in ((0, 0), (10, 0), (3, 8)):
            assert file.transform * (4 * corner[0], 4 * corner[1]) == pytest.approx(turned * corner, abs=1e-6)
        image = np.moveaxis(file.read(), 0, -1)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    means = image.reshape(8, 4, 10, 4, 3).mean((1, 3))
    assert np.abs(means - y).mean() < 4


def test_a_picture_of_a_georeferenced_slide_lies_where_its_tile_does(world: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "part.png")
    shape = {"crs": CRS.from_epsg(32614).to_wkt(), "transform": "0.5 0.0 1000.0 0.0 -0.5 9000.0"}
    toy.slide(tmp_path / "slide.h5", **shape)
    more = ["--from", str(tmp_path / "slide.h5"), "--place", "2,1", "--method", "bicubic", str(tmp_path / "part.png")]
    assert superres.main(arguments(world, tmp_path / "out", *more)) == 0
    with rasterio.open(tmp_path / "out" / "part.tif") as file:
        assert file.transform.almost_equals(Affine(0.5, 0, 1000 + 32 * 0.5, 0, -0.5, 9000 - 64 * 0.5))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--truth", "small.png"], "truth is 8x8 px; expected 32x32"),
        (["--condition", "given"], "no slide"),
        (["--from", "slide.h5", "--place", "here"], "--place: here"),
        (["--from", "slide.h5", "--place", "8,0"], "--place: 8,0 lies outside slide.h5"),
        (["--scales", "20x,3x"], "3x is not on the histology ladder"),
        (["--out", "."], "another folder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    more: list[str], message: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(8, 8)).save(tmp_path / "small.png")
    (tmp_path / "slide.h5").symlink_to(world / "slide.h5")
    with pytest.raises(UserError, match=message) as caught:
        superres.main([*arguments(world, tmp_path / "out", "small.png"), *more])
    assert "\n" not in str(caught.value)


def test_a_scene_given_to_a_model_of_histology_is_told(model: ZoomLDM) -> None:
    place = Place(CRS.from_epsg(32614).to_wkt(), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    assert kind_notes(None, model, "20x") == []
    (note,) = kind_notes(place, model, "20x")
    assert "is georeferenced, but the model is of histology" in note
    assert kind_notes(place, replace(model, ladder=ladder("satellite")), "1x") == []
