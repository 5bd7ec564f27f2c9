"""Guidance at its two ends and in between, and in an interval of noise levels."""

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import guided, limited
from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.errors import UserError


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


def test_both_contexts_can_be_one_batch() -> None:
    def pair(z_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([cond(z_t[:2], t[:2]), null(z_t[2:], t[2:])])

    assert torch.equal(guided(unused, unused, 2.5, pair)(Z_T, T), guided(cond, null, 2.5)(Z_T, T))


def test_equal_predictions_are_left_alone() -> None:
    torch.testing.assert_close(guided(cond, cond, 4.0)(Z_T, T), cond(Z_T, T))


ALPHA_BAR = scaled_linear_alpha_bar()
SIGMA = ((1 - ALPHA_BAR) / ALPHA_BAR).sqrt()


@pytest.mark.parametrize("interval", [(0.3, 3.0), (0.0, 0.5), (2.0, 100.0), (0.0, 100.0)])
def test_guidance_acts_inside_the_interval_of_sigma_alone(interval: tuple[float, float]) -> None:
    asked: list[int] = []

    def counted_null(z_t: Tensor, t: Tensor) -> Tensor:
        asked.extend(t.tolist())
        return null(z_t, t)

    always = guided(cond, counted_null, 2.0)
    denoise = limited(always, cond, ALPHA_BAR, interval)
    z_t = torch.ones(1, 2)
    for step in range(0, 1000, 37):
        t = torch.tensor([step])
        inside = interval[0] < SIGMA[step] < interval[1]
        assert torch.equal(denoise(z_t, t), guided(cond, null, 2.0)(z_t, t) if inside else cond(z_t, t))
    assert asked == [step for step in range(0, 1000, 37) if interval[0] < SIGMA[step] < interval[1]]


def test_each_sample_of_a_batch_is_guided_at_its_own_noise_level() -> None:
    def flat(z_t: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(z_t)

    def ones(z_t: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(z_t)

    denoise = limited(ones, flat, ALPHA_BAR, (0.3, 3.0))
    t = torch.tensor([5, 500, 999])
    assert SIGMA[t].gt(0.3).tolist() == [False, True, True]
    assert SIGMA[t].lt(3).tolist() == [True, True, False]
    assert denoise(torch.randn(3, 2, 4, 4), t)[:, 0, 0, 0].tolist() == [0, 1, 0]


def test_one_past_the_schedule_is_its_noisiest_level() -> None:
    always = guided(cond, null, 2.0)
    t = torch.tensor([1000])
    for interval, expected in (((5.0, 100.0), always), ((0.0, 5.0), cond)):
        assert torch.equal(limited(always, cond, ALPHA_BAR, interval)(torch.ones(1), t), expected(torch.ones(1), t))


@pytest.mark.parametrize("interval", [(3.0, 0.3), (1.0, 1.0), (-1.0, 3.0), (float("nan"), 3.0), (0.3, float("nan"))])
def test_what_is_no_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"guidance_interval: .* expected two values of sigma"):
        limited(cond, cond, ALPHA_BAR, interval)
