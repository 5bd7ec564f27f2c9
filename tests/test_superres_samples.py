"""superres --samples: files, bands, and going on where it was interrupted."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from benchmarks.fixtures import toy
from ldm.cli import superres
from ldm.commands import superres as work
from ldm.commands.superres_samples import heat
from ldm.errors import UserError
from ldm.view.catalogue import catalogue


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.run_folder(tmp_path_factory.mktemp("run") / "zoomldm", "zoomldm")


def run(model: Path, folder: Path, *more: str) -> dict:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(60, 200, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    small = truth.reshape(16, 4, 16, 4, 3).mean((1, 3)).round().astype(np.uint8)
    for name, image in (("in/a.png", small), ("truth/a.png", truth)):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / name)
    options = ["--condition", "none", "--steps", "2", "--precision", "fp32", "--device", "cpu", "--scales", "20x,5x"]
    given = [str(folder / "in/a.png"), "--truth", str(folder / "truth/a.png"), "--out", str(folder / "out")]
    assert superres.main([*given, "--model", str(model), *options, *more]) == 0
    return json.loads((folder / "out/superres.json").read_text())["images"][0]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_samples_are_those_of_their_seeds_and_bands_say_what_they_have_in_common(model: Path, tmp_path: Path) -> None:
    found = run(model, tmp_path, "--samples", "3", "--seed", "5")
    samples = sorted((tmp_path / "out/a.samples").glob("*.png"))
    assert [path.name.split("-")[0] for path in samples] == ["00005", "00006", "00007"]
    assert found["files_of_samples"] == list(map(str, samples))
    np.testing.assert_array_equal(pixels(tmp_path / "out/a.png"), pixels(samples[0]))
    with tifffile.TiffFile(tmp_path / "out/a.bands.ome.tiff") as tiff:
        assert tiff.is_ome
        bands, about = tiff.asarray(), tiff.ome_metadata
    stacked = np.stack([pixels(path) for path in samples]).astype(float)
    np.testing.assert_allclose(bands[:3], np.moveaxis(stacked.mean(0), -1, 0), atol=1e-3)
    np.testing.assert_allclose(bands[3:6], np.moveaxis(stacked.std(0, ddof=1), -1, 0), atol=1e-3)
    small, truth = pixels(tmp_path / "in/a.png"), pixels(tmp_path / "truth/a.png")
    means = bands[:3].reshape(3, 16, 4, 16, 4).mean((2, 4))
    np.testing.assert_allclose(bands[9:12, ::4, ::4], means - np.moveaxis(small, -1, 0), atol=1e-3)
    np.testing.assert_allclose(bands[12:], bands[:3] - np.moveaxis(truth, -1, 0).astype(float), atol=1e-3)
    for name in ("mean red", "spread green", "half of interval blue", "residual red", "error blue"):
        assert f'Name="{name}"' in about
    assert set(found["inside_interval"]) == {"20x", "10x", "5x"}
    assert all(0 <= share <= 1 for share in found["inside_interval"].values())
    assert (tmp_path / "out/a.spread.png").is_file()
    layers = {kind: pixels(tmp_path / f"out/layers/a.{kind}.png") for kind in ("mean", "spread", "residual")}
    np.testing.assert_array_equal(layers["mean"], np.moveaxis(bands[:3], 0, -1).round().astype(np.uint8))
    spread, residual = (np.sqrt(np.square(bands[part]).mean(0)) for part in (slice(3, 6), slice(9, 12)))
    most = float(np.percentile(spread, 99.5))  # one scale of colours, so that a residual of rounding is dark
    for name, values in {"spread": spread, "residual": residual}.items():
        assert np.abs(layers[name] - heat(values, most).astype(int)).max() <= 1
    (entry,) = [entry for entry in catalogue([tmp_path / "out"])[0] if entry.name == "a.png"]
    assert [layer.name for layer in entry.layers] == ["before", "bicubic", "enlarged", "mean of samples", "truth"]
    run(model, tmp_path, "--samples", "2", "--seed", "6")
    np.testing.assert_array_equal(pixels(tmp_path / "out/a.png"), pixels(samples[1]))
    alone = run(model, tmp_path, "--seed", "6")
    assert "spread" not in alone
    assert not [*(tmp_path / "out").glob("a.spread*"), *(tmp_path / "out").glob("a.bands*")]
    assert not [*(tmp_path / "out/layers").glob("a.mean*"), *(tmp_path / "out/layers").glob("a.spread*")]
    assert (pixels(tmp_path / "out/a.png") != pixels(samples[1])).any()  # which is drawn to differ as the truth does


def test_the_same_command_makes_only_what_is_missing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model, tmp_path, "--samples", "3")
    before = {path: path.read_bytes() for path in (tmp_path / "out/a.samples").iterdir()}
    images = sorted(path for path in before if path.suffix == ".png")
    images[1].unlink()
    made, sampled = [], work.sampled
    monkeypatch.setattr(work, "sampled", lambda args, *more: made.append(args.seed) or sampled(args, *more))
    again = run(model, tmp_path, "--samples", "4")
    assert made == [1, 3]
    damaged, edited, alone = images
    damaged.write_bytes(before[damaged][:200])
    Image.fromarray(255 - pixels(edited)).save(edited)
    alone.with_name(f"{alone.name}.sha256").unlink()
    made.clear()
    run(model, tmp_path, "--samples", "4")
    assert made == [0, 1, 2]
    after = {path: path.read_bytes() for path in (tmp_path / "out/a.samples").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 2 * again["samples"] == 2 * (whole["samples"] + 1)
    made.clear()
    run(model, tmp_path, "--samples", "2", "--guidance", "1.5")
    assert made == [0, 1]
    assert not list((tmp_path / "out").glob("unfinished*"))


def test_bands_at_a_place_are_a_geotiff(tmp_path: Path) -> None:
    from ldm.images.band_tiff import band_suffix, write_bands
    from ldm.images.rasters import Place

    place = Place(rasterio.crs.CRS.from_epsg(32632).to_wkt(), (0.5, 0, 400_000, 0, -0.5, 5_400_000))
    values = {"mean red": np.full((40, 30), 7.25, np.float32), "spread red": np.ones((40, 30), np.float32)}
    write_bands(tmp_path / f"a{band_suffix(place)}", values, 1.0, place)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.transform[:6] == place.transform
        assert file.descriptions == ("mean red", "spread red")
        assert file.read(1)[0, 0] == 7.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "bicubic", "--samples", "2"], "--samples: bicubic interpolation has one result"),
        (["--samples", "2", "--seed", "4294967295"], "--seed: 4294967295 leaves no seeds for 2 samples"),
    ],
)
def test_samples_that_cannot_be_are_refused(options: list[str], message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(model, tmp_path, *options)


def test_an_image_named_as_the_figures_of_another_is_refused(model: Path, tmp_path: Path) -> None:
    for name in ("a", "a.spread"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"a\.spread\.png: has the name of what is written beside the result of a"):
        superres.main([*map(str, tmp_path.glob("*.png")), "--model", str(model), "--out", str(tmp_path / "out")])
