"""Samplers against closed forms, and against the published trajectories."""

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.fixtures.fill import fill_, seeded
from ldm.diffusion.defaults import CONTEXT_STEPS
from ldm.diffusion.guidance import guided
from ldm.diffusion.samplers import (
    SAMPLERS,
    check_levels,
    ddim,
    ddim_step,
    ddim_timesteps,
    dpmpp_2m,
    log_snr_timesteps,
    respaced_timesteps,
    seeded_noise,
)
from ldm.diffusion.schedule import Prediction, at, cosine_alpha_bar, scaled_linear_alpha_bar
from ldm.errors import UserError
from ldm.networks.dit import DiT
from tests.golden.small import small_summarizer, small_unet

GOLDEN = Path(__file__).parents[1] / "golden"
ALPHA_BAR = scaled_linear_alpha_bar()
MEAN, STD = 0.3, 0.7


def gaussian_denoiser(z_t: Tensor, t: Tensor, std: float = STD) -> Tensor:
    """The exact eps for data N(MEAN, std^2)."""
    a_t = at(ALPHA_BAR.double(), t, z_t)
    return (1 - a_t).sqrt() * (z_t - a_t.sqrt() * MEAN) / (a_t * std**2 + 1 - a_t)


def gaussian_flow(z_T: Tensor, start: int) -> Tensor:
    """Where the probability flow takes z_T from timestep `start` to timestep 0."""
    a_T, a_0 = ALPHA_BAR.double()[start], ALPHA_BAR.double()[0]
    growth = ((a_0 * STD**2 + 1 - a_0) / (a_T * STD**2 + 1 - a_T)).sqrt()
    return a_0.sqrt() * MEAN + growth * (z_T - a_T.sqrt() * MEAN)


def flow_error(sampler: str, steps: int) -> float:
    z_T = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    timesteps = SAMPLERS[sampler].timesteps(steps, ALPHA_BAR)
    z_0 = SAMPLERS[sampler].run(gaussian_denoiser, z_T, ALPHA_BAR, timesteps)
    return float((z_0 - gaussian_flow(z_T, timesteps[0])).abs().max())


@pytest.mark.parametrize("steps", [1, 7, 30, 50, 334, 500])
def test_ddim_timesteps_keep_their_number_and_fall_inside_the_schedule(steps: int) -> None:
    timesteps = ddim_timesteps(steps)
    assert len(timesteps) == steps
    assert all(later < earlier for earlier, later in pairwise(timesteps))
    assert timesteps[-1] == 1
    assert timesteps[0] <= 999
    assert timesteps[0] >= 1000 - math.ceil(1000 / steps)


@pytest.mark.parametrize("steps", [1, 2, 20, 50, 200, 500])
def test_log_snr_timesteps_keep_their_number_and_are_even_in_log_snr(steps: int) -> None:
    timesteps = log_snr_timesteps(steps, ALPHA_BAR)
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert timesteps[-1] >= 1
    assert all(later < earlier for earlier, later in pairwise(timesteps))
    if steps == 20:
        growth = torch.logit(ALPHA_BAR.double()[timesteps]).diff()
        assert float(growth.max() / growth.min()) < 2


@pytest.mark.parametrize("steps", [1, 20, 100, 500])
def test_timesteps_for_contexts_are_different_ones_of_the_schedule(steps: int) -> None:
    timesteps = log_snr_timesteps(steps, cosine_alpha_bar())
    assert len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert 990 < timesteps[0] <= 999
    assert timesteps[-1] >= 1


def test_timesteps_are_the_published_ones() -> None:
    published = json.loads((GOLDEN / "timesteps.json").read_text())
    for steps, timesteps in published["ddim"].items():
        assert ddim_timesteps(int(steps))[::-1] == timesteps
    for steps, timesteps in published["cdm"].items():
        assert respaced_timesteps(int(steps))[::-1] == timesteps


@pytest.mark.parametrize("steps", [0, -1, 501, 1000])
def test_a_number_of_steps_outside_the_schedule_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match="1 to 500"):
        ddim_timesteps(steps)


