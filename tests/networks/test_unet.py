"""The U-Net against the published one, and its shape contract."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.fixtures.fill import fill_
from ldm.layers.attention import by_products
from ldm.layers.blocks import Upsample
from ldm.layers.embeddings import timestep_embedding
from ldm.networks.unet import UNet
from tests.golden.parity import error, golden, noise, published_names
from tests.networks.gradients import without_gradient

PREFIX = "model.diffusion_model."
SMALL: dict[str, Any] = {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2]}


@pytest.fixture(scope="module")
def small() -> UNet:
    network = UNet(**SMALL).eval()
    fill_(network.state_dict(), PREFIX)
    return network


def test_names_shapes_and_order_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = UNet()
    published = {name.removeprefix(PREFIX): s for name, s in published_names("brca").items() if name.startswith(PREFIX)}
    assert [(name, list(value.shape)) for name, value in network.state_dict().items()] == list(published.items())
    assert sum(parameter.numel() for parameter in network.parameters()) == 400_920_579


@torch.no_grad()
def test_full_size_agrees_with_the_published_network() -> None:
    """The first sample has a context, the second the null one."""
    with torch.device("meta"):
        network = UNet().eval()
    network.to_empty(device="cpu")
    fill_(network.state_dict(), PREFIX)
    context = noise(1002, 2, 65, 512)
    context[1] = 0
    found = network(noise(1001, 2, 3, 64, 64), torch.tensor([1, 981]), context)
    published = golden("unet")
    assert error(found[0], published["full_first"]) < 1e-5
    assert error(found[1], published["full_second_null"]) < 1e-5


@torch.no_grad()
def test_small_size_and_its_features_agree(small: UNet) -> None:
    published, z_t, context = golden("unet"), noise(9001, 2, 3, 16, 16), noise(9002, 2, 65, 512)
    assert error(small(z_t, torch.tensor([1, 981]), context), published["small"]) < 1e-5
    features = list(small.features(z_t, torch.tensor([100, 100]), context))
    assert len(features) == 5
    for number, feature in enumerate(features):
        assert error(feature, published[f"small_features_{number}"]) < 1e-5


@torch.no_grad()
def test_float64_agrees() -> None:
    network = UNet(**SMALL).double().eval()
    fill_(network.state_dict(), PREFIX)
    found = network(noise(9001, 2, 3, 16, 16).double(), torch.tensor([1, 981]), noise(9002, 2, 65, 512).double())
    assert error(found, golden("unet")["small_float64"]) < 1e-7


def test_timestep_embedding_is_the_published_one() -> None:
    """Up to rounding: one unit in the last place of a frequency moves the angle t w, w <= 1, by t 2^-23."""
    t = torch.tensor([0, 1, 100, 500, 981, 999, 1000])
    difference = (timestep_embedding(t, 192) - golden("unet")["timestep_embedding"]).abs()
    assert (difference <= 2**-22 * (1 + t[:, None])).all()


SHORT = {"multipliers": (1, 1, 2), "attention": (4,), "shortcuts": True}


@pytest.mark.parametrize("options", [{}, {"heads": 4}, SHORT])
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    toy: dict[str, Any] = {"width": 64, "multipliers": (1, 2), "attention": (2,), "blocks": 1, "context_dim": 16}
    network = UNet(**toy | options)
    fill_(network.state_dict())
    output = network(noise(1, 2, 3, 16, 16), torch.tensor([3, 700]), noise(2, 2, 65, 16))
    assert output.shape == (2, 3, 16, 16)
    assert without_gradient(network, output) == []


def test_an_untrained_network_outputs_zero_whatever_the_context() -> None:
    network = UNet(**SMALL)
    assert not network(noise(1, 1, 3, 8, 8), torch.tensor([9]), noise(2, 1, 65, 512)).any()


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(small: UNet) -> None:
    z_t, t, context = noise(1, 3, 3, 16, 16), torch.tensor([1, 50, 900]), noise(2, 3, 65, 512)
    together = small(z_t, t, context)
    assert (
        error(torch.cat([small(z_t[i : i + 1], t[i : i + 1], context[i : i + 1]) for i in range(3)]), together) < 1e-5
    )


@torch.no_grad()
def test_the_order_of_context_tokens_does_not_matter(small: UNet) -> None:
    z_t, t, context = noise(1, 1, 3, 16, 16), torch.tensor([500]), noise(2, 1, 65, 512)
    assert error(small(z_t, t, context.flip(1)), small(z_t, t, context)) < 1e-5
    assert error(small(z_t, t, -context), small(z_t, t, context)) > 1e-3


def test_attention_by_products_is_the_same_and_so_are_its_gradients() -> None:
    tokens = [noise(seed, 2, 3, n, 8).requires_grad_() for seed, n in ((1, 12), (2, 7), (3, 7))]
    results = [call(*tokens) for call in (by_products, F.scaled_dot_product_attention)]
    assert error(*(result.detach() for result in results)) < 1e-6
    gradients = [torch.autograd.grad(result.square().sum(), tokens) for result in results]
    assert all(error(ours, theirs) < 1e-5 for ours, theirs in zip(*gradients, strict=True))


def test_upsampling_is_by_the_nearest_neighbour() -> None:
    layer, x = Upsample(4), noise(4, 2, 4, 6, 5)
    assert error(layer(x).detach(), layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")).detach()) < 1e-6
