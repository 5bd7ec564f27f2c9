"""Bags: the layout that other tools read, and the fusion of scales."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from torchmil.datasets import ProcessedMILDataset

from benchmarks.fixtures import toy
from ldm.data.bags import Bag, BagFolder, fuse, place_l0, read_bag, write_bag
from ldm.data.h5 import SlideFile
from ldm.data.thumbnail import thumbnail
from ldm.errors import UserError
from ldm.support.cache import Identity

MADE = Identity("features", {"model": "m-1"}, {"slide": "0123"})


def bag_of(scale: str, index: int, side: int = 8) -> Bag:
    """All regions of a slide of `side` x `side` base tiles; their features say (index, row, column)."""
    ij = np.argwhere(np.ones((side >> index, side >> index))).astype(np.int32)
    features = np.concatenate([np.full((len(ij), 1), index), ij], axis=1).astype(np.float32)
    side_l0 = 32 << index
    return Bag("a/b", (scale,), features, ij[:, ::-1].astype(np.int64) * side_l0, ij, side_l0, MADE)


def test_a_bag_comes_back_as_it_was_written(tmp_path: Path) -> None:
    bag = bag_of("10x", 1)
    write_bag(tmp_path / "a/b.h5", bag)
    found = read_bag(tmp_path / "a/b.h5")
    assert (found.slide_id, found.scales, found.side_l0, found.identity) == ("a/b", ("10x",), 64, MADE)
    for name in ("features", "coords", "ij"):
        np.testing.assert_array_equal(getattr(found, name), getattr(bag, name))
        assert getattr(found, name).dtype == getattr(bag, name).dtype


def test_clam_trident_and_torchmil_find_what_they_look_for(tmp_path: Path) -> None:
    bag = bag_of("20x", 0)
    write_bag(tmp_path / "b.h5", bag)
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["features"].shape == (64, 3)
        assert file["coords"].dtype == np.int64
        assert file["coords"][1].tolist() == [32, 0]  # x first
        assert dict(file["coords"].attrs) == {
            "name": "a/b",
            "patch_size": 32,
            "patch_level": 0,
            "patch_size_level0": 32,
        }
    folder = str(tmp_path)
    read = ProcessedMILDataset(
        folder, coords_path=folder, bag_keys=["X", "coords", "adj"], file_ext=".h5", dist_thr=32.5
    )
    np.testing.assert_array_equal(read[0]["X"].numpy(), bag.features)
    np.testing.assert_array_equal(read[0]["coords"].numpy(), bag.coords)
    assert read[0]["adj"].coalesce().indices().shape[1] == 2 * 2 * 8 * 7


def test_coordinates_are_full_resolution_pixels(tmp_path: Path) -> None:
    slide = SlideFile(toy.slide(tmp_path / "s.h5", mpp_l0=0.2, origin_x_l0=7.0, origin_y_l0=1.0))
    coords, side = place_l0(slide, "10x", np.array([[0, 0], [1, 3]]))
    assert side == 160  # two base tiles of 32 px at 0.5 um, in pixels of 0.2 um
    assert coords.tolist() == [[7, 1], [487, 161]]


def test_coordinates_of_imported_patches_are_where_they_were_read(tmp_path: Path) -> None:
    """Their grid may have another step than the base scale's: read_mpp says which."""
    slide = SlideFile(toy.slide(tmp_path / "s.h5", mpp_l0=0.25, read_mpp=0.625, origin_x_l0=3.0))
    coords, side = place_l0(slide, "20x", np.array([[0, 0], [2, 5]]))
    assert side == 80  # 32 px of 0.625 um, in pixels of 0.25 um
    assert coords.tolist() == [[3, 0], [403, 160]]
    assert thumbnail(slide, SlideFile.images)[1] == 2.5


