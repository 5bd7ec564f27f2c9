"""GeoJSON of QuPath and of GIS: what is written is read again, what others write is understood or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.crs import CRS

from ldm.errors import UserError
from ldm.images.geojson import ClassRegion, in_coordinates, in_pixels, is_kept, read_regions
from ldm.images.geojson_writer import write_regions
from ldm.images.rasters import Place

SQUARE = [[[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]]
BOW = [[[0, 0], [8, 8], [8, 0], [0, 8], [0, 0]]]


def feature(coordinates: Any = SQUARE, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def saved(path: Path, content: Any) -> Path:
    file = path / "regions.geojson"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_regions_survive_a_file_in_quPaths_form(tmp_path: Path) -> None:
    hole = shapely.box(0, 0, 100, 80).difference(shapely.box(20, 20, 40, 40))
    both = shapely.union(shapely.box(200, 0, 210, 10), shapely.box(300, 0, 310, 10))
    regions = [
        ClassRegion("Tumor", hole, (200, 0, 0), {"attention": 0.25}),
        ClassRegion("Immune cells", both),
        ClassRegion("", hole),
    ]
    write_regions(tmp_path / "a.geojson", regions)
    write_regions(tmp_path / "b.geojson", regions)
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
    found = read_regions(tmp_path / "a.geojson").regions
    assert [region.name for region in found] == ["Tumor", "Immune cells", ""]
    assert found[0].colour == (200, 0, 0)
    assert all(a.geometry.equals(b.geometry) for a, b in zip(found, regions, strict=True))
    first = json.loads((tmp_path / "a.geojson").read_text())["features"][0]["properties"]
    assert first["objectType"] == "annotation"
    assert first["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    assert first["measurements"] == {"attention": 0.25}


@pytest.mark.parametrize(
    ("properties", "name", "colour"),
    [
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor", (200, 0, 0)),
        ({"classification": {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}}, "Tumor: Positive", (1, 2, 3)),
        ({"classification": {"name": "Tumor", "color": [1, 2, 300]}}, "Tumor", None),
        ({"objectType": "annotation", "name": "my region"}, "", None),
        ({"class": "forest", "name": "plot 7"}, "forest", None),
        ({"class": None, "label": 3}, "3", None),
        ({}, "", None),
    ],
)
def test_the_class_is_found_where_programs_write_it(
    properties: dict[str, Any], name: str, colour: Any, tmp_path: Path
) -> None:
    region = read_regions(saved(tmp_path, {"type": "FeatureCollection", "features": [feature(**properties)]})).regions[
        0
    ]
    assert (region.name, region.colour) == (name, colour)


@pytest.mark.parametrize("content", [feature(), [feature()], feature()["geometry"]])
def test_a_feature_a_list_and_a_geometry_alone_are_read(content: Any, tmp_path: Path) -> None:
    assert read_regions(saved(tmp_path, content)).regions[0].geometry.area == 64


def ring(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


@pytest.mark.parametrize(
    ("kind", "coordinates", "area"),
    [
        ("Polygon", [*SQUARE, ring(20, 0, 4)], 64),  # a hole beside its outline
        ("Polygon", [*SQUARE, ring(6, 6, 4)], 60),  # over its corner
        ("Polygon", [*SQUARE, ring(1, 1, 2), ring(2, 2, 2)], 57),  # holes that overlap
        ("Polygon", [*SQUARE, ring(2, 2, 2), ring(2, 2, 2)], 60),  # the same hole twice
        ("MultiPolygon", [SQUARE, [ring(4, 4, 8)]], 112),  # areas that overlap
        ("MultiPolygon", [SQUARE, SQUARE], 64),
        ("MultiPolygon", [[*SQUARE, ring(20, 0, 4)], [ring(21, 1, 2)]], 68),  # one area in the stray hole of another
    ],
)
def test_an_area_is_inside_an_outline_and_outside_its_holes(
    kind: str, coordinates: Any, area: float, tmp_path: Path
) -> None:
    found = read_regions(saved(tmp_path, [feature(coordinates, kind)]))
    assert found.regions[0].geometry.is_valid
    assert found.regions[0].geometry.area == area
    assert len(found.notes) == 1


def test_a_hole_outside_its_outline_is_told(tmp_path: Path) -> None:
    found = read_regions(saved(tmp_path, [feature([*SQUARE, ring(20, 0, 4)])]))
    assert found.notes == ("feature 1 has a hole outside its outline: no area is taken there",)


def test_an_area_that_crosses_itself_is_taken_and_told(tmp_path: Path) -> None:
    found = read_regions(saved(tmp_path, [feature(BOW, classification={"name": "Fat"})]))
    assert found.regions[0].geometry.is_valid
    assert found.regions[0].geometry.area == pytest.approx(32)
    assert found.notes == ("feature 1 (Fat) crosses itself: the area inside is taken",)


def test_collections_of_collections_keep_all_areas_and_overlaps_count_once(tmp_path: Path) -> None:
    far = [[[x + 100, y] for x, y in ring] for ring in SQUARE]
    inner = {"type": "GeometryCollection", "geometries": [{"type": "MultiPolygon", "coordinates": [far, SQUARE]}]}
    outer = {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": SQUARE}, inner]}
    (region,) = read_regions(saved(tmp_path, outer)).regions
    assert region.geometry.is_valid
    assert region.geometry.area == 2 * shapely.Polygon(SQUARE[0]).area


def test_names_of_classes_are_one_line_of_text(tmp_path: Path) -> None:
    path = saved(tmp_path, feature(classification={"name": "Dru\u0308se\x1b[2J \n 2\ud800"}))
    assert read_regions(path).regions[0].name == "Dr\u00fcse [2J 2"


def test_points_lines_and_empty_features_are_left_out_and_told(tmp_path: Path) -> None:
    none = {"type": "Feature", "geometry": None, "properties": None}
    content = [feature([1, 2], "Point"), none, feature([], "Polygon"), feature()]
    found = read_regions(saved(tmp_path, content))
    assert len(found.regions) == 1
    assert "3 features without an area" in found.notes[0]
    with pytest.raises(UserError, match=r"3 features without an area found, expected polygons"):
        read_regions(saved(tmp_path, content[:3]))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "[" * 100_000,
        "{}",
        "7",
        "null",
        '{"type": "Topology"}',
        '{"type": "FeatureCollection"}',
        {"type": "FeatureCollection", "features": []},
        {"type": "FeatureCollection", "features": [1]},
        [feature("x")],
        [feature([[[0, 0], [1, "a"], [1, 1]]])],
        [feature([[[0, 0], [1, 1]]])],
        [feature([[[0, 0], [8, 0], [8, 1e300]]])],
        json.dumps([feature()]).replace("8", "NaN"),
        [feature(kind="Pentagon")],
        [{**feature(), "properties": [1]}],
        [feature(classification={"name": {"a": 1}})],
        {"type": "FeatureCollection", "features": [feature()], "crs": {"properties": {"name": "EPSG:0"}}},
        {"type": "FeatureCollection", "features": [feature()], "crs": {"properties": {"name": "EPSG:999999"}}},
        {"type": "FeatureCollection", "features": [feature()], "crs": "here"},
    ],
    ids=range(21),
)
def test_anything_else_is_refused_in_one_line(content: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"regions\.geojson") as error:
        read_regions(saved(tmp_path, content))
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == "", "libraries write nothing of their own beside it"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_regions(tmp_path / "none.geojson")


def test_the_reference_system_is_written_and_read(tmp_path: Path) -> None:
    region = ClassRegion("Forest", shapely.box(400_000, 4_000_000, 400_100, 4_000_050))
    write_regions(tmp_path / "a.geojson", [region], CRS.from_epsg(32614).to_wkt())
    found = read_regions(tmp_path / "a.geojson")
    assert CRS.from_user_input(found.crs) == CRS.from_epsg(32614)
    assert found.regions[0].geometry.equals(region.geometry)


def test_pixels_to_coordinates_and_back() -> None:
    place = Place("", (0.5, 0.1, 1000, 0.2, -0.5, 9000))
    region = ClassRegion("a", shapely.box(3, 4, 30, 50))
    there = in_coordinates([region], place)
    corner = shapely.get_coordinates(there[0].geometry)
    assert (corner == np.array([1000 + 0.5 * 30 + 0.1 * 4, 9000 + 0.2 * 30 - 0.5 * 4])).all(1).any()
    assert in_pixels(there, place)[0].geometry.equals_exact(region.geometry, 1e-9)


def test_a_class_drawn_by_hand_may_begin_like_kept_regions() -> None:
    assert all(map(is_kept, ("kept 20x", "kept 0.15625x", "kept 1x")))
    assert not any(map(is_kept, ("kept margin", "kept", "kept 20x tumour", "tissue")))
