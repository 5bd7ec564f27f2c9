"""Outlines over an image: QuPath's GeoJSON, in pixels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from benchmarks.fixtures import toy
from ldm.errors import UserError
from ldm.images.rasters import Place
from ldm.view.catalogue import catalogue
from ldm.view.overlays import COLOURS, TISSUE_NAME, moved, read_outlines

UTM, GROUND = CRS.from_epsg(32614), (2.0, 0.0, 400_000.0, 0.0, -2.0, 4_000_000.0)
SQUARE = [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_classes_names_and_colours_are_those_of_the_file(tmp_path: Path) -> None:
    polygon = {"type": "Polygon", "coordinates": SQUARE}
    features = [
        feature(polygon, classification={"name": "Tumor", "color": [200, 0, 10]}),
        feature(polygon, classification={"name": "Stroma", "colorRGB": -16711936}),
        feature({"type": "MultiPolygon", "coordinates": [SQUARE, SQUARE]}, classification={"name": "Tumor"}),
        feature({"type": "Point", "coordinates": [3, 4]}),
    ]
    for content in ({"type": "FeatureCollection", "features": features}, features):
        found = read_outlines(written(tmp_path / "a.geojson", content))
        assert [(each.name, each.colour, each.count) for each in found] == [
            ("Tumor", "#c8000a", 2),
            ("Stroma", "#00ff00", 1),
            ("outlines", COLOURS[2], 1),
        ]
        assert [len(each.paths) for each in found] == [3, 1, 1]
        assert found[0].paths[0] == [0, 0, 10, 0, 10, 10, 0, 10, 0, 0]
        assert found[2].paths == [[3, 4]]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", "{}", '{"type": "FeatureCollection"}', '{"type": "FeatureCollection", "features": [1]}', "null"),
        *("\x00\xff", '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[NaN, 0]]]}}'),
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[["x", 0]]]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[1]]]}}',
        '{"type": "Feature", "geometry": {"type": "Circle", "coordinates": [1, 2]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1e999, 2]}}',
        '{"type": "Feature", "geometry": 7}',
        f'{{"type": "Feature", "geometry": {{"type": "Point", "coordinates": [{"9" * 400}, 2]}}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_geojson_is_one_line(content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as GeoJSON") as told:
        read_outlines(written(tmp_path / "a.geojson", content))
    assert "\n" not in str(told.value)


def test_coordinates_of_a_reference_system_become_pixels(tmp_path: Path) -> None:
    place = Place(UTM.to_wkt(), GROUND)
    line = {"type": "LineString", "coordinates": [[400_000, 4_000_000], [400_020, 3_999_960]]}
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32614"}}
    content = {"type": "FeatureCollection", "crs": named, "features": [feature(line)]}
    path = written(tmp_path / "a.geojson", content)
    assert read_outlines(path, place)[0].paths == [[0, 0, 10, 20]]
    content["crs"] = {"type": "name", "properties": {"name": "nonsense"}}
    with pytest.raises(UserError, match="cannot be read as GeoJSON"):
        read_outlines(written(path, content), place)


def test_full_resolution_pixels_become_those_of_what_is_shown(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature({"type": "LineString", "coordinates": [[10, 20], [14, 20]]}))
    (outline,) = moved(read_outlines(path), (10.0, 12.0), 2.0)
    assert outline.paths == [[0, 4, 2, 4]]


def test_a_prepared_slide_shows_the_outlines_that_were_written_beside_it(tmp_path: Path) -> None:
    toy.slide(tmp_path / "a.h5", mpp_l0=0.25, origin_x_l0=10.0)
    square = {"type": "Polygon", "coordinates": [[[10, 0], [50, 0], [50, 40], [10, 0]]]}
    features = [
        {"type": "Feature", "geometry": square, "properties": {"classification": {"name": name}}}
        for name in ("tissue", "kept 20x")
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    ((entry,), _) = catalogue([tmp_path / "a.h5"])
    outlines = entry.outlines(entry)
    assert [each.name for each in outlines] == ["tissue", *(f"regions at {name}" for name in toy.SCALES)]
    assert [each.shown for each in outlines] == [True, *(False for _ in outlines[1:])]
    assert outlines[0].paths == [[0, 0, 20, 0, 20, 20, 0, 0]]  # two pixels of full resolution are one


def test_a_prepared_slide_keeps_the_outline_of_its_tissue_beside_other_annotations(tmp_path: Path) -> None:
    toy.slide(tmp_path / "a.h5", mpp_l0=0.25)
    square = {"type": "Polygon", "coordinates": [[[10, 0], [50, 0], [50, 40], [10, 0]]]}
    tumor = {"type": "Feature", "geometry": square, "properties": {"classification": {"name": "Tumor"}}}
    (tmp_path / "a.geojson").write_text(json.dumps(tumor))
    ((entry,), _) = catalogue([tmp_path / "a.h5"])
    outlines = entry.outlines(entry)
    assert [each.name for each in outlines] == ["Tumor", TISSUE_NAME, *(f"regions at {name}" for name in toy.SCALES)]


def test_outlines_without_an_image_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.GeoJSON", feature({"type": "Polygon", "coordinates": SQUARE}))
    with pytest.raises(UserError, match="holds outlines alone; give the image"):
        catalogue([tmp_path / "a.GeoJSON"])


def scene_with(folder: Path, content: Any) -> list[Any]:
    """The outlines of a scene of 80x60 px of 2 m in UTM, beside which `content` lies."""
    image = np.zeros((3, 60, 80), np.uint8)
    with rasterio.open(
        folder / "a.tif", "w", "GTiff", 80, 60, 3, crs=UTM.to_wkt(), transform=Affine(*GROUND), dtype="uint8"
    ) as file:
        file.write(image)
    written(folder / "a.geojson", content)
    ((entry,), _) = catalogue([folder / "a.tif"])
    return entry.outlines(entry)


def test_degrees_of_a_file_without_a_crs_lie_on_the_scene(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[400_020, 3_999_960], [400_060, 3_999_900]]}
    (outline,) = scene_with(tmp_path, feature(transform_geom(UTM, "EPSG:4326", line)))
    assert outline.paths[0] == pytest.approx([10, 20, 30, 50], abs=0.01)


@pytest.mark.parametrize("corner", [[10, 20], [79, 59], [500, 20]])
def test_pixels_of_a_file_without_a_crs_stay_pixels(corner: list[int], tmp_path: Path) -> None:
    (outline,) = scene_with(tmp_path, feature({"type": "LineString", "coordinates": [[0, 0], corner]}))
    assert outline.paths == [[0, 0, *corner]]


def test_a_crs_over_an_image_without_a_place_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    named = {"type": "name", "properties": {"name": "EPSG:32614"}}
    polygon = feature({"type": "Polygon", "coordinates": SQUARE})
    written(tmp_path / "a.geojson", {"type": "FeatureCollection", "crs": named, "features": [polygon]})
    ((entry,), _) = catalogue([tmp_path])
    told = entry.described()
    assert "is in the crs EPSG:32614, but its image has no georeference" in told["trouble"]
    assert told["outlines"] == []


def test_outlines_in_the_crs_of_a_prepared_scene_lie_on_it(tmp_path: Path) -> None:
    place = {"crs": UTM.to_wkt(), "transform": " ".join(map(str, GROUND))}
    toy.slide(tmp_path / "a.H5", mpp_l0=0.25, origin_x_l0=10.0, **place)
    line = feature({"type": "LineString", "coordinates": [[400_020, 4_000_000], [400_060, 3_999_960]]}, name="Road")
    named = {"type": "name", "properties": {"name": "EPSG:32614"}}
    written(tmp_path / "a.GeoJSON", {"type": "FeatureCollection", "crs": named, "features": [line]})
    ((entry,), _) = catalogue([tmp_path])
    road = next(each for each in entry.outlines(entry) if each.name == "Road")
    assert road.paths == [[0, 0, 10, 10]]  # 10 to 30 of full resolution, two of which are one
