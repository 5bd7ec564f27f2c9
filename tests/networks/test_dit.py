"""The DiT against the published CDM, its training terms included."""

import pytest
import torch

from benchmarks.fixtures.fill import fill_
from ldm.diffusion.schedule import add_noise, at, cosine_alpha_bar
from ldm.diffusion.vlb import variance_bound
from ldm.networks.dit import DiT
from tests.golden.parity import error, golden, noise, published_names
from tests.networks.gradients import without_gradient


def test_names_shapes_and_order_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = DiT()
    state = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert list(state.items()) == list(published_names("cdm").items())


@pytest.fixture(scope="module")
def full() -> DiT:
    network = DiT().eval()
    fill_(network.state_dict())
    return network


@torch.no_grad()
def test_full_size_agrees_with_the_published_network(full: DiT) -> None:
    published = golden("dit")
    assert error(full.pos_embed[:, ::4, ::4], published["positions"]) < 1e-6
    output = torch.cat(full(noise(4001, 2, 512, 65).mT, torch.tensor([3, 977]), torch.tensor([0, 7])), dim=-1)
    assert error(output.mT[:, ::4], published["output"]) < 1e-5


@torch.no_grad()
def test_training_terms_agree_with_the_published_ones(full: DiT) -> None:
    published, alpha_bar = golden("dit"), cosine_alpha_bar()
    x_0, eps, t = noise(4020, 2, 512, 65).mT, noise(4021, 2, 512, 65).mT, torch.tensor([0, 700])
    x_t = add_noise(x_0, eps, at(alpha_bar, t, x_0))
    prediction, logits = full(x_t, t, torch.tensor([1, 2]))
    assert error((prediction - x_0).square().mean((1, 2)), published["mse"]) < 1e-5
    bound = variance_bound(x_0, x_t, t, prediction, logits, alpha_bar)
    for found, expected in zip(bound, published["bound"], strict=True):
        assert error(found, expected) < 1e-4


def test_every_parameter_gets_a_gradient() -> None:
    network = DiT(context_dim=16, width=32, layers=2, heads=4, tokens=5, scales=3)
    fill_(network.state_dict())
    x_0, logits = network(noise(1, 2, 5, 16), torch.tensor([3, 700]), torch.tensor([0, 2]))
    assert x_0.shape == logits.shape == (2, 5, 16)
    assert without_gradient(network, x_0, logits) == []


def test_an_untrained_network_outputs_zero() -> None:
    network = DiT(context_dim=16, width=32, layers=2, heads=4, tokens=5, scales=3)
    x_0, logits = network(noise(1, 2, 5, 16), torch.tensor([3, 700]), torch.tensor([0, 2]))
    assert not x_0.any()
    assert not logits.any()
