"""Regions nest, blocks are read once, and every patch is the exact mean of its base pixels."""

import numpy as np
import pytest
from einops import reduce, repeat

from data_prep.slides.grid import Field, Grid, choose, needed_tiles, region_shares
from data_prep.slides.pyramid import field_patches
from ldm.scales import ladder

TILE = 16


@pytest.mark.parametrize("scales", [1, 3, 5])
def test_fields_partition_the_padded_slide(scales):
    grid = Grid.over(ladder("histology", scales), 1000, 300, TILE)
    covered = np.zeros((grid.rows, grid.cols), int)
    for row, col, tiles in grid.fields():
        covered[row : row + tiles, col : col + tiles] += 1
    assert (covered == 1).all()
    assert grid.rows * TILE >= 300
    assert grid.cols * TILE >= 1000
    assert grid.rows % 2 ** (scales - 1) == 0


@pytest.mark.parametrize("scales", [1, 3, 5])
def test_patches_of_every_scale_are_means_and_blocks_are_read_once(scales):
    tiles = max(8, 2 ** (scales - 1))
    field = Field(tiles, 2 * tiles, tiles)
    image = np.random.default_rng(0).integers(0, 256, (3 * tiles * TILE, 3 * tiles * TILE, 3), dtype=np.uint8)
    reads = []

    def read(row: int, col: int) -> np.ndarray:
        reads.append((row, col))
        return image[row * TILE : (row + 8) * TILE, col * TILE : (col + 8) * TILE]

    found = np.zeros(scales, int)
    for scale, i, j, patches in _patches(field, read, np.ones((3 * tiles, 3 * tiles), bool), scales):
        rows, cols = patches.shape[:2]
        found[scale] += rows * cols
        side = TILE << scale
        base = image[i * side : (i + rows) * side, j * side : (j + cols) * side].astype(np.float64)
        means = reduce(base, "(r h a) (c w b) d -> r c h w d", "mean", r=rows, c=cols, a=2**scale, b=2**scale)
        np.testing.assert_array_equal(patches, np.floor(means + 0.5))
    assert found.tolist() == [(tiles >> scale) ** 2 for scale in range(scales)]
    assert len(reads) == len(set(reads)) == (tiles // 8) ** 2


def test_blocks_without_a_needed_tile_are_not_read():
    needed = np.zeros((16, 16), bool)
    needed[3, 12] = True
    reads = []

    def read(row: int, col: int) -> np.ndarray:
        reads.append((row, col))
        return np.zeros((8 * TILE, 8 * TILE, 3), np.uint8)

    scales = {patches.scale for patches in _patches(Field(0, 0, 16), read, needed, 5)}
    assert reads == [(0, 8)]
    assert scales == {0, 1, 2, 3}


def _patches(field, read, needed, scales):
    return list(field_patches(field, read, needed, scales))


def test_regions_are_kept_by_tissue_and_drawn_by_seed_and_slide():
    tiles = np.zeros((16, 16), np.float32)
    tiles[:6, :6] = 1
    shares = region_shares(tiles, ladder("histology", 4))
    eligible = [share >= 0.3 for share in shares]
    kept = choose(shares, eligible, None, (0, "a"))
    assert [int(mask.sum()) for mask in kept] == [36, 9, 3, 1]
    some = choose(shares, eligible, 5, (0, "a"))
    assert [int(mask.sum()) for mask in some] == [5, 5, 3, 1]
    assert not (some[0] & ~kept[0]).any()
    np.testing.assert_array_equal(some[0], choose(shares, eligible, 5, (0, "a"))[0])
    assert (some[0] != choose(shares, eligible, 5, (0, "b"))[0]).any()
    assert not any(mask.any() for mask in choose([np.zeros((4, 4))], [np.ones((4, 4), bool)], None, (0, "a")))


def test_needed_tiles_are_those_with_tissue_and_those_under_a_region():
    tiles = np.zeros((8, 8), np.float32)
    tiles[0, 0] = 1
    coarse = np.zeros((2, 2), bool)
    coarse[1, 1] = True
    expected = repeat(coarse, "r c -> (r a) (c b)", a=4, b=4)
    expected[0, 0] = True
    kept = [np.zeros((8, 8), bool), np.zeros((4, 4), bool), coarse]
    np.testing.assert_array_equal(needed_tiles(tiles, kept), expected)
