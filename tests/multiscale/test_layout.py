"""Layouts: conditions follow areas; sizes, resolutions and reference systems are those of the file."""

from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform_geom
from shapely.geometry import mapping, shape

from benchmarks.fixtures.palettes import palette
from ldm.errors import UserError
from ldm.images.geojson import ClassRegion, ClassRegions
from ldm.multiscale.layout import ClassLayout, fitted

SATELLITE = {"kind": "satellite"}
UTM = CRS.from_epsg(32614)


def regions(*given: tuple[str, tuple[float, float, float, float]], **more: Any) -> ClassRegions:
    return ClassRegions([ClassRegion(name, shapely.box(*box)) for name, box in given], **more)


def fit(found: ClassRegions, um: float = 0.5, **options: Any) -> ClassLayout:
    return fitted(found, palette(), um=um, **options)


def test_shares_are_the_areas_of_the_classes() -> None:
    layout = fit(regions(("Tumor", (0, 0, 48, 64)), ("Stroma", (48, 0, 96, 64))))
    assert (layout.height, layout.width, layout.rest) == (64, 96, "")
    shares = layout.shares(palette(), 32)
    assert shares.shape == (2, 3, 4)
    assert shares[0, :, 2].tolist() == [1, 0.5, 0]
    assert (shares.sum(-1) == 1).all()


def test_a_nested_region_replaces_what_is_below_and_the_rest_is_background() -> None:
    layout = fit(regions(("Fat", (8, 8, 16, 16)), ("Tumor", (0, 0, 32, 32))), size=(32, 64))
    shares = layout.shares(palette(), 32)
    assert layout.rest == "Background"
    assert shares[0, 0].tolist() == [0, 0, 1 - 1 / 16, 1 / 16]
    assert shares[0, 1].tolist() == [1, 0, 0, 0]


def test_beyond_an_image_that_ends_within_a_tile_its_edge_repeats() -> None:
    shares = fit(regions(("Tumor", (0, 0, 40, 20)))).shares(palette(), 32)
    assert shares.shape == (1, 2, 4)
    assert (shares[..., 2] == 1).all()


@pytest.mark.parametrize(("mpp", "width"), [(None, 64), (0.25, 32), (1.0, 128)])
def test_coordinates_of_another_resolution_are_scaled(mpp: float | None, width: int) -> None:
    layout = fit(regions(("Tumor", (0, 0, 64, 64))), mpp=mpp)
    assert (layout.height, layout.width) == (width, width)
    assert layout.regions[0].geometry.bounds == (0, 0, width, width)


def test_an_image_that_begins_elsewhere_shows_what_is_there() -> None:
    found = regions(("Tumor", (64, 32, 96, 64)), ("Fat", (0, 0, 8, 8)))
    layout = fit(found, corner=(64, 32), size=(32, 64))
    assert [region.name for region in layout.regions] == ["Tumor"]
    assert layout.regions[0].geometry.bounds == (0, 0, 32, 32)
    assert layout.notes == ("1 of 2 regions lie outside the image",)
    assert (fit(found, corner=(64, 32)).height, fit(found, corner=(64, 32)).width) == (32, 32)


def test_regions_that_reach_beyond_are_cut() -> None:
    layout = fit(regions(("Tumor", (-50, -50, 500, 40)), ("Fat", (1, 1, 64, 9))), size=(64, 64))
    assert layout.regions[0].geometry.bounds == (0, 0, 64, 40)
    assert layout.notes == ("1 of 2 regions reach beyond the image and are cut at its edge",)


