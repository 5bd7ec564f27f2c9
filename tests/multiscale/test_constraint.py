"""The operators between scales and the derivatives through codec and denoiser: transposes, closed forms, parity."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fixtures.toy import WIDTH, networks
from ldm.errors import UserError
from ldm.multiscale.constraint import OPERATORS, Map, Shrink, back_project, difference, jvp, project_bands, unit, vjp
from tests.golden.parity import error, golden, noise


@pytest.mark.parametrize(("factor", "seed"), [(2, 7004), (4, 7006), (8, 7010), (16, 7018)])
def test_bicubic_is_the_published_resizer(factor: int, seed: int) -> None:
    published, shrink = golden("resizer"), Shrink(factor, "bicubic")
    small = shrink(noise(7001, 1, 3, 256, 256))[:, :1, :: 16 // factor, :: 16 // factor]
    assert error(small, published[f"down{factor}"]) < 1e-6
    side = 256 // factor
    large = shrink.lift(noise(seed, 1, 3, side, side))[:, :1]
    assert error(large[..., ::16, ::16], published[f"up{factor}"]) < 1e-6
    assert error(large[..., :16, :16], published[f"up{factor}_corner"]) < 1e-6


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize(("factor", "height", "width"), [(2, 6, 10), (4, 4, 12), (8, 32, 8)])
def test_the_transpose_is_the_transpose(kind: str, factor: int, height: int, width: int) -> None:
    shrink = Shrink(factor, kind)
    x = noise(1, 2, 3, height, width).double()
    y = noise(2, 2, 3, height // factor, width // factor).double()
    torch.testing.assert_close((shrink(x) * y).sum(), (x * shrink.transpose(y)).sum())


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_even_image_stays_even(kind: str) -> None:
    shrink = Shrink(4, kind)
    torch.testing.assert_close(shrink(torch.full((1, 3, 8, 12), 0.7)), torch.full((1, 3, 2, 3), 0.7))
    torch.testing.assert_close(shrink.lift(torch.full((1, 3, 2, 3), 0.7)), torch.full((1, 3, 8, 12), 0.7))


def test_lifting_is_the_scaled_transpose_of_the_cubic_kernel() -> None:
    y = noise(1, 2, 3, 5, 7)
    assert torch.equal(Shrink(4, "bicubic").lift(y), 16 * Shrink(4, "bicubic").transpose(y))
    assert torch.equal(Shrink(4, "area").lift(y), Shrink(4, "bicubic").lift(y))


@pytest.mark.parametrize(
    ("factor", "kind", "message"),
    [(4, "nearest", "operator: nearest is unknown"), (3, "area", "factor 3"), (0, "bicubic", "factor 0")],
)
def test_unknown_operators_are_refused(factor: int, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Shrink(factor, kind)


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_image_with_a_broken_pixel_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match="image of 10x8 px"):
        Shrink(4, kind)(torch.zeros(1, 3, 8, 10))


def test_a_unit_direction_is_at_most_one_in_each_sample_and_zeros_stay() -> None:
    e = noise(1, 3, 3, 4, 4) * torch.tensor([0.01, 7.0, 0.0])[:, None, None, None]
    assert unit(e).abs().amax(dim=(1, 2, 3)).tolist() == [1, 1, 0]
    torch.testing.assert_close(unit(e)[1], unit(100 * e)[1])


def curved(x: Tensor) -> Tensor:
    """(b, 4) -> (b, 3), with a Jacobian that is neither square nor symmetric."""
    return torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin() + x[:, 3] ** 2, (x[:, 0] - x[:, 3]).exp()], dim=1)


def test_derivatives_of_a_curved_function_are_autograds() -> None:
    x, along, back = noise(1, 2, 4).double(), noise(2, 2, 4).double(), noise(3, 2, 3).double()
    jacobian = torch.stack([torch.autograd.functional.jacobian(curved, one[None])[0, :, 0] for one in x])  # (2, 3, 4)
    value, forward = jvp(curved, x, along)
    torch.testing.assert_close(value, curved(x))
    torch.testing.assert_close(forward, torch.einsum("bij,bj->bi", jacobian, along))
    torch.testing.assert_close(vjp(curved, x, back), torch.einsum("bij,bi->bj", jacobian, back))
    torch.testing.assert_close(difference(curved, x, along, 1e-6), forward, rtol=1e-4, atol=1e-5)
    known = difference(curved, x, along, 1e-6, curved(x))
    assert torch.equal(known, difference(curved, x, along, 1e-6))


@pytest.fixture(params=["denoise", "decode", "encode"])
def network(request: pytest.FixtureRequest) -> tuple[Map, Tensor]:
    """A toy network as a map of one argument, and where it is derived."""
    parts: dict[str, Any] = networks("denoiser", "autoencoder")
    unet, autoencoder = (part.requires_grad_(False) for part in parts.values())
    t, context = torch.tensor([400, 40]), noise(9, 2, 65, WIDTH)
    maps: dict[str, tuple[Map, Tensor]] = {
        "denoise": (lambda z: unet(z, t, context), noise(1, 2, 3, 8, 8)),
        "decode": (partial(autoencoder.decode, quantize=False), noise(1, 2, 3, 8, 8)),
        "encode": (autoencoder.encode, noise(1, 2, 3, 32, 32)),
    }
    return maps[request.param]


def test_forward_and_backward_derivatives_of_a_network_are_transposes(network: tuple[Map, Tensor]) -> None:
    function, x = network
    along = noise(2, *x.shape)
    value, forward = jvp(function, x, along)
    back = noise(3, *value.shape)
    torch.testing.assert_close(value, function(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((forward * back).sum(), (along * vjp(function, x, back)).sum(), rtol=1e-3, atol=1e-2)


def products(call: Callable[[], Any]) -> tuple[int, Any]:
    """Operations of the convolutions and linear layers in a call, and what it returns."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = call()
    counts, aten = counter.get_flop_counts()["Global"], torch.ops.aten
    return sum(counts.get(operation, 0) for operation in (aten.convolution, aten.addmm, aten.mm)), found


