"""Cloud-Optimised GeoTIFF: content as read by rasterio, and atomic writes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from ldm.errors import UserError
from ldm.images.cog import CogWriter
from ldm.images.rasters import Place

UTM = CRS.from_epsg(32614)
PLACES = {
    "upright": Affine(0.6, 0, 400_000, 0, -0.6, 4_000_000),
    "turned": Affine(0.5, 0.3, 400_000, 0.3, -0.5, 4_000_000),
}


def place(name: str, crs: CRS | None = UTM) -> Place:
    return Place("" if crs is None else crs.to_wkt(), tuple(PLACES[name])[:6])


def write(path: Path, image: np.ndarray, where: Place, rows: int = 130) -> Path:
    with CogWriter(path, *image.shape[:2], where) as writer:
        for row in range(0, len(image), rows):
            writer.write(image[row : row + rows])
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1100, 700, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", PLACES)
def test_rasterio_finds_pixels_place_tiles_and_levels(name: str, image: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image, place(name))
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    with rasterio.open(path) as file:
        assert file.crs == UTM
        assert file.transform.almost_equals(PLACES[name], 1e-9)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes[0] == (512, 512)
        assert [colour.name for colour in file.colorinterp] == ["red", "green", "blue"]
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), image)
        assert file.overviews(1) == [2, 4]
    with rasterio.open(path, overview_level=0) as half:
        means = image[:1024, :512].reshape(512, 2, 256, 2, 3).mean((1, 3))
        found = np.moveaxis(half.read(window=Window(0, 0, 256, 512)), 0, -1)
        assert np.abs(found - means).max() <= 1


def test_bands_of_any_height_make_the_same_pixels(image: np.ndarray, tmp_path: Path) -> None:
    for rows in (1, 512, 2000):
        with rasterio.open(write(tmp_path / "a.tif", image[:600, :40], place("upright"), rows)) as file:
            np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), image[:600, :40])


def test_a_transform_without_a_system_is_kept(image: np.ndarray, tmp_path: Path) -> None:
    with rasterio.open(write(tmp_path / "a.tif", image[:20], place("upright", None))) as file:
        assert file.crs is None
        assert file.transform.almost_equals(PLACES["upright"], 1e-9)


def test_what_does_not_fit_is_refused_and_leaves_nothing(image: np.ndarray, tmp_path: Path) -> None:
    wrong = {"600 rows written; expected 601": image[:600], "expected uint8": image[:601].astype(float)}
    wrong["602 rows written; expected 601"] = image[:602]
    for message, rows in wrong.items():
        with (
            pytest.raises(UserError, match=message),
            CogWriter(tmp_path / "a.tif", 601, 700, place("upright")) as writer,
        ):
            writer.write(rows)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("left", [1, 4, 6, 7])
def test_a_full_disk_is_told_in_one_line_at_any_stage(left: int, disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes((12 - left) * 2**20))
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    (disk / "a.tif").write_bytes(b"old")
    with pytest.raises(UserError, match=r"a\.tif: the disk is full: it needs 10,485,760 bytes") as refusal:
        write(disk / "a.tif", noise, place("upright"))
    assert "\n" not in str(refusal.value)
    assert {file.name for file in disk.iterdir()} == {"ballast", "a.tif"}
    assert (disk / "a.tif").read_bytes() == b"old"