@pytest.mark.parametrize(
    ("found", "options", "told"),
    [
        (regions(("Tumor", (900, 0, 950, 10))), {"size": (64, 64)}, "all regions lie outside the image of 64x64 px"),
        (regions(("Tumor", (-9, -9, -1, -1))), {}, "the image would have"),
        (regions(("Tumor", (0, 0, 5e6, 5e6))), {}, "the image would have 5000000x5000000 px"),
        (regions(("Tumour", (0, 0, 9, 9))), {}, "class 'Tumour' is not in the palette"),
        (regions(("", (0, 0, 9, 9)), ("Fat", (0, 0, 9, 9))), {}, "1 of 2 regions have no class"),
        (regions(("Region*", (0, 0, 9, 9))), {}, r"holds regions of Region\* alone"),
        (regions(("Fat", (0, 0, 9, 9))), {"rest": "Glass"}, "class 'Glass' is not in the palette"),
        (regions(("Fat", (0, 0, 9, 9)), crs="EPSG:32614"), {}, "but the model is of histology"),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_is_refused(found: ClassRegions, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        fit(found, **options)


def test_places_without_a_class_are_refused_where_the_palette_has_no_background() -> None:
    bare = palette(names=("Glass", "Stroma", "Tumor", "Fat"))
    found = regions(("Tumor", (0, 0, 32, 32)))
    with pytest.raises(UserError, match=r"50% of the image lie in no region; say what is there with --rest CLASS"):
        fitted(found, bare, um=0.5, size=(32, 64))
    assert fitted(found, bare, um=0.5, size=(32, 64), rest="stroma").rest == "Stroma"
    assert fitted(found, bare, um=0.5).rest == ""


def test_regions_that_qupath_ignores_are_left_out_and_told() -> None:
    layout = fit(regions(("Ignore*", (0, 0, 99, 99)), ("Fat", (0, 0, 9, 9))))
    assert [region.name for region in layout.regions] == ["Fat"]
    assert layout.notes == ("regions of the class Ignore* are left out, as QuPath does",)


def scene(found: ClassRegions, **options: Any) -> ClassLayout:
    return fitted(found, palette(**SATELLITE), um=1e6, **options)


def test_a_scene_lies_where_its_regions_do() -> None:
    layout = scene(regions(("Fat", (400_000.3, 4_000_000, 400_064, 4_000_031.6)), crs="EPSG:32614"))
    assert layout.place is not None
    assert CRS.from_wkt(layout.place.crs) == UTM
    assert layout.place.transform == (1, 0, 400_000, 0, -1, 4_000_032)
    assert (layout.height, layout.width) == (32, 64)
    assert layout.regions[0].geometry.bounds == pytest.approx((0.3, 0.4, 64, 32))
    moved = scene(regions(("Fat", (400_000, 4_000_000, 400_064, 4_000_032)), crs="EPSG:32614"), corner=(32, 16))
    assert moved.place is not None
    assert moved.place.transform[2::3] == (400_032, 4_000_016)
    assert (moved.height, moved.width) == (16, 32)


def test_feet_are_metres_and_degrees_go_to_utm() -> None:
    feet = scene(regions(("Fat", (0, 0, 100, 50)), crs="EPSG:2277"))  # US survey feet
    assert (feet.height, feet.width) == (16, 31)
    square = transform_geom(UTM, "EPSG:4326", mapping(shapely.box(400_000, 4_000_000, 400_500, 4_000_300)))
    for crs in ("", "EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84"):
        layout = scene(ClassRegions([ClassRegion("Fat", shape(square))], crs=crs), rest="Stroma")
        assert layout.place is not None
        assert CRS.from_wkt(layout.place.crs) == UTM
        assert abs(layout.height - 300) <= 1
        assert abs(layout.width - 500) <= 1
        assert layout.regions[0].geometry.area == pytest.approx(150_000, rel=1e-4)


def test_a_crs_without_lengths_and_a_resolution_beside_a_crs_are_refused() -> None:
    with pytest.raises(UserError, match="has no unit of length"):
        scene(regions(("Fat", (0, 0, 9, 9)), crs="EPSG:4978"))
    with pytest.raises(UserError, match=r"--mpp: is of coordinates in pixels"):
        scene(regions(("Fat", (0, 0, 9, 9)), crs="EPSG:32614"), mpp=0.5)


def test_pixels_of_a_scene_without_a_crs_stay_pixels() -> None:
    layout = scene(regions(("Fat", (0, 0, 300, 300))))
    assert (layout.place, layout.height) == (None, 300)


def test_tokens_have_one_embedding_a_tile() -> None:
    layout = fit(regions(("Tumor", (0, 0, 96, 64))))
    tokens = layout.tokens(palette(), 32, 0)
    assert tokens.shape == (6, 2, 3)
    assert np.isfinite(tokens).all()


def test_pixels_that_are_said_to_be_degrees_are_refused() -> None:
    with pytest.raises(UserError, match=r"reaches to 100 to 5100, 200 to 5200, but its crs OGC:CRS84 has degrees"):
        scene(regions(("Fat", (100, 200, 5100, 5200)), crs="OGC:CRS84"))
