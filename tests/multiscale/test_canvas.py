"""Canvases denoised in windows: exact with a perfect denoiser, nearer to the constraint with every correction."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.samplers import ddim_timesteps
from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.diffusion.steps import Step, ddim_steps, released_steps
from ldm.errors import UserError
from ldm.multiscale.canvas import Canvas, Codec, Constraint, State, Windows, correct, denoise_canvas, denoise_step
from ldm.multiscale.constraint import OPERATORS, Shrink
from ldm.multiscale.presets import JACOBIANS, Rule
from ldm.multiscale.windows import cut
from ldm.support.processes import Processes
from tests.golden.parity import noise

ALPHA_BAR = scaled_linear_alpha_bar()
STEPS = ddim_steps(ddim_timesteps(6), ALPHA_BAR)
SIDE = 8


def perfect(data: Tensor, steps: list[Step]) -> Canvas:
    """A canvas whose denoiser knows the data (3, H, W)."""
    levels = {step.t: step.a_t for step in steps}

    def denoiser(places: Tensor) -> Denoiser:
        z_0 = cut(data, places, SIDE)

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            a_t = levels[int(t[0])]
            return (z_t - a_t.sqrt() * z_0) / (1 - a_t).sqrt()

        return denoise

    return Canvas(steps=steps, denoiser=denoiser, side=SIDE)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((8, 8), None, (0, 0)), ((16, 24), None, (3, 5)), ((19, 29), None, (6, 1)), ((19, 29), 3, (2, 0))],
)
def test_a_perfect_denoiser_gives_the_data(size: tuple[int, int], stride: int | None, offset: tuple[int, int]) -> None:
    data, start = noise(1, 3, *size).double(), noise(2, 3, *size).double()
    canvas = replace(
        perfect(data, STEPS),
        stride=stride,
        batch_size=3,
        offsets=[(step * offset[0], step * offset[1]) for step in range(len(STEPS))],
    )
    states = list(denoise_canvas(start, canvas))
    assert [state.step for state in states] == [1, 2, 3, 4, 5, 6]
    for state in states:
        torch.testing.assert_close(state.z_0, data, rtol=0, atol=1e-6)
        assert state.error is None
    a_0 = ALPHA_BAR[0].double()
    exact = a_0.sqrt() * data + (start - STEPS[0].a_t.sqrt() * data) / (1 - STEPS[0].a_t).sqrt() * (1 - a_0).sqrt()
    torch.testing.assert_close(states[-1].z_t, exact)


def test_the_released_steps_lead_to_the_data_too() -> None:
    data, steps = noise(1, 3, 16, 16).double(), released_steps(600, 150, ALPHA_BAR)
    added = [noise(10 + i, 3, 16, 16).double() for i in range(4)]
    canvas = replace(perfect(data, steps), noise=added.__getitem__)
    *_, last = denoise_canvas(noise(2, 3, 16, 16).double(), canvas)
    torch.testing.assert_close(last.z_0, data)


def test_going_on_from_a_state_is_going_on() -> None:
    data, start = noise(1, 3, 16, 16), noise(2, 3, 16, 16)
    canvas = replace(perfect(data, STEPS), offsets=[(step, 2 * step) for step in range(len(STEPS))])
    states = list(denoise_canvas(start, canvas))
    resumed = list(denoise_canvas(states[1].z_t, canvas, first=2))
    assert [state.step for state in resumed] == [3, 4, 5, 6]
    assert torch.equal(resumed[-1].z_t, states[-1].z_t)


def test_windows_that_do_not_move_need_no_exchange() -> None:
    data, start = noise(1, 3, 16, 24), noise(2, 3, 16, 24)
    *_, whole = denoise_canvas(start, perfect(data, STEPS))
    alone = replace(perfect(data, STEPS), processes=Processes(lambda n: range(1, n, 4)), sync_every=99)
    *_, part = denoise_canvas(start, alone)
    own = torch.zeros(16, 24, dtype=torch.bool)
    own[:8, 8:16] = own[8:, 16:] = True
    assert torch.equal(part.z_t[:, own], whole.z_t[:, own])
    assert part.z_t[:, ~own].isnan().all()


def test_a_process_without_windows_takes_part() -> None:
    idle = replace(
        perfect(noise(1, 3, 8, 8), STEPS[:1]), processes=Processes(lambda n: range(1, n, 2), torch.ones_like)
    )
    (state,) = denoise_canvas(noise(2, 3, 8, 8), idle)
    assert state.z_0.eq(1).all()  # the sums that the others had


CODEC = Codec(
    decode=lambda z: z.asinh().repeat_interleave(4, 2).repeat_interleave(4, 3),
    encode=lambda x: F.avg_pool2d(x, 4).sinh(),
)
"""a curved codec that is exactly undone"""


def curved(z_t: Tensor, t: Tensor) -> Tensor:
    """A denoiser whose z_0 grows with z_t everywhere."""
    return z_t.tanh() / 2


def held(seed: int = 1) -> tuple[Windows, Tensor]:
    """Two windows at a step, and what they ought to shrink to by 8."""
    return Windows(noise(seed, 2, 3, SIDE, SIDE).double(), curved, STEPS[3]), noise(7, 2, 3, 4, 4).double()


def gap(z_0: Tensor, y: Tensor, operator: str = "area") -> Tensor:
    """(n,) root mean square of y - A Dec(z_0)."""
    return (y - Shrink(8, operator)(CODEC.decode(z_0))).square().mean((1, 2, 3)).sqrt()


@pytest.mark.parametrize(("codec", "denoiser", "operator"), product(JACOBIANS, (None, *JACOBIANS), OPERATORS))
@pytest.mark.parametrize("normalise", [False, True])
def test_every_passage_comes_nearer_and_its_opposite_goes_away(
    codec: str, denoiser: str | None, operator: str, normalise: bool
) -> None:
    found = []
    for weight in (0.002, 0.0, -0.002):
        windows, y = held()
        rule = Rule(
            operator=operator,
            weight=weight,
            codec=codec,
            zeta=1e-4,
            denoiser=denoiser,
            delta=1e-4,
            normalise=normalise,
        )
        found.append(gap(correct(windows, y, CODEC, rule).prediction.z_0, y, operator))
    nearer, free, away = found
    assert (nearer < free).all()
    assert (free < away).all()


@pytest.mark.parametrize("denoiser", [None, *JACOBIANS])
def test_differences_are_derivatives_in_the_limit(denoiser: str | None) -> None:
    moved = []
    for codec, through in (("difference", denoiser and "difference"), ("jvp", denoiser)):
        windows, y = held()
        rule = Rule(codec=codec, denoiser=through, zeta=1e-6, delta=1e-6, weight=0.01)
        moved.append(correct(windows, y, CODEC, rule).prediction.z_0)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-5)


def test_a_whole_step_through_the_codec_reaches_the_target_at_once() -> None:
    """With zeta 1 and an exact codec, z_0 becomes the encoding of the corrected image."""
    windows, y = held()
    rule = Rule(inner=40)
    start, end = gap(windows.predict().z_0, y), gap(correct(windows, y, CODEC, rule).prediction.z_0, y)
    assert (end < 0.02 * start).all()


def test_more_corrections_come_nearer_and_the_error_told_is_the_one_before_the_last() -> None:
    errors = []
    for inner in (1, 2, 3):
        windows, y = held()
        errors.append(correct(windows, y, CODEC, Rule(inner=inner)).error)
    windows, y = held()
    torch.testing.assert_close(errors[0], gap(windows.predict().z_0, y))
    after_one = correct(windows, y, CODEC, Rule(inner=1)).prediction.z_0
    torch.testing.assert_close(errors[1], gap(after_one, y))
    assert (errors[2] < errors[1]).all()
    assert (errors[1] < errors[0]).all()


@pytest.mark.parametrize("denoiser", [None, *JACOBIANS])
@pytest.mark.parametrize("normalise", [False, True])
def test_windows_within_the_tolerance_are_left_alone(denoiser: str | None, normalise: bool) -> None:
    windows, y = held()
    free = windows.predict()
    y[0] = Shrink(8)(CODEC.decode(free.z_0))[0] + 1e-3
    rule = Rule(inner=2, tolerance=0.01, denoiser=denoiser, normalise=normalise)
    corrected = correct(windows, y, CODEC, rule)
    assert torch.equal(corrected.prediction.z_0[0], free.z_0[0])
    assert not torch.isclose(corrected.prediction.z_0[1], free.z_0[1]).all()
    assert corrected.error[0] == pytest.approx(1e-3)
    assert corrected.prediction.z_0.isfinite().all()


def test_a_step_without_corrections_is_a_free_one() -> None:
    y, z_t = noise(7, 1, 3, 4, 4), noise(2, 3, 16, 8)
    start, canvas = State.begun(z_t, 1), Canvas(steps=STEPS, denoiser=lambda places: curved, side=SIDE)
    states = [
        denoise_step(start, canvas, Constraint(lambda places: y.expand(len(places), -1, -1, -1), CODEC, rule))
        for rule in (Rule(inner=0), Rule())
    ]
    free = denoise_step(start, canvas)
    assert free.error is None
    assert torch.equal(states[0].z_t, free.z_t)
    assert not torch.equal(states[1].z_t, free.z_t)


def test_unknown_passages_are_refused() -> None:
    for wrong in ({"codec": "magic"}, {"denoiser": "magic"}):
        with pytest.raises(UserError, match=r"magic.*expected difference, jvp, backprop"):
            Rule(**wrong)  # type: ignore[arg-type]


def test_a_preview_head_compares_means() -> None:
    for wrong in ({"operator": "bicubic"}, {"normalise": True}):
        with pytest.raises(UserError, match="rule: codec preview with operator"):
            Rule(codec="preview", **wrong)  # type: ignore[arg-type]
