"""Coordinates and embeddings of TRIDENT and CLAM: imported exactly, or refused."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import shapely
import torch
from einops import reduce, repeat
from numpy.typing import NDArray

from benchmarks.fixtures.slides import tissue_image, write_slide
from data_prep.imported_coordinates import coordinate_shares, covered_shares
from data_prep.imported_embeddings import ImportedEmbeddings
from data_prep.preparation import prepare
from data_prep.preparation_config import EncoderConfig, LadderConfig, PrepareConfig
from data_prep.slides.readers import Box
from data_prep.slides.slide import Plane, Slide
from ldm.data.h5 import SlideFile
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError
from ldm.images.geojson import ClassRegion, read_regions
from ldm.images.geojson_writer import write_regions
from tests.data_prep.slides.test_slide_geometry import Scan

TILE, MPP = 32, 0.25
STEP = TILE * 0.5 / MPP
"""a base tile in level-0 pixels"""
IMAGE = tissue_image(1000, 1500, 1)
DEMO_WIDTH = 256


def write(path: Path, corners: NDArray[np.integer], features: NDArray[np.floating] | None = None, **attrs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = corners
        file["coords"].attrs.update(attrs)
        if features is not None:
            file["features"] = features
    return path


def config(folder: Path, **changes: Any) -> PrepareConfig:
    values: dict[str, Any] = {
        "slides": str(folder / "slides"),
        "out": str(folder / "out"),
        "ladder": LadderConfig("histology", 4),
        "encoder": EncoderConfig("demo"),
        "autoencoder": None,
        "tile_px": TILE,
        "images": "png",
    }
    return PrepareConfig(**values | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_slide(tmp_path / "slides" / "TCGA-A1-A0SB-01Z-00-DX1.00aa.tiff", [IMAGE], MPP)
    return tmp_path


NAME = "TCGA-A1-A0SB-01Z-00-DX1.00aa"


def corners_at(origin: tuple[int, int], step: int, places: NDArray[np.integer]) -> NDArray[np.int64]:
    """(n, 2) x and y of `places` (n, 2), column and row."""
    return np.array(origin) + step * places


def crops(corners: NDArray[np.integer], step: int) -> NDArray[np.uint8]:
    """The tiles that TRIDENT would read: (n, TILE, TILE, 3), 2x2 means of level-0 pixels."""
    tiles = np.stack([IMAGE[y : y + step, x : x + step] for x, y in corners]).astype(np.float64)
    return np.floor(reduce(tiles, "n (h a) (w b) c -> n h w c", "mean", a=2, b=2) + 0.5).astype(np.uint8)


def failure(asked: PrepareConfig) -> str:
    (report,) = prepare(asked)
    assert report.status == "failed"
    assert "\n" not in report.message
    return report.message


def test_shares_are_areas_of_the_union() -> None:
    rng = np.random.default_rng(0)
    fine = 16  # sixteenths of a tile
    corners, side = rng.integers(-20, 7 * fine, (40, 2)), 23
    raster = np.zeros((7 * fine, 9 * fine))
    for x, y in corners:
        raster[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = 1
    expected = reduce(raster, "(r a) (c b) -> r c", "mean", a=fine, b=fine)
    np.testing.assert_allclose(covered_shares(corners / fine, side / fine, 7, 9), expected, atol=1e-6)
    assert 0 < expected.mean() < 1


TRIDENT = {"patch_size": 48, "patch_size_level0": 96, "level0_magnification": 40, "target_magnification": 20}
CLAM = {"patch_size": 48, "patch_level": 1, "downsample": (2.0, 2.0), "name": NAME}


@pytest.mark.parametrize(("file", "attrs"), [(f"{NAME}_patches.h5", TRIDENT), (f"{NAME}.h5", CLAM)])
def test_coordinates_of_any_side_say_where_tissue_is(folder: Path, file: str, attrs: dict[str, Any]) -> None:
    corners = np.array([[13, 7], [109, 7], [800, 600]])
    write(folder / "found" / "20x" / "patches" / file, corners, **attrs)
    (report,) = prepare(config(folder, coordinates=str(folder / "found"), tissue_share=0.25))
    assert report.status == "prepared", report.message
    slide = SlideFile(folder / "out" / f"{NAME}.h5")
    expected = covered_shares(corners / STEP, 96 / STEP, 16, 24)
    kept = np.argwhere(expected >= 0.25)
    assert set(map(tuple, slide.ij("20x").tolist())) == set(map(tuple, kept.tolist()))
    i, j = slide.ij("20x").T
    np.testing.assert_allclose(slide.tissue("20x"), expected[i, j], rtol=1e-6)


def test_annotations_say_where_tissue_is_and_what_was_kept_is_written_as_such(folder: Path) -> None:
    tumour, hole = shapely.box(64, 64, 384, 320), shapely.box(128, 128, 192, 192)
    (folder / "found").mkdir()
    path = folder / "found" / f"{NAME}.geojson"
    write_regions(
        path,
        [ClassRegion("Tumor", tumour), ClassRegion("", shapely.box(640, 64, 704, 128)), ClassRegion("Ignore*", hole)],
    )
    (report,) = prepare(config(folder, coordinates=str(folder / "found"), tissue_share=0.25))
    assert report.status == "prepared", report.message
    slide = SlideFile(folder / "out" / f"{NAME}.h5")
    expected = {(row, col) for row in range(1, 5) for col in range(1, 6)} - {(2, 2)} | {(1, 10)}
    assert set(map(tuple, slide.ij("20x").tolist())) == expected
    written = read_regions(folder / "out" / f"{NAME}.geojson").regions
    tiles = [shapely.box(64 * j, 64 * i, 64 * j + 64, 64 * i + 64) for i, j in expected]
    for name in ("tissue", "kept 20x"):
        found = shapely.union_all([region.geometry for region in written if region.name == name])
        assert found.symmetric_difference(shapely.union_all(tiles)).area == pytest.approx(0)
    (folder / "again").mkdir()
    shutil.copy(folder / "out" / f"{NAME}.geojson", folder / "again")
    (report,) = prepare(config(folder, coordinates=str(folder / "again"), tissue_share=0.25, out=str(folder / "twice")))
    assert report.status == "prepared", report.message
    twice = SlideFile(folder / "twice" / f"{NAME}.h5")
    assert set(map(tuple, twice.ij("20x").tolist())) == expected  # coarser kept regions are no tissue
    own = folder / "own" / f"{NAME}.geojson"
    own.parent.mkdir()
    shutil.copy(path, own)
    own.write_text(own.read_text().replace('"id"', '"was"'))  # as another program writes it
    before = own.read_bytes()
    (report,) = prepare(config(folder, coordinates=str(folder / "found"), out=str(own.parent)))
    assert "was not written by prepare and would be replaced; move it" in report.message
    assert own.read_bytes() == before
    write_regions(path, [ClassRegion("Tumor", shapely.box(9000, 0, 9100, 90))])
    (report,) = prepare(config(folder, coordinates=str(folder / "found"), out=str(folder / "other")))
    assert "no region lies on the slide" in report.message
    write_regions(path, [ClassRegion("Tumor", tumour), ClassRegion("Ignore*", tumour.buffer(9))])
    (report,) = prepare(config(folder, coordinates=str(folder / "found"), out=str(folder / "ignored")))
    assert "Ignore* covers all its other regions on the slide" in report.message
    both = shutil.copytree(folder / "found", folder / "both")
    write(both / f"{NAME}.h5", np.array([[13, 7]]), **TRIDENT)
    (report,) = prepare(config(folder, coordinates=str(both), out=str(folder / "third")))
    assert "holds" in report.message
    assert "name the folder of one run" in report.message


@pytest.mark.parametrize(("origin", "step"), [((0, 0), 64), ((22, 10), 64), ((37, 5), 65)])
@pytest.mark.parametrize("stated", [True, False])
def test_embeddings_are_placed_on_their_own_lattice(
    folder: Path, origin: tuple[int, int], step: int, stated: bool
) -> None:
    """The slide is read on the lattice of the embeddings, so each still belongs to the pixels that it was made of."""
    rng = np.random.default_rng(1)
    places = np.unique(np.concatenate([rng.integers(0, (20, 13), (60, 2)), [[0, 0], [1, 0]]]), axis=0)
    corners = corners_at(origin, step, places)
    features = load_encoder("demo")(torch.from_numpy(crops(corners, 64))).numpy()
    attrs = {"patch_size_level0": step} if stated else {}
    write(folder / "features_uni" / f"{NAME}.h5", corners, features[None], **attrs)
    asked = config(folder, encoder=EncoderConfig("demo", embeddings=str(folder / "features_uni")))
    (report,) = prepare(asked)
    assert report.status == "prepared", report.message
    slide = SlideFile(folder / "out" / f"{NAME}.h5")
    begin = [at - step if at > 1 else at for at in origin]
    assert [slide.attrs["origin_x_l0"], slide.attrs["origin_y_l0"]] == begin
    assert slide.attrs["read_mpp"] == pytest.approx(0.5 * step / 64)
    assert slide.attrs["encoder"] == f"imported-demo-{DEMO_WIDTH}"
    base = slide.tokens(0, 0, 0, *slide.grid).numpy()  # (d, rows, cols)
    col, row = (places + [at > 1 for at in origin]).T
    np.testing.assert_allclose(base[:, row, col].T, features, rtol=1e-3, atol=1e-6)
    elsewhere = np.ones(slide.grid, bool)
    elsewhere[row, col] = False
    assert not base[:, elsewhere].any()
    assert set(map(tuple, slide.ij("20x").tolist())) == set(zip(row.tolist(), col.tolist(), strict=True))
    if step == 64:
        order = {place: number for number, place in enumerate(zip(row.tolist(), col.tolist(), strict=True))}
        wanted = [order[tuple(place)] for place in slide.ij("20x").tolist()]
        images = np.stack(slide.images("20x", range(len(wanted)))).astype(int)
        assert np.abs(images - crops(corners, 64)[wanted]).max() <= 1  # rounded once, or once for each axis


def test_a_cohort_of_imported_embeddings_is_that_of_computed_ones_where_tissue_is(folder: Path) -> None:
    computed = config(folder)
    prepare(computed)
    own = SlideFile(folder / "out" / f"{NAME}.h5")
    places = own.ij("20x")[:, ::-1]
    tokens = own.tokens(0, 0, 0, *own.grid).numpy()
    write(folder / "h5_files" / f"{NAME}.h5", corners_at((0, 0), 64, places), tokens[:, places[:, 1], places[:, 0]].T)
    imported = EncoderConfig("demo", embeddings=str(folder / "h5_files"))
    prepare(config(folder, encoder=imported, out=str(folder / "again")))
    again = SlideFile(folder / "again" / f"{NAME}.h5")
    np.testing.assert_array_equal(again.ij("20x"), own.ij("20x"))
    np.testing.assert_array_equal(again.images("20x", range(9)), own.images("20x", range(9)))
    for row in range(9):
        assert torch.equal(again.embedding("20x", row), own.embedding("20x", row))
    assert again.attrs["encoder"] != own.attrs["encoder"]


def test_a_slide_is_prepared_again_when_its_embeddings_change(folder: Path) -> None:
    corners = corners_at((0, 0), 64, np.array([[2, 2], [3, 2], [9, 7]]))
    path = write(folder / "e" / f"{NAME}.h5", corners, np.ones((3, 5), np.float32))
    asked = config(folder, encoder=EncoderConfig("virchow", embeddings=str(folder / "e")))
    assert [prepare(asked)[0].status for _ in range(2)] == ["prepared", "kept"]
    write(path, corners, np.full((3, 5), 2.0, np.float32))
    assert prepare(asked)[0].status == "prepared"
    assert SlideFile(folder / "out" / f"{NAME}.h5").tokens(0, 2, 2, 1, 1).flatten().tolist() == [2.0] * 5


def test_a_slide_without_patches_is_refused(folder: Path) -> None:
    write(folder / "e" / f"{NAME}.h5", np.zeros((0, 2), int), np.zeros((0, 5), np.float32), patch_size_level0=64)
    write(folder / "c" / f"{NAME}.h5", np.zeros((0, 2), int), patch_size_level0=64)
    for asked in (
        config(folder, encoder=EncoderConfig("virchow", embeddings=str(folder / "e"))),
        config(folder, coordinates=str(folder / "c")),
    ):
        (report,) = prepare(asked)
        assert report.status == "failed"
        assert "no region of any scale can be kept" in report.message
        assert not list((folder / "out").glob("*.h5"))


GRID = np.stack(np.meshgrid(range(4), range(3)), -1).reshape(-1, 2)
LATTICE = corners_at((22, 10), 64, GRID)
ONES = np.ones((len(GRID), 5), np.float32)
OFF = np.where(np.arange(12)[:, None] == 7, LATTICE + 20, LATTICE)
NAN = np.where(np.arange(12)[:, None] == 7, np.nan, ONES)
BEYOND = np.where(np.arange(12)[:, None] == 7, 64 * 40, LATTICE)
TWICE = np.where(np.arange(12)[:, None] == 7, LATTICE[3], LATTICE)
SIDE = {"patch_size_level0": 64}


@pytest.mark.parametrize(
    ("corners", "features", "attrs", "message"),
    [
        (OFF, ONES, SIDE, "the patch at (234, 94)"),
        (corners_at((0, 0), 32, GRID), ONES, SIDE, "off the others' lattice of step 64, as with overlap"),
        (LATTICE, ONES, {"patch_size_level0": 128}, "patches are 128 px wide at full resolution, expected 64.0"),
        (corners_at((0, 0), 67, GRID), ONES, {}, "off the others' lattice"),
        (LATTICE, NAN, {}, "the features of the patch at (214, 74) are not finite"),
        (LATTICE, ONES[:5], {}, "5 features for 12 coords"),
        (BEYOND, ONES, {}, "the patch at (2560, 2560) lies off the slide (1500x1000 px)"),
        (TWICE, ONES, {}, "has 2 features of the patch at (214, 10)"),
        (LATTICE[:, :1], ONES, {}, "coords are int64 (12, 1), expected numbers (n, 2)"),
        (LATTICE, ONES, {"patch_size": 32, "patch_level": 1}, "patches of level 1 without its downsample"),
        (LATTICE, ONES, {"patch_size_level0": np.nan}, "its patches are nan px wide"),
        (LATTICE, ONES, {"patch_size": "?"}, "the size of its patches is no number"),
        (LATTICE, ONES.astype(np.uint8), {}, "features are uint8 (12, 5), expected floats (n, d)"),
        (
            LATTICE,
            ONES,
            {"level0_width": 1500, "level0_height": 999},
            "is of a slide of 1500x999 px, expected 1500x1000",
        ),
        (LATTICE, None, {}, "features are none, expected floats (n, d)"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    folder: Path, corners: NDArray[np.integer], features: Any, attrs: dict[str, Any], message: str
) -> None:
    write(folder / "e" / "A.h5", LATTICE, ONES)  # tells the width
    path = write(folder / "e" / f"{NAME}.h5", corners, features, **attrs)
    said = failure(config(folder, encoder=EncoderConfig("virchow", embeddings=str(folder / "e"))))
    assert said.startswith(str(path))
    assert message in said


def test_embeddings_of_another_width_are_refused(folder: Path) -> None:
    write(folder / "e" / f"{NAME}.h5", LATTICE, ONES)
    said = failure(config(folder, encoder=EncoderConfig("demo", embeddings=str(folder / "e"))))
    assert "features are 5 wide, expected 256" in said
    write(folder / "f" / f"{NAME}.h5", LATTICE, ONES)
    write(folder / "f" / "A.h5", LATTICE, repeat(ONES, "n d -> n (2 d)"))
    said = failure(config(folder, encoder=EncoderConfig("virchow", embeddings=str(folder / "f"))))
    assert "features are 5 wide, expected 10" in said


def test_coordinates_are_of_the_whole_file_when_only_a_part_was_scanned(tmp_path: Path) -> None:
    slide = Slide(tmp_path / "a.mrxs", "histology", Scan(IMAGE, Box(160, 90, 1200, 800)), MPP, "file")
    places = np.array([[3, 2], [4, 2], [9, 7]])
    corners = corners_at((22, 10), 64, places)
    write(tmp_path / "e" / "a.h5", corners, np.arange(15, dtype=np.float32).reshape(3, 5), **SIDE)
    scanned = Plane(slide, 0.5)
    found = ImportedEmbeddings.of(scanned, str(tmp_path / "e"), TILE, 5)
    plane = found.plane(slide, TILE)
    assert plane.origin_l0 == (22 + 2 * 64, 10 + 64)  # the last corner of the lattice outside of what was scanned
    rows, cols = np.nonzero(found.shares(16, 24))
    for row, col, corner in zip(rows, cols, corners, strict=True):
        pixels = plane.read(col * TILE, row * TILE, TILE, TILE).astype(int)
        assert np.abs(pixels - crops(corner[None], 64)[0]).max() <= 1
    shares = coordinate_shares(scanned, str(tmp_path / "e"), TILE, 16, 24)
    np.testing.assert_allclose(shares, covered_shares((corners - (160, 90)) / STEP, 1, 16, 24), atol=1e-6)
    assert shares.sum() == pytest.approx(3)


def test_two_slides_of_one_name_get_no_imports(folder: Path) -> None:
    write_slide(folder / "slides" / "sub" / f"{NAME}.tiff", [IMAGE], MPP)
    write(folder / "c" / f"{NAME}.h5", LATTICE, **SIDE)
    reports = prepare(config(folder, coordinates=str(folder / "c")))
    assert all("rename one" in report.message for report in reports), reports


def test_folders_that_do_not_fit_are_refused(folder: Path) -> None:
    assert "holds no" in failure(config(folder, coordinates=str(folder / "slides")))
    with pytest.raises(UserError, match=r"no .h5 in .* has features"):
        prepare(config(folder, encoder=EncoderConfig("virchow", embeddings=str(folder / "slides"))))
    with pytest.raises(UserError, match=r"nowhere does not exist; correct the path"):
        prepare(config(folder, coordinates=str(folder / "nowhere")))
    for size in (10, 20):
        write(folder / "c" / f"{size}x" / f"{NAME}_patches.h5", LATTICE, **SIDE)
    assert "name the folder of one run" in failure(config(folder, coordinates=str(folder / "c")))
    (folder / "d").mkdir()
    (folder / "d" / f"{NAME}.h5").write_bytes(b"no HDF5")
    assert "cannot be read" in failure(config(folder, coordinates=str(folder / "d")))
    write(folder / "f" / f"{NAME}.h5", LATTICE)
    assert "no patch_size" in failure(config(folder, coordinates=str(folder / "f")))
    with pytest.raises(UserError, match=r"beside encoder.embeddings"):
        config(folder, coordinates="c", encoder=EncoderConfig("demo", embeddings="e"))
