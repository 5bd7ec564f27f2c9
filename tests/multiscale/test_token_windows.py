"""Conditions of windows: the published ones where there are any, the map's own tokens at whole numbers."""

import math

import pytest
import torch
from torch import Tensor

from ldm.data.tokens import normalize_tokens
from ldm.errors import UserError
from ldm.multiscale.token_windows import pool, slerp, unpool, window_embeddings
from tests.golden.parity import error, golden, noise

MAP = noise(1, 16, 5, 7)


def at(*places: tuple[float, float], grid: int = 2, tokens: Tensor = MAP) -> Tensor:
    rows, cols = torch.tensor(places).unbind(1)
    return window_embeddings(tokens, rows, cols, grid)


def test_windows_have_the_published_conditions() -> None:
    published = golden("conditions")
    rows, cols = (published["places"] / 64).unbind(1)
    found = window_embeddings(noise(7200, 64, 4, 4), rows, cols, grid=1)  # (n, 64, 1, 1)
    assert error(found[..., 0, 0], published["windows"]) < 1e-5


def test_slerp_is_the_published_one() -> None:
    published = golden("conditions")
    a, b = noise(7201, 64), noise(7202, 64)
    for weight, expected in zip(published["weights"], published["slerp"], strict=True):
        assert error(slerp(a, b, weight), expected) < 1e-6
    assert error(slerp(a, 2 * a + 1e-4, torch.tensor(0.25)), published["lerp"]) < 1e-6


def test_slerp_follows_the_arc() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    third = slerp(a, b, torch.tensor(1 / 3))
    torch.testing.assert_close(third, torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))
    assert torch.equal(slerp(a, -a, torch.tensor(0.25)), a / 2)  # no arc: a straight line


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_at_whole_numbers_a_window_is_cut_out_of_the_map(grid: int) -> None:
    found = at((0, 0), (1, 3), grid=grid)
    for window, (row, col) in zip(found, ((0, 0), (1, 3)), strict=True):
        torch.testing.assert_close(window, normalize_tokens(MAP[:, row : row + grid, col : col + grid]))


def test_a_window_is_its_tokens_one_by_one() -> None:
    whole = at((1.25, 2.5), grid=3)[0]
    for i in range(3):
        for j in range(3):
            torch.testing.assert_close(at((1.25 + i, 2.5 + j), grid=1)[0, :, 0, 0], whole[:, i, j])


def test_tokens_are_normalised_and_move_without_jumps() -> None:
    rows = torch.linspace(0, 3, 3001)
    path = window_embeddings(MAP, rows, rows, grid=1)
    torch.testing.assert_close(path.mean(1), torch.zeros(3001, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(path.std(1), torch.ones(3001, 1, 1), atol=1e-4, rtol=0)
    assert float(path.diff(dim=0).abs().max()) < 0.03


def test_the_border_is_repeated_beyond_the_map() -> None:
    padded = torch.nn.functional.pad(MAP[None], (0, 4, 0, 4), mode="replicate")[0]
    torch.testing.assert_close(at((3.5, 5.25), grid=4), at((3.5, 5.25), grid=4, tokens=padded))


@pytest.mark.parametrize("place", [(-0.5, 0), (0, -0.5), (4.5, 0), (0, 6.5)])
def test_windows_that_begin_outside_the_map_are_refused(place: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="map of 5x7 tokens"):
        at((1, 1), place)


def test_pooling_gives_the_means_of_the_next_level() -> None:
    torch.testing.assert_close(pool(MAP), MAP[:, :4, :6].reshape(16, 2, 2, 3, 2).mean((2, 4)))


def test_unpooling_undoes_pooling_where_the_map_is_smooth() -> None:
    slope = torch.arange(8.0)[:, None] + 2 * torch.arange(12.0)
    ramp = torch.stack([slope, -slope])
    torch.testing.assert_close(unpool(pool(ramp))[:, 1:-1, 1:-1], ramp[:, 1:-1, 1:-1])
    assert unpool(torch.full((2, 3, 5), 7.0)).eq(7).all()
