"""Forms of the networks that are faster: the same numbers, exactly or up to rounding."""

from copy import deepcopy

import pytest
import torch

from ldm.hub import fast_form
from ldm.layers import blocks
from ldm.layers.blocks import Upsample
from ldm.multiscale.constraint import jvp
from ldm.networks.compute_copy import compute_copy
from ldm.pipeline import ZoomLDM
from tests.golden.parity import error


@pytest.mark.parametrize("size", [(32, 32), (33, 48)])
@torch.no_grad()
def test_folded_upsampling_is_nearest_neighbour_and_convolution(size: tuple[int, int]) -> None:
    plain = Upsample(8).requires_grad_(False)
    folded, x = fast_form(deepcopy(plain)), torch.randn(2, 8, *size)
    assert folded.folded
    assert error(folded(x), plain(x)) < 1e-5
    assert error(folded(torch.ones_like(x)), plain(torch.ones_like(x))) < 1e-5  # borders too
    found, expected = (jvp(network, x, x.flip(2))[1] for network in (folded, plain))
    assert error(found, expected) < 1e-5


@torch.no_grad()
def test_a_loaded_network_gives_what_its_plain_form_does(demo: ZoomLDM, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = deepcopy(demo.autoencoder).to(memory_format=torch.contiguous_format)
    z, x = torch.randn(1, 3, 32, 32), torch.rand(1, 3, 64, 64) * 2 - 1
    decoded, encoded = demo.autoencoder.decode(z), demo.autoencoder.encode(x)
    monkeypatch.setattr(blocks, "FOLDED_FROM", 2**30)
    assert error(decoded, plain.decode(z)) < 1e-5
    assert error(encoded, plain.encode(x)) < 1e-5


@torch.no_grad()
def test_weights_converted_once_give_the_same_bits_as_at_every_call(model: ZoomLDM) -> None:
    z, t, context = torch.randn(2, 3, 32, 32), torch.tensor([3, 700]), torch.randn(2, 65, model.context_width)
    unet, autoencoder = (compute_copy(network, torch.bfloat16) for network in (model.unet, model.autoencoder))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unet(z, t, context), model.unet(z, t, context))
        assert torch.equal(autoencoder.decode(z), model.autoencoder.decode(z))
    converted = sum(weight.dtype == torch.bfloat16 for weight in unet.parameters())
    assert 0 < converted < len(list(unet.parameters()))
    assert {weight.dtype for weight in model.unet.parameters()} == {torch.float32}


@torch.no_grad()
def test_a_model_at_half_precision_computes_with_converted_weights_and_keeps_its_own(model: ZoomLDM) -> None:
    half = deepcopy(model)
    half.precision = "bf16"
    assert model.computing(model.unet) is model.unet
    copied = half.computing(half.unet)
    assert copied is not half.unet
    assert half.computing(half.unet) is copied
    half.to("cpu")
    assert half.computing(half.unet) is not copied
    half.unet.requires_grad_(True)
    assert half.computing(half.unet) is half.unet