@pytest.mark.parametrize("steps", [0, 1, 1001])
def test_a_respacing_outside_the_schedule_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match="2 to 1000"):
        respaced_timesteps(steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_perfect_denoiser_leads_to_the_data(sampler: str, steps: int) -> None:
    z_0, z_T = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        a_t = at(ALPHA_BAR.double(), t, z_t)
        return (z_t - a_t.sqrt() * z_0) / (1 - a_t).sqrt()

    timesteps = SAMPLERS[sampler].timesteps(steps, ALPHA_BAR)
    a_T, a_0 = ALPHA_BAR.double()[[timesteps[0], 0]]
    eps = (z_T - a_T.sqrt() * z_0) / (1 - a_T).sqrt()
    reached = SAMPLERS[sampler].run(denoise, z_T, ALPHA_BAR, timesteps)
    torch.testing.assert_close(reached, a_0.sqrt() * z_0 + (1 - a_0).sqrt() * eps)


def test_a_perfect_denoiser_left_at_one_gives_the_data_itself() -> None:
    z_0, z_T = torch.randn(2, 2, 65, 8)
    reached = ddim(lambda z_t, t: z_0, z_T, cosine_alpha_bar(), respaced_timesteps(5), kind="z_0", final=1.0)
    torch.testing.assert_close(reached, z_0, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("std", [0.3, 0.5, 0.7, 1.0, 2.0, 3.0])
def test_samplers_end_at_the_spread_of_the_data(sampler: str, std: float) -> None:
    """With their usual number of steps. The sample is affine in the noise, so two starts give its spread exactly."""
    run, timesteps_of, steps = SAMPLERS[sampler]
    starts = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    low, high = run(partial(gaussian_denoiser, std=std), starts, ALPHA_BAR, timesteps_of(steps, ALPHA_BAR))
    a_0 = float(ALPHA_BAR[0])
    assert float(high - low) == pytest.approx((a_0 * std**2 + 1 - a_0) ** 0.5, rel=0.02)


def test_ddim_converges_to_the_probability_flow_to_first_order() -> None:
    coarse, fine = flow_error("ddim", 50), flow_error("ddim", 200)
    assert fine < 0.03
    assert 3 < coarse / fine < 6  # 4 = first order


def test_dpmpp_converges_to_the_probability_flow_and_needs_fewer_steps_than_ddim() -> None:
    assert flow_error("dpmpp", 200) < 1e-3
    assert flow_error("dpmpp", 10) / flow_error("dpmpp", 40) > 8  # 16 = second order, on whole timesteps
    assert flow_error("dpmpp", 20) < flow_error("ddim", 50) / 4


def test_a_noisy_step_keeps_the_variance_and_adds_the_posterior_noise() -> None:
    a_t, a_next = torch.tensor([0.2, 0.5], dtype=torch.float64)
    z_0, eps, noise = torch.randn(3, 100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    stepped = ddim_step(Prediction(z_0, eps), a_t, a_next, eta=1.0, noise=noise)
    residual = stepped - a_next.sqrt() * z_0
    assert float(residual.var()) == pytest.approx(float(1 - a_next), rel=0.02)
    posterior = (1 - a_next) / (1 - a_t) * (1 - a_t / a_next)
    assert float((residual * noise).mean()) == pytest.approx(float(posterior.sqrt()), rel=0.02)


def test_a_noisy_sampler_without_noise_is_refused() -> None:
    with pytest.raises(UserError, match="without noise"):
        ddim(gaussian_denoiser, torch.randn(1, 3, 2, 2), ALPHA_BAR, ddim_timesteps(2), eta=1.0)


def test_the_callback_sees_every_evaluation_in_order() -> None:
    for sampler in SAMPLERS.values():
        seen: list[int] = []
        sampler.run(
            gaussian_denoiser,
            torch.randn(1, 3, 2, 2),
            ALPHA_BAR,
            ddim_timesteps(5),
            callback=lambda step, pred, seen=seen: seen.append(step),
        )
        assert seen == [0, 1, 2, 3, 4]


def test_seeded_noise_depends_on_the_whole_key_and_nothing_else() -> None:
    torch.manual_seed(0)
    first = seeded_noise((3, 4), 5, 1)
    torch.manual_seed(1)
    assert torch.equal(first, seeded_noise((3, 4), 5, 1))
    assert not torch.equal(first, seeded_noise((3, 4), 5, 0))
    assert not torch.equal(first, seeded_noise((3, 4), 6, 1))
    with pytest.raises(UserError, match="seed"):
        seeded_noise((1,), -1)


@pytest.fixture(scope="module")
def published_denoisers() -> tuple:
    """The small published U-Net under the context of a 2x2 grid at the second scale, and under the null context."""
    unet = small_unet().float()
    context = small_summarizer().float()([torch.from_numpy(seeded(5001, (64, 2, 2)))], torch.tensor([1]))
    return (lambda z, t: unet(z, t, context)), (lambda z, t: unet(z, t, torch.zeros_like(context)))


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "eta"),
    [("ddim50", 50, 2, 0.0), ("ddim10", 10, 2, 0.0), ("ddim10_scale1", 10, 1, 0.0), ("ddim5_eta0.5", 5, 2, 0.5)],
)
@torch.no_grad()
def test_ddim_follows_the_published_trajectories(
    published_denoisers: tuple, name: str, steps: int, guidance: float, eta: float
) -> None:
    expected = np.load(GOLDEN / "ddim.npz")[name]
    z_T = torch.from_numpy(seeded(5003, (2, 3, 64, 64)))[:1]
    reached = ddim(
        guided(*published_denoisers, guidance),
        z_T,
        ALPHA_BAR,
        ddim_timesteps(steps),
        eta=eta,
        noise=(lambda step: torch.from_numpy(seeded(5100 + step, (2, 3, 64, 64)))[:1]) if eta else None,
    )
    assert np.abs(reached.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("std", [0.1, 0.5, 3.0, 26.0])
def test_contexts_of_any_spread_end_with_it(std: float) -> None:
    """The principal components of the demo's contexts have standard deviations from below 1 to 26."""
    alpha_bar = cosine_alpha_bar()

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        a_t = at(alpha_bar.double(), t, z_t)
        return a_t.sqrt() * std**2 / (a_t * std**2 + 1 - a_t) * z_t

    starts = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    timesteps = log_snr_timesteps(CONTEXT_STEPS, alpha_bar)
    low, high = dpmpp_2m(denoise, starts, alpha_bar, timesteps, kind="z_0")
    assert float(high - low) == pytest.approx(std, rel=0.02)
    low, high = ddim(denoise, starts, alpha_bar, respaced_timesteps(50), kind="z_0", final=1.0)
    assert std < 26 or float(high - low) < 0.75 * std  # why the published sampler is not the default


@torch.no_grad()
def test_the_cdm_follows_the_published_trajectories() -> None:
    dit = DiT().eval()
    fill_(dit.state_dict())
    scale = torch.tensor([3])
    noise = torch.from_numpy(seeded(4010, (1, 512, 65))).transpose(1, 2)
    for steps in (4, 10):
        expected = np.load(GOLDEN / "cdm_ddim.npz")[f"ddim{steps}"]
        reached = ddim(
            lambda z_t, t: dit(z_t, t, scale)[0],
            noise,
            cosine_alpha_bar(),
            respaced_timesteps(steps),
            kind="z_0",
            final=1.0,
        )
        assert np.abs(reached.transpose(1, 2).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_interval_without_a_noise_level_is_refused_since_it_would_guide_nothing() -> None:
    alpha_bar = scaled_linear_alpha_bar()
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    low, high = sigma[500:502].tolist()
    between = (0.6 * low + 0.4 * high, 0.4 * low + 0.6 * high)
    for interval in ((500.0, 900.0), between):
        with pytest.raises(UserError, match="holds no noise level, expected one or more of the schedule's, sigma from"):
            check_levels(interval, alpha_bar)
    narrow = (float(sigma[500]) - 1e-4, float(sigma[500]) + 1e-4)
    for good in (None, narrow, (0.3, 3.0)):
        check_levels(good, alpha_bar)
    check_levels((0.3, 3.0), alpha_bar, "dpmpp", 10)
    with pytest.raises(UserError, match="of those of 3 sampling steps"):
        check_levels(narrow, alpha_bar, "dpmpp", 3)
