"""Normalisation of feature maps."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.fixtures.fill import fill_
from ldm.layers.norms import PixelNorm, group_norm
from tests.golden.parity import error, noise


@torch.no_grad()
def test_pixel_norm_is_rms_norm_over_channels() -> None:
    norm, x = PixelNorm(8), noise(1, 2, 8, 5, 7)
    fill_(norm.state_dict())
    expected = F.rms_norm(x.movedim(1, -1), (8,), norm.weight, eps=norm.eps) + norm.bias
    assert error(norm(x), expected.movedim(-1, 1)) < 1e-6


def test_pixel_norm_survives_black_pixels() -> None:
    x = torch.zeros(1, 8, 2, 2, requires_grad=True)
    y = PixelNorm(8)(x)
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (96, 32), (48, 16), (10, 2)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels, eps=1e-6).num_groups == groups


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_group_norm_computes_in_float32(half: torch.dtype) -> None:
    norm, x = group_norm(8, eps=1e-6), (100 + noise(1, 2, 8, 5, 7)).to(half)
    fill_(norm.state_dict())
    found = norm(x)
    assert found.dtype == half
    assert torch.equal(found, norm(x.float()).to(half))
    with torch.autocast("cpu", half):
        assert torch.equal(norm(x), found)