def test_a_forward_derivative_takes_two_products_where_pytorchs_takes_three(network: tuple[Map, Tensor]) -> None:
    function, x = network
    along = noise(2, *x.shape)
    once, _ = products(lambda: function(x))
    twice, ours = products(lambda: jvp(function, x, along))
    thrice, theirs = products(lambda: torch.func.jvp(function, (x,), (along,)))
    assert once < twice <= 2 * once  # what the argument does not reach is computed once
    assert thrice > 1.4 * twice
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_function_that_does_not_depend_on_its_argument_has_no_derivative() -> None:
    value, derivative = jvp(lambda x: torch.ones(2), noise(1, 3), noise(2, 3))
    assert derivative.tolist() == [0, 0]
    assert value.tolist() == [1, 1]


def test_forward_derivatives_hold_at_half_precision_where_differences_do_not(network: tuple[Map, Tensor]) -> None:
    function, x = network
    along = unit(noise(2, *x.shape))
    exact = jvp(function, x, along)[1].flatten()
    with torch.autocast("cpu", torch.bfloat16):
        forward = jvp(function, x, along)[1].flatten().float()
        differed = difference(function, x, along, 0.005).flatten().float()
    assert F.cosine_similarity(forward, exact, dim=0) > 0.99
    assert F.cosine_similarity(differed, exact, dim=0) < 0.9


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("factor", [2, 4, 16])
def test_every_round_of_back_projection_comes_nearer(kind: str, factor: int) -> None:
    shrink = Shrink(factor, kind)
    x, y = noise(1, 1, 3, 64, 96), noise(2, 1, 3, 64 // factor, 96 // factor)
    gaps = [float((y - shrink(back_project(x, y, shrink, rounds))).norm() / y.norm()) for rounds in (0, 1, 4, 64)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1
    agreed = shrink(x)
    torch.testing.assert_close(back_project(x, agreed, shrink, 3), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("heights", [[96], [32, 32, 32], [5, 40, 1, 50], [1] * 96])
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_bands_are_projected_as_the_whole_image_is(kind: str, heights: list[int], rounds: int) -> None:
    shrink, image, y = Shrink(4, kind), noise(1, 3, 96, 16), noise(2, 3, 24, 4)
    bands = list(project_bands(iter(image.split(heights, dim=1)), y, shrink, rounds))
    expected = back_project(image[None], y[None], shrink, rounds)[0]
    torch.testing.assert_close(torch.cat(bands, dim=1), expected, rtol=0, atol=1e-5)


def test_bands_come_while_the_image_does() -> None:
    shrink, y = Shrink(2), noise(2, 3, 100, 4)
    taken = 0

    def rows() -> Iterator[Tensor]:
        nonlocal taken
        for band in noise(1, 3, 200, 8).split(10, dim=1):
            taken += 10
            yield band

    next(project_bands(rows(), y, shrink, rounds=1))
    assert taken < 50
