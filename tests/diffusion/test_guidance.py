"""Guidance at its two ends and in between."""

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import guided


def cond(z_t: Tensor, t: Tensor) -> Tensor:
    return 3 * z_t + t


def null(z_t: Tensor, t: Tensor) -> Tensor:
    return z_t - 2 * t


def unused(z_t: Tensor, t: Tensor) -> Tensor:
    raise RuntimeError("called without weight")


Z_T, T = torch.tensor([1.0, -2.0]), torch.tensor([5, 7])


def test_the_ends_call_one_network_only() -> None:
    assert torch.equal(guided(cond, unused, 1.0)(Z_T, T), cond(Z_T, T))
    assert torch.equal(guided(unused, null, 0.0)(Z_T, T), null(Z_T, T))


@pytest.mark.parametrize("guidance", [-0.5, 0.5, 2.0, 7.5])
def test_guidance_extrapolates_from_null_to_conditional(guidance: float) -> None:
    w = guidance - 1  # the other convention: (1 + w) eps_cond - w eps_null
    torch.testing.assert_close(guided(cond, null, guidance)(Z_T, T), (1 + w) * cond(Z_T, T) - w * null(Z_T, T))


def test_equal_predictions_are_left_alone() -> None:
    torch.testing.assert_close(guided(cond, cond, 4.0)(Z_T, T), cond(Z_T, T))
