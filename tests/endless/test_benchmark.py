"""What `benchmarks.endless` measures with: seams beside patterns that are none, and the tiles that a page asks for."""

import re

import numpy as np
import pytest

from benchmarks.endless import PlacedImage, strength
from benchmarks.endless_page import SCREEN, View
from ldm.evaluation.metrics.seams import seam_strength


def lined(period: int, height: int, seed: int = 0) -> np.ndarray:
    """(256, 256, 3) noise with a bright line in every `period`th row and column."""
    image = np.random.default_rng(seed).integers(100, 120, (256, 256, 3))
    for axis in (0, 1):
        at = [slice(None)] * 3
        at[axis] = slice(0, None, period)
        image[tuple(at)] += height
    return image.astype(np.uint8)


def test_the_cells_of_a_coarser_image_are_no_seams_and_borders_are() -> None:
    cells, seams = ([PlacedImage(lined(period, 20, seed), 0, 0) for seed in range(3)] for period in (16, 64))
    found, error = strength(cells, 64, 0, alike=16)
    assert found == pytest.approx(1, abs=0.05)
    assert seam_strength(cells[0].image, 64) > 1.3
    found, error = strength(seams, 64, 0, alike=16)
    assert found > 1.5
    assert 0 < error < 0.1


def test_lines_are_counted_from_where_the_image_begins() -> None:
    moved = PlacedImage(lined(64, 20)[10:, 30:], 10, 30 - 640)
    assert strength([moved, moved], 64, 0, alike=8)[0] > 1.5
    assert strength([moved, moved], 64, 16, alike=8)[0] < 1


@pytest.mark.parametrize(("downsample", "zoom"), [(1, 1.0), (4, 1.0), (4, 2.0)])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (-12345, 777)])
def test_the_tiles_of_a_view_cover_it_and_none_is_beside_it(downsample: int, zoom: float, x: int, y: int) -> None:
    layer = {"address": "tiles/5x", "px": 64, "offset": 16, "downsample": 4}
    found = View(x, y, downsample, zoom).tiles(layer)
    numbers = np.array([re.findall(r"-?\d+", address)[-2:] for address in found], int)  # rows, columns
    for at, middle, length in zip(numbers.T, (y, x), reversed(SCREEN), strict=True):
        begins = (np.unique(at) * 64 + 16) * 4
        first, last = middle - length / 2 * downsample / zoom, middle + length / 2 * downsample / zoom
        assert begins[0] <= first < begins[0] + 256
        assert begins[-1] < last <= begins[-1] + 256
        assert set(np.diff(begins)) <= {256}


def test_a_view_shows_the_layers_down_to_the_first_that_is_fine_enough() -> None:
    found = (("early", 16), ("1.25x", 16), ("5x", 4), ("20x", 1))
    world = {"layers": [{"name": name, "downsample": downsample} for name, downsample in found]}
    names = [[layer["name"] for layer in view.layers(world)] for view in (View(0, 0, 16, 2), View(0, 0, 1))]
    assert names == [["1.25x"], ["1.25x", "5x", "20x"]]
