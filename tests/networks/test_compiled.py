"""Compiled networks: one graph without breaks for any number of samples, the same numbers, the same names."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from ldm import latent_diffusion
from ldm.errors import UserError
from ldm.hub import fast_form
from ldm.layers.statistics import share_statistics
from ldm.multiscale.constraint import jvp
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.compiled import compile_calls
from ldm.networks.preview_head import PreviewHead
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from tests.golden.parity import error

SIDE, CONTEXT = 16, 16


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Compiled code is kept by code object, and only so many versions of one."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def unet() -> nn.Module:
    return UNet(width=8, multipliers=(1, 1), blocks=1, attention=(), context_dim=CONTEXT, shortcuts=True)


def published(**options: object) -> Autoencoder:
    return Autoencoder(width=16, multipliers=(1, 1, 1), blocks=1, codes=8, **options)  # type: ignore[arg-type]


def local() -> Autoencoder:
    return published(patch=2, norm="pixel", attention=False, head=4)


NETWORKS = {
    "U-Net": unet,
    "VQ-f4's decoder": lambda: published().decoder,
    "VQ-f4's encoder": lambda: published().encoder,
    "a local decoder": lambda: local().decoder,
    "a local encoder": lambda: local().encoder,
    "preview head": lambda: PreviewHead(width=8, layers=2),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = fast_form(NETWORKS[name]().eval().requires_grad_(False))
    for weight in made.parameters():
        if not weight.any():
            weight.normal_(std=0.1)
    return made


def inputs(net: nn.Module, count: int) -> tuple[Tensor, ...]:
    if isinstance(net, UNet):
        return torch.randn(count, 3, SIDE, SIDE), torch.full((count,), 500), torch.randn(count, 65, CONTEXT)
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    return (torch.randn(count, first.in_channels, SIDE, SIDE),)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_graph_for_any_number_of_samples(name: str) -> None:
    net, counter = network(name), CompileCounter()
    expected = [(given, net(*given)) for given in (inputs(net, count) for count in (3, 2, 5))]
    names = list(net.state_dict())
    compile_calls(net, counter)
    for given, result in expected:
        assert torch.equal(net(*given), result)
    assert counter.frame_count == 1
    assert list(net.state_dict()) == names


def test_derivatives_hooks_and_single_samples_run_the_network_as_written() -> None:
    net, counter = network("VQ-f4's decoder"), CompileCounter()
    plain = copy.deepcopy(net)
    compile_calls(net, counter)
    (z,) = inputs(net, 2)
    for found, expected in zip(jvp(net, z, z.flip(0)), jvp(plain, z, z.flip(0)), strict=True):
        assert torch.equal(found, expected)
    z.requires_grad_()
    assert torch.equal(*(torch.autograd.grad(each(z).square().sum(), z)[0] for each in (net, plain)))
    z = z.detach()
    parts = [(slice(0, SIDE), slice(0, SIDE))] * 2
    shared = [share_statistics(each, each, lambda: [(z, parts)])(z) for each in (net, plain)]
    assert torch.equal(*shared)
    assert not torch.equal(shared[0], plain(z))
    assert torch.equal(net(z[:1]), plain(z[:1]))
    assert counter.frame_count == 0
    net(z)
    assert counter.frame_count == 1


def test_a_compiler_that_fails_is_one_line_for_the_user() -> None:
    def broken(graph: object, example: object) -> None:
        raise RuntimeError("no compiler\nis here")

    net = network("preview head")
    compile_calls(net, broken)
    with pytest.raises(UserError, match=r"^compile: .*leave it out"):
        net(*inputs(net, 2))


@pytest.mark.slow
def test_samples_of_a_compiled_model_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    plain, compiled = (ZoomLDM.load("demo", precision="fp32", compile=compile) for compile in (False, True))
    names = list(compiled.unet.state_dict())
    monkeypatch.setattr(latent_diffusion, "compile_calls", lambda network: compile_calls(network, counter))
    grids = [torch.randn(plain.embedding_width, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    first, second = (model.sample("20x", embeddings=grids, steps=2) for model in (plain, compiled))
    assert (first == second).all()
    assert counter.frame_count == 2  # U-Net and decoder
    assert list(compiled.unet.state_dict()) == names
    assert plain.arithmetic == {"precision": "fp32", "device": "cpu"}
    assert compiled.arithmetic == {**plain.arithmetic, "compiled": True}


@pytest.mark.slow
def test_the_compiler_s_code_gives_the_numbers_of_the_network_as_written() -> None:
    assert BUNDLED["demo"].weights("zoomldm").is_file()
    plain, compiled = (ZoomLDM.load("demo", precision="fp32", compile=compile) for compile in (False, True))
    z, context = torch.randn(3, 3, 32, 32), torch.randn(3, 65, plain.context_width)
    t = torch.tensor([10, 500, 900])
    with torch.no_grad():
        assert error(compiled.denoiser(context)(z, t), plain.denoiser(context)(z, t)) < 1e-4
        assert error(compiled.decode(z), plain.decode(z)) < 1e-4
        x = torch.rand(3, 3, 128, 128) * 2 - 1
        assert error(compiled.encode(x), plain.encode(x)) < 1e-4