def test_every_tile_gets_the_regions_that_it_lies_in() -> None:
    fused = fuse([bag_of("20x", 0), bag_of("10x", 1), bag_of("1.25x", 3)])
    assert fused.scales == ("20x", "10x", "1.25x")
    assert fused.features.shape == (64, 9)
    i, j = fused.ij.T
    zero = np.zeros(64)
    expected = [zero, i, j, zero + 1, i // 2, j // 2, zero + 3, i // 8, j // 8]
    np.testing.assert_array_equal(fused.features, np.stack(expected, axis=1))
    np.testing.assert_array_equal(fused.coords, bag_of("20x", 0).coords)


def test_order_in_the_tables_does_not_matter() -> None:
    fine, coarse = bag_of("20x", 0), bag_of("5x", 2)
    mixed = np.random.default_rng(0).permutation(len(coarse.ij))
    other = replace(coarse, ij=coarse.ij[mixed], features=coarse.features[mixed])
    np.testing.assert_array_equal(fuse([fine, coarse]).features, fuse([fine, other]).features)


def test_tiles_without_a_coarser_region_are_left_out_and_many_are_refused() -> None:
    fine, coarse = bag_of("20x", 0), bag_of("10x", 1)
    one_less = replace(coarse, ij=coarse.ij[1:], features=coarse.features[1:])
    fused = fuse([fine, one_less])
    assert len(fused.ij) == 60
    assert not (fused.ij < 2).all(axis=1).any()
    half = replace(coarse, ij=coarse.ij[8:], features=coarse.features[8:])
    with pytest.raises(UserError, match=r"32 of 64 tiles lie in no region at 10x; .* regions_per_scale=null"):
        fuse([fine, half])


def test_what_is_not_a_whole_bag_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_bag(tmp_path / "none.h5")
    write_bag(tmp_path / "b.h5", bag_of("20x", 0))
    damaged = bytearray((tmp_path / "b.h5").read_bytes())
    with h5py.File(tmp_path / "b.h5") as file:
        at = file["features"].id.get_chunk_info(0).byte_offset
    damaged[at + 5] ^= 1
    (tmp_path / "damaged.h5").write_bytes(damaged)
    (tmp_path / "cut.h5").write_bytes(damaged[:200])
    for name in ("damaged", "cut"):
        with pytest.raises(UserError, match="is not a whole bag"):
            read_bag(tmp_path / f"{name}.h5")
    broken = bag_of("20x", 0)
    broken.features[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        write_bag(tmp_path / "nan.h5", broken)
    assert not (tmp_path / "nan.h5").exists()


def test_a_folder_of_bags_is_read_once(tmp_path: Path) -> None:
    write_bag(tmp_path / "b.h5", replace(bag_of("20x", 0), slide_id="b"))
    bags = BagFolder(tmp_path, ["b"])
    first = bags[0]
    (tmp_path / "b.h5").unlink()
    assert bags[0] is first


def test_bags_made_in_different_ways_are_refused(tmp_path: Path) -> None:
    bag = bag_of("20x", 0)
    write_bag(tmp_path / "a.h5", replace(bag, slide_id="a"))
    bag = replace(bag, slide_id="b")
    write_bag(tmp_path / "b.h5", replace(bag, identity=replace(MADE, inputs={"slide": "4567"})))
    assert len(BagFolder(tmp_path, ["a", "b"])[1]) == len(bag.features)
    for other in (replace(MADE, weights={"model": "m-2"}), replace(MADE, settings={"t": 5}), replace(MADE, version=0)):
        write_bag(tmp_path / "b.h5", replace(bag, identity=other))
        (different,) = other.differences(MADE)
        with pytest.raises(UserError, match=r"b\.h5: made in another way \(.*, in a\.h5 .*\); make all") as told:
            BagFolder(tmp_path, ["a", "b"])
        assert different.replace("kept", "in a.h5") in str(told.value)


def test_a_bag_of_another_slide_is_refused(tmp_path: Path) -> None:
    for slide_id in ("a", "b"):
        write_bag(tmp_path / f"{slide_id}.h5", replace(bag_of("20x", 0), slide_id=slide_id))
    BagFolder(tmp_path, ["a", "b"])
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes())
    with pytest.raises(UserError, match=r"b\.h5: is the bag of a, expected b; bags are found by name"):
        BagFolder(tmp_path, ["a", "b"])


def test_a_bag_whose_origin_was_edited_or_is_of_an_earlier_format_is_refused(tmp_path: Path) -> None:
    for key, value in (("identity", replace(MADE, weights={"model": "m-2"}).text), ("format", "zoomldm-bag-1")):
        write_bag(tmp_path / "b.h5", bag_of("20x", 0))
        with h5py.File(tmp_path / "b.h5", "r+") as file:
            file.attrs[key] = value
        with pytest.raises(UserError, match=r"is not a whole bag .*; make it with"):
            read_bag(tmp_path / "b.h5")
