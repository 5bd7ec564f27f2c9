"""Condition inversion: the published steps, and what a grid depends on."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.fixtures.toy import networks
from ldm.data.tokens import normalize_tokens
from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.samplers import seeded_noise
from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.multiscale.inversion_loss import ContextLoss, DenoisingLoss, Loss, inversion_timesteps, invert, similarity
from ldm.networks.summarizer import Summarizer
from ldm.networks.unet import UNet
from tests.golden.parity import error, golden, noise
from tests.golden.small import small_summarizer, small_unet

ALPHA_BAR = scaled_linear_alpha_bar()


class Networks(NamedTuple):
    unet: UNet
    summarizer: Summarizer

    def under(self, context: Tensor) -> Denoiser:
        return lambda z_t, t: self.unet(z_t, t, context)

    def at_scale(self, index: int) -> Callable[[Tensor], Tensor]:
        return lambda grids: self.summarizer(grids, torch.full((len(grids),), index))


@pytest.fixture(scope="module")
def published() -> Networks:
    """The small published networks, in float64."""
    return Networks(small_unet(), small_summarizer())


@pytest.fixture(scope="module")
def toy() -> Networks:
    return Networks(*networks("denoiser", "summarizer").values())  # type: ignore[arg-type]


def toy_loss(toy: Networks, images: slice) -> Loss:
    def eps(step: int) -> Tensor:
        return torch.stack([seeded_noise((3, 8, 8), i, step) for i in range(3)[images]])

    z_0 = noise(1, 3, 3, 8, 8)[images]
    return DenoisingLoss(toy.under, toy.at_scale(1), z_0, ALPHA_BAR, inversion_timesteps(5), eps)


def test_timesteps_are_the_published_ones() -> None:
    assert inversion_timesteps()[:3] == [950, 945, 940]
    assert (len(inversion_timesteps()), inversion_timesteps()[-1]) == (200, 50)


def test_losses_gradients_and_grids_are_the_published_ones(published: Networks) -> None:
    expected = golden("inversion")

    def eps(step: int) -> Tensor:
        return noise(8210 + step, 1, 3, 64, 64).double()

    z_0, start = noise(8200, 1, 3, 64, 64).double(), noise(8201, 1, 64, 2, 2).double()
    loss = DenoisingLoss(published.under, published.at_scale(1), z_0, ALPHA_BAR, inversion_timesteps(), eps)
    losses: list[Tensor] = []
    found = invert(loss, start, steps=3, callback=lambda step, values: losses.append(values))
    assert error(torch.cat(losses), expected["losses"]) < 1e-6
    assert error(found[0], normalize_tokens(expected["grids"][1])) < 1e-6
    before = expected["grids"][:1].double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(before, 2).sum(), before)
    assert error(gradient[0], expected["gradient"]) < 1e-5


def test_a_grid_does_not_depend_on_the_others_in_its_batch(toy: Networks) -> None:
    start = noise(2, 3, 6, 2, 2)
    together = invert(toy_loss(toy, slice(3)), start, steps=5)
    alone = torch.cat([invert(toy_loss(toy, slice(i, i + 1)), start[i : i + 1], steps=5) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together, normalize_tokens(start), atol=0.1)


def test_only_the_grids_move(toy: Networks) -> None:
    start = noise(2, 3, 6, 2, 2)
    kept = start.clone()
    with torch.no_grad():
        found = invert(toy_loss(toy, slice(3)), start, steps=2)
    assert torch.equal(start, kept)
    assert not found.requires_grad
    assert all(weight.requires_grad and weight.grad is None for network in toy for weight in network.parameters())


def test_a_denoiser_that_rewards_one_grid_leads_to_it() -> None:
    """eps is off by the distance of the grid from `goal`, so the loss has its one minimum there."""
    goal, z_0 = normalize_tokens(noise(3, 2, 6, 2, 2)), noise(1, 2, 3, 8, 8)

    def under(grids: Tensor) -> Denoiser:
        off = (grids - goal).square().mean((1, 2, 3)).sqrt()
        return lambda z_t, t: eps(0) + off[:, None, None, None]

    def eps(step: int) -> Tensor:
        return torch.ones_like(z_0)

    loss = DenoisingLoss(under, lambda grids: grids, z_0, ALPHA_BAR, inversion_timesteps(200), eps, prior=0)
    found = invert(loss, noise(4, 2, 6, 2, 2), steps=200)
    torch.testing.assert_close(found, goal, atol=0.2, rtol=0)


def test_the_summarizers_inversion_finds_a_grid_with_the_same_context(toy: Networks) -> None:
    summarize = toy.at_scale(2)
    with torch.no_grad():
        context = summarize(normalize_tokens(noise(5, 2, 6, 4, 4)))
    losses: list[Tensor] = []
    found = invert(
        ContextLoss(summarize, context),
        noise(6, 2, 6, 4, 4),
        steps=100,
        callback=lambda step, values: losses.append(values),
    )
    assert (losses[-1] < losses[0] / 20).all()
    with torch.no_grad():
        assert error(summarize(found), context) < 0.2


def test_similarity_is_the_mean_cosine_of_all_pairs() -> None:
    u = noise(7, 2, 6, 2, 3)
    tokens = u.flatten(2).mT  # (2, 6 tokens, 6)
    pairs = torch.cosine_similarity(tokens[:, :, None], tokens[:, None], dim=-1)
    torch.testing.assert_close(similarity(u), pairs.mean((1, 2)))
    assert similarity(torch.ones(1, 4, 3, 3)).item() == pytest.approx(1)
