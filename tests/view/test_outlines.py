"""Outlines over an image: QuPath's GeoJSON, in pixels."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fixtures import toy
from ldm.errors import UserError
from ldm.images.rasters import Place
from ldm.view.catalogue import catalogue
from ldm.view.overlays import COLOURS, TISSUE_NAME, moved, read_outlines

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
    from rasterio.crs import CRS

    place = Place(CRS.from_epsg(32614).to_wkt(), (2.0, 0.0, 400_000.0, 0.0, -2.0, 4_000_000.0))
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
