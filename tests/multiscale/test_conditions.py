"""Conditions of windows: a map of embeddings equals the prepared slide's embeddings at every place."""

from pathlib import Path

import pytest
import torch

from benchmarks.fixtures import toy
from ldm.data.h5 import SlideFile
from ldm.model_slides import matching_slide
from ldm.multiscale.conditions import TokenMap, Unconditional, drawn_tokens, pool_all, richest_place
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from tests.golden.parity import noise


@pytest.fixture(scope="module")
def slide(demo: ZoomLDM) -> SlideFile:
    return matching_slide(BUNDLED["demo"].slide, demo)


@pytest.mark.parametrize("scale", ["20x", "10x", "5x", "2.5x", "1.25x"])
@torch.no_grad()
def test_a_window_over_a_region_has_the_regions_context(demo: ZoomLDM, slide: SlideFile, scale: str) -> None:
    side = demo.tile_px // demo.autoencoder.downsample
    places = torch.from_numpy(slide.ij(scale)[:4]) * side
    found = TokenMap(demo, slide.tokens(0, 0, 0, *slide.grid)).context(scale, places)
    expected = demo.context([slide.embedding(scale, row) for row in range(4)], scale)
    # coarse levels are stored in half precision
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if slide.ladder[scale].pyramid_level == 0 else 0.02)


@torch.no_grad()
def test_a_canvas_on_the_slide_begins_where_its_tokens_do(demo: ZoomLDM, slide: SlideFile) -> None:
    side = demo.tile_px // demo.autoencoder.downsample
    whole, part = (TokenMap(demo, slide.tokens(0, row, col, 8, 8)) for row, col in ((0, 0), (4, 2)))
    there = torch.tensor([[side + 5, side // 2]])
    shift = torch.tensor([[4, 2]]) * side
    torch.testing.assert_close(part.context("20x", there), whole.context("20x", there + shift), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_last_row_and_column_go_on_beyond_the_map(model: ZoomLDM) -> None:
    tokens = noise(1, toy.EMBEDDING, 3, 5)
    longer = torch.nn.functional.pad(tokens[None], (0, 20, 0, 20), mode="replicate")[0]
    places = torch.tensor([[0, 0], [3, 20], [16, 32], [70, 61]])
    for scale in toy.SCALES:
        found, expected = (TokenMap(model, grid).context(scale, places) for grid in (tokens, longer))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_levels_are_means_and_an_odd_last_row_stands_twice() -> None:
    tokens = noise(1, 2, 5, 4)
    pooled = pool_all(tokens)
    assert pooled.shape == (2, 3, 2)
    torch.testing.assert_close(pooled[:, :2], tokens[:, :4].reshape(2, 2, 2, 2, 2).mean((2, 4)))
    torch.testing.assert_close(pooled[:, 2], tokens[:, 4].reshape(2, 2, 2).mean(2))


def test_without_conditions_the_context_is_null_and_nothing_guides(model: ZoomLDM) -> None:
    nothing = Unconditional(model)
    context = nothing.context("10x", torch.zeros(3, 2, dtype=torch.long))
    assert context.shape == (3, 65, toy.WIDTH)
    assert not context.any()
    assert nothing.guidance(2.0) == 0
    assert TokenMap(model, noise(1, toy.EMBEDDING, 2, 2)).guidance(2.0) == 2


@pytest.mark.parametrize(("scale", "rows", "cols"), [("20x", 2, 3), ("5x", 5, 3), ("5x", 4, 8)])
def test_a_map_is_drawn_patch_by_patch(model: ZoomLDM, scale: str, rows: int, cols: int) -> None:
    down = model.ladder[scale].downsample
    drawn = drawn_tokens(model, scale, rows, cols, seed=7, steps=2)
    assert drawn.shape == (toy.EMBEDDING, rows, cols)
    taller = drawn_tokens(model, scale, rows + down, cols, seed=7, steps=2)
    torch.testing.assert_close(taller[:, :rows], drawn, rtol=0, atol=1e-4)  # rows below change nothing
    assert not torch.allclose(drawn_tokens(model, scale, rows, cols, seed=8, steps=2), drawn, atol=1e-2)


def test_the_richest_place_is_around_the_region_with_most_tissue(tmp_path: Path) -> None:
    slide = SlideFile(toy.slide(tmp_path / "slide.h5"))  # even tissue: the first region, at the corner
    assert richest_place(slide, "5x", 4, 4) == (0, 0)
    assert richest_place(slide, "5x", 2, 2) == (1, 1)
    assert richest_place(slide, "5x", 20, 20) == (0, 0)
    assert richest_place(slide, "10x", 2, 2) == (2, 2)  # of equals, the one nearest to the middle
    assert richest_place(slide, "2.5x", 4, 4) == (0, 0)  # a scale that the slide lacks
