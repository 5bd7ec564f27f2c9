"""Class maps: what is outlined and drawn again is the same; rasters of classes are read with their legend."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from ldm.errors import UserError
from ldm.images.class_maps import Legend, class_shares, drawn, outlined, read_class_raster


def test_a_map_that_is_outlined_and_drawn_again_is_the_same() -> None:
    classes = np.random.default_rng(0).integers(0, 4, (24, 31))
    legend = {value: Legend(str(value)) for value in (1, 2, 3)}
    regions = [(region.geometry, int(region.name)) for region in outlined(classes, legend, 8.0)]
    assert (drawn(regions, (24, 31), 8.0, 0) == classes).all()


def test_smooth_outlines_cover_the_same_and_meet() -> None:
    y, x = np.mgrid[:64, :64]
    classes = np.where(np.hypot(y - 32, x - 32) < 20, 2, 1)
    regions = outlined(classes, {1: Legend("a"), 2: Legend("b")}, 4.0, smooth=True)
    again = drawn([(region.geometry, 1 + (region.name == "b")) for region in regions], (64, 64), 4.0, 0)
    assert (again == classes).mean() > 0.98
    assert (again > 0).all()
    assert shapely.union_all([region.geometry for region in regions]).area == pytest.approx(256**2)


def test_the_innermost_region_counts_in_any_order() -> None:
    outer, inner = (shapely.box(0, 0, 16, 16), 1), (shapely.box(4, 4, 8, 8), 2)
    for order in ([outer, inner], [inner, outer]):
        found = drawn(order, (5, 4), 4.0, 7)
        assert found.tolist() == [[1, 1, 1, 1], [1, 2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [7, 7, 7, 7]]


def test_shares_are_areas() -> None:
    classes = drawn([(shapely.box(0, 0, 16, 64), 1)], (8, 8), 8.0, 0)
    assert class_shares(classes, 2, 4)[..., 1].tolist() == [[0.5, 0], [0.5, 0]]


def raster(path: Path, values: np.ndarray, legend: str = "value,class,colour\n1,Tumor,#c80000\n2,Fat,\n") -> Path:
    Image.fromarray(values.astype(np.uint8)).save(path)
    path.with_suffix(".csv").write_text(legend)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_class_raster_is_read_with_its_legend(suffix: str, tmp_path: Path) -> None:
    values = np.zeros((20, 30), int)
    values[2:10, 5:9], values[12:, 20:] = 1, 2
    found = read_class_raster(raster(tmp_path / f"map{suffix}", values))
    assert found.frame == (0, 0, 30, 20)
    assert {region.name: region.geometry.bounds for region in found.regions} == {
        "Tumor": (5, 2, 9, 10),
        "Fat": (20, 12, 30, 20),
    }
    assert [region.colour for region in found.regions] == [(200, 0, 0), None]


def test_a_georeferenced_raster_lies_in_its_crs(tmp_path: Path) -> None:
    path, utm = tmp_path / "map.tif", CRS.from_epsg(32614)
    ground = Affine(10, 0, 5000, 0, -10, 9000)
    with rasterio.open(path, "w", "GTiff", 6, 4, 1, crs=utm, transform=ground, dtype="uint8") as file:
        file.write(np.ones((1, 4, 6), np.uint8))
    path.with_suffix(".csv").write_text("value,class\n1,Forest\n")
    found = read_class_raster(path)
    assert found.regions[0].geometry.bounds == found.frame == (5000, 8960, 5060, 9000)
    assert CRS.from_wkt(found.crs) == utm


@pytest.mark.parametrize(
    ("legend", "told"),
    [
        ("value,class\n2,Fat\n", "holds the value 1, which map.csv does not name"),
        ("value,class\n1,Tumor\n1,Fat\n", "line 3: 1,Fat found"),
        ("value,class\n-1,Tumor\n", "line 2: -1,Tumor found"),
        ("value,class\n1,\n", "line 2: 1, found"),
        ("value,class,colour\n1,Tumor,red\n", "line 2: colour red found"),
        ("number,class\n1,Tumor\n", "has the columns number, class; expected value,class"),
    ],
)
def test_a_legend_that_does_not_fit_is_refused(legend: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_class_raster(raster(tmp_path / "map.png", np.ones((4, 4)), legend))
    assert told in str(error.value)


def test_colours_and_missing_legends_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 3 bands of uint8, expected one band of whole numbers"):
        read_class_raster(raster(tmp_path / "map.png", np.ones((4, 4, 3))))
    path = raster(tmp_path / "map.png", np.ones((4, 4)))
    path.with_suffix(".csv").unlink()
    with pytest.raises(UserError, match=r"map.csv: cannot be read"):
        read_class_raster(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"map.png: cannot be read"):
        read_class_raster(path)


def test_a_georeference_without_a_crs_leaves_pixels(tmp_path: Path) -> None:
    path = raster(tmp_path / "map.png", np.ones((4, 6)))
    path.with_suffix(".pgw").write_text("10\n0\n0\n-10\n5000\n9000\n")
    found = read_class_raster(path)
    assert found.regions[0].geometry.bounds == found.frame == (0, 0, 6, 4)
    assert found.notes == ("its georeference names no crs, so its pixels are counted",)
