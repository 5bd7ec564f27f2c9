"""Tokens are standardised, each on its own."""

import pytest
import torch

from ldm.data.tokens import normalize_tokens


@pytest.mark.parametrize(("given", "found"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_tokens_are_standardised_each_on_its_own(given: str, found: str) -> None:
    grid = torch.randn(64, 2, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    tokens = normalize_tokens(grid.to(getattr(torch, given)))
    assert tokens.dtype == getattr(torch, found)
    torch.testing.assert_close(tokens.mean(0).float(), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(0).float(), torch.ones(2, 3), atol=1e-4, rtol=0)
    assert normalize_tokens(torch.ones(8, 1, 1)).eq(0).all()


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_the_deviation_is_that_of_torch(mean: float) -> None:
    grid = torch.randn(1024, 8, 8) + mean
    expected = (grid - grid.mean(0)) / (grid.std(0) + 1e-8)
    torch.testing.assert_close(normalize_tokens(grid), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_is_its_grids() -> None:
    grids = torch.randn(3, 8, 2, 2)
    assert torch.equal(normalize_tokens(grids), torch.stack([normalize_tokens(grid) for grid in grids]))
