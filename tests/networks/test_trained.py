"""Weights that cannot come out of a training are refused where they are loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.fixtures import toy
from benchmarks.fixtures.fill import fill_
from ldm.checkpoint import load_weights, save_weights
from ldm.config.objects import build
from ldm.errors import UserError
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.controlnet import Control
from ldm.networks.summarizer import CNNSummarizer
from ldm.networks.trained import HasBottlenecks, check_trained
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM, load_autoencoder

T, SCALE = torch.tensor([7]), torch.tensor([1])
CONTEXT = torch.ones(1, 65, toy.NETWORKS["summarizer"]["width"])


def denoiser(network: nn.Module) -> Tensor:
    return network(torch.randn(1, 3, 8, 8), T, CONTEXT)


def control(network: nn.Module) -> Tensor:
    z_t = torch.ones(1, 3, 8, 8)
    return torch.cat([each.flatten() for each in network(z_t, T, CONTEXT, torch.randn(1, 3, 8, 8))])


def summarizer(network: nn.Module) -> Tensor:
    return network([torch.randn(toy.NETWORKS["summarizer"]["embedding_dim"], 4, 4)], SCALE)


def cdm(network: nn.Module) -> Tensor:
    return network(torch.randn(1, 65, toy.NETWORKS["cdm"]["context_dim"]), T, SCALE)[0]


def autoencoder(network: nn.Module) -> Tensor:
    return network(torch.randn(1, 3, 16, 16))[0]


def small(name: str) -> nn.Module:
    """A network without a single zero."""
    if name in toy.NETWORKS:
        return toy.networks(name)[name]
    built: nn.Module
    if name == "control":
        built = Control(build(toy.NETWORKS["denoiser"]))
    elif name == "cnn":
        built = CNNSummarizer(**{key: toy.NETWORKS["summarizer"][key] for key in ("embedding_dim", "scales", "width")})
    else:
        built = Autoencoder(width=16, codes=None, patch=2, multipliers=(1, 2), blocks=1, norm="pixel", head=4)
    fill_(built.state_dict(), name)
    return built


ANSWERS: dict[str, Callable[[nn.Module], Tensor]] = {
    "denoiser": denoiser,
    "control": control,
    "summarizer": summarizer,
    "cnn": summarizer,
    "cdm": cdm,
    "autoencoder": autoencoder,
    "head": autoencoder,
}


@pytest.mark.parametrize("name", ANSWERS)
@torch.no_grad()
def test_with_a_zero_bottleneck_every_input_has_one_answer_and_the_network_is_refused(name: str) -> None:
    network, answer = small(name).eval(), ANSWERS[name]
    check_trained(network, name)
    torch.manual_seed(0)
    assert not torch.equal(answer(network), answer(network))
    assert isinstance(network, HasBottlenecks)
    for layer, weights in network.bottlenecks().items():
        before = [weight.clone() for weight in weights]
        for weight in weights:
            weight.zero_()
        assert torch.equal(answer(network), answer(network)), layer
        with pytest.raises(UserError, match=f"{name}: all weights of {layer} are zero, so its output cannot depend"):
            check_trained(network, name)
        for weight, kept in zip(weights, before, strict=True):
            weight.copy_(kept)
    check_trained(network, name)
    for weight in network.parameters():
        weight.zero_()
    with pytest.raises(UserError, match=f"{name}: all weights are zero"):
        check_trained(network, name)


def test_a_network_before_its_first_step_is_refused() -> None:
    unet: UNet = build(toy.NETWORKS["denoiser"])
    layers = {"out.2": unet, "final_layer.linear": build(toy.NETWORKS["cdm"]), "hint": Control(unet)}
    for layer, untrained in layers.items():
        with pytest.raises(UserError, match=f"all weights of {layer} are zero"):
            check_trained(untrained, "x")


@pytest.mark.parametrize("part", ["model.diffusion_model.", "cond_stage_model.", "first_stage_model."])
def test_zero_weights_of_a_file_are_refused_by_who_loads_it(part: str, tmp_path: Path) -> None:
    run = toy.run_folder(tmp_path / "run", "zoomldm")
    tensors = load_weights(run / "weights.safetensors")
    zeros = {name: 0 * tensor if name.startswith(part) else tensor for name, tensor in tensors.items()}
    save_weights(run / "weights.safetensors", zeros)
    load = load_autoencoder if part == "first_stage_model." else ZoomLDM.load
    with pytest.raises(UserError, match=r"of .*weights.safetensors: all weights are zero"):
        load(run)
