"""Steps: DDIM's are those of the sampler, the released rule's are the published table."""

import pytest
import torch

from ldm.diffusion.samplers import ddim_step, ddim_timesteps
from ldm.diffusion.schedule import Prediction, scaled_linear_alpha_bar
from ldm.diffusion.steps import conditioned_on_more_noise, ddim_steps, released_steps
from ldm.errors import UserError
from tests.golden.parity import golden, noise

ALPHA_BAR = scaled_linear_alpha_bar()


@pytest.mark.parametrize(("start", "stride"), [(1000, 50), (300, 50)])
def test_the_released_steps_are_the_published_table(start: int, stride: int) -> None:
    t, of_z_0, joint, repair, of_noise = golden("joint")[f"steps_{start}_{stride}"].unbind(1)
    added, reduced = (released_steps(start, stride, ALPHA_BAR, reduced) for reduced in (False, True))
    assert [step.t for step in added] == t.tolist()
    torch.testing.assert_close(torch.stack([step.a_next.sqrt() for step in added]), of_z_0, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.stack([step.eps_scale for step in added]), joint, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.stack([step.eps_scale for step in reduced]), repair, rtol=0, atol=1e-6)
    for plan in (added, reduced):
        torch.testing.assert_close(torch.stack([step.noise_scale for step in plan]), of_noise, rtol=0, atol=2e-5)


def test_the_repair_keeps_the_variance_and_joint_sampling_adds_to_it() -> None:
    for reduced in (True, False):
        for step in released_steps(300, 50, ALPHA_BAR, reduced):
            total = step.a_next + step.eps_scale**2 + step.noise_scale**2
            assert float(total - (0 if reduced else step.noise_scale**2)) == pytest.approx(1)


@pytest.mark.parametrize(("start", "stride"), [(1000, 0), (1000, 300), (50, 100), (1200, 100)])
def test_a_stride_that_misses_zero_is_refused(start: int, stride: int) -> None:
    with pytest.raises(UserError, match=f"steps: from {start} by {stride}"):
        released_steps(start, stride, ALPHA_BAR)


def test_ddim_steps_are_the_samplers() -> None:
    prediction, timesteps = Prediction(noise(1, 3, 8, 8), noise(2, 3, 8, 8)), ddim_timesteps(20)
    table = ALPHA_BAR.double()
    for step, t, then in zip(ddim_steps(timesteps, ALPHA_BAR), timesteps, [*timesteps[1:], 0], strict=True):
        expected = ddim_step(prediction, table[t], table[then])
        assert step.t == t
        torch.testing.assert_close(step.advance(prediction), expected, check_dtype=False)


def test_noise_comes_on_top() -> None:
    step = released_steps(300, 50, ALPHA_BAR)[0]
    prediction = Prediction(noise(1, 3, 8, 8), noise(2, 3, 8, 8))
    added = step.advance(prediction, noise(3, 3, 8, 8)) - step.advance(prediction)
    torch.testing.assert_close(added, step.noise_scale.float() * noise(3, 3, 8, 8), rtol=0, atol=1e-6)


def test_a_network_that_is_conditioned_on_more_noise_sees_the_same_image_at_that_level() -> None:
    steps = ddim_steps(ddim_timesteps(10), ALPHA_BAR)
    for plain, step in zip(steps, conditioned_on_more_noise(steps, ALPHA_BAR, 0.2), strict=True):
        z_t, level = step.level(noise(0, 3, 4, 4).double())
        sigma, wanted = ((1 - level.a_t) / level.a_t).sqrt(), ((1 - step.a_t) / step.a_t + 0.2**2).sqrt()
        assert float(sigma / wanted) == pytest.approx(1, abs=0.03)  # the schedule's next timestep
        torch.testing.assert_close(z_t / level.a_t.sqrt(), noise(0, 3, 4, 4).double() / step.a_t.sqrt())
        assert step._replace(conditioning=None) == plain
    assert conditioned_on_more_noise(steps, ALPHA_BAR, 0) == steps


def test_errors_that_are_told_as_noise_do_less_harm() -> None:
    """The best denoiser of Gaussian data, whose z_t has errors besides its noise: it comes closer to the data."""
    step = ddim_steps([80], ALPHA_BAR)[0]
    data, error, spread = noise(1, 3, 64, 64).double(), 0.3 * noise(2, 3, 64, 64).double(), 1.0
    z_t = step.a_t.sqrt() * (data + error) + (1 - step.a_t).sqrt() * noise(3, 3, 64, 64).double()

    def distance(told: float) -> float:
        """Root mean square of the denoised data's error; the posterior mean shrinks by the variances."""
        seen, level = conditioned_on_more_noise([step], ALPHA_BAR, told)[0].level(z_t)
        denoised = seen / level.a_t.sqrt() * spread**2 / (spread**2 + (1 - level.a_t) / level.a_t)
        return float((denoised - data).square().mean().sqrt())

    assert distance(0.3) < min(0.995 * distance(0), distance(0.6))
