"""Sampling and training on a simulated device: no tensor is made elsewhere, and values equal the CPU's."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.fixtures import toy
from benchmarks.fixtures.fill import fill_
from ldm.config.objects import build
from ldm.controlnet_superres import ControlModel
from ldm.data.batch import Batch, BatchRNG
from ldm.data.h5 import SlideFile
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedule import cosine_alpha_bar
from ldm.encoders.demo_encoder import DEMO_WEIGHTS, DemoEncoder
from ldm.evaluation.mil.features import Probe, denoiser_features
from ldm.multiscale.canvas import Rule
from ldm.multiscale.conditions import TokenMap, Unconditional, drawn_tokens
from ldm.multiscale.inversion import Inversion
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS
from ldm.multiscale.super_resolution import CONSISTENT, SuperResolution, inferred
from ldm.networks.controlnet import Control
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM
from ldm.training.base import OptimizerPlan
from ldm.training.cdm import CDMTraining
from ldm.training.control import ControlTraining
from ldm.training.losses import ReconstructionLoss, TextureLoss
from ldm.training.muon import Muon
from ldm.training.vq import AutoencoderTraining
from ldm.training.zoomldm import ZoomLDMTraining
from tests.golden.parity import noise
from tests.pretend import pretended

SMALL_PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)


def settings(name: str, **changes: Any) -> Any:
    """A preset with few steps, and rounding that is not magnified."""
    preset = PRESETS[name]
    rule = replace(preset.rule, inner=min(1, preset.rule.inner))
    if rule.codec == "difference":
        rule = replace(rule, zeta=0.5)
    if rule.denoiser == "difference":
        rule = replace(rule, delta=0.5)
    return replace(preset, **{"steps": 2, "rule": rule, "quantize": False, **changes})


@pytest.fixture
def model(world: Path) -> ZoomLDM:
    return ZoomLDM.load(world / "zoomldm", cdm=world / "cdm", precision="fp32")


@pytest.fixture
def slide(world: Path) -> SlideFile:
    return SlideFile(world / "slide.h5")


def image(joint: Joint) -> Tensor:
    for _ in joint.run():
        pass
    return torch.cat(list(joint.bands()), dim=1)


def joint(model: ZoomLDM, preset: Any) -> Tensor:
    conditions = TokenMap(model, noise(1, toy.EMBEDDING, 3, 3))
    return image(
        Joint(
            model=model, scales=["20x", "5x"], height=32, width=40, conditions=conditions, settings=preset, batch_size=2
        )
    )


def superres(model: ZoomLDM) -> Tensor:
    few = replace(CONSISTENT, steps=2)
    conditions = TokenMap(model, noise(1, toy.EMBEDDING, 2, 2))
    sampling = SuperResolution(model, SMALL_PIXELS, ["20x", "5x"], conditions, settings=few)
    for _ in sampling.run():
        pass
    pixels = torch.from_numpy(np.concatenate(list(sampling.bands()))).float()
    return torch.cat([pixels.flatten(), torch.tensor([sampling.before.rms, sampling.after.rms])])


def canvas_of_a_decoder_with_statistics(model: ZoomLDM) -> Tensor:
    """Shared statistics, and too large for them."""
    autoencoder = build({**toy.NETWORKS["autoencoder"], "norm": "group", "attention": True})
    fill_(autoencoder.state_dict(), "autoencoder.")
    return decoded(replace(model, autoencoder=autoencoder.requires_grad_(False).to(model.device)))


def decoded(model: ZoomLDM) -> Tensor:
    return torch.cat([torch.cat(list(model.decode_canvas(noise(3, 3, *size))), dim=1).flatten() for size in SIZES])


SIZES = ((12, 20), (40, 36))


def controlled(model: ZoomLDM) -> Tensor:
    network = Control(model.unet)
    fill_(network.state_dict(), "control.")
    control = ControlModel(network, model, "20x", 4).to(model.device)
    return torch.from_numpy(control.enlarge(SMALL_PIXELS, Unconditional(model))).float()


FORWARD: dict[str, Callable[[ZoomLDM, SlideFile], Tensor]] = {
    **{
        f"patches, {name}": lambda model, slide, name=name: torch.from_numpy(
            model.sample("5x", embeddings=[slide.embedding("5x", 0)] * 2, sampler=name, steps=3)
        ).float()
        for name in SAMPLERS
    },
    "patches, CDM": lambda model, slide: torch.from_numpy(model.sample("5x", 2, steps=2)).float(),
    **{f"joint, {name}": lambda model, slide, name=name: joint(model, settings(name)) for name in PRESETS},
    "joint, forward derivatives": lambda model, slide: joint(
        model, settings("default", rule=Rule(codec="jvp", denoiser="jvp"))
    ),
    "super-resolution": lambda model, slide: superres(model),
    "decoding": lambda model, slide: decoded(model),
    "decoding with statistics": lambda model, slide: canvas_of_a_decoder_with_statistics(model),
    "features": lambda model, slide: denoiser_features(model, slide, "5x", [0, 2], Probe(block=1)),
    "ControlNet": lambda model, slide: controlled(model),
}
SLOW = ("joint, paper", "joint, independent")
"""what the other presets do too"""
BACKWARD: dict[str, Callable[[ZoomLDM], Tensor]] = {
    "joint, backpropagation": lambda model: joint(
        model, settings("default", rule=Rule(codec="backprop", denoiser="backprop"))
    ),
    "inversion": lambda model: Inversion(model, "5x").from_latents(noise(4, 2, 3, 8, 8).to(model.device), 3),
    "super-resolution's conditions": lambda model: inferred(model, SMALL_PIXELS, ["20x", "5x"], steps=2).tokens,
    "a place of the CDM's": lambda model: drawn_tokens(model, "5x", 4, 8, steps=2),
}


def near(found: Tensor, expected: Tensor) -> None:
    """The same values but for rounding, which random networks magnify: correlated to 0.99."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    pair = torch.stack([found.cpu().flatten(), expected.flatten()]).double()
    assert torch.equal(*pair) or torch.corrcoef(pair)[0, 1] > 0.99


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FORWARD]
)
def test_sampling_runs_on_cuda_and_makes_every_tensor_there(model: ZoomLDM, slide: SlideFile, name: str) -> None:
    expected = FORWARD[name](model, slide).detach()
    with pretended("cuda") as device:
        near(FORWARD[name](model.to(device), slide), expected)


@pytest.mark.parametrize("name", BACKWARD)
def test_what_backpropagates_makes_every_tensor_on_its_device(model: ZoomLDM, name: str) -> None:
    expected = BACKWARD[name](model).detach()
    with pretended("meta") as device:
        near(BACKWARD[name](model.to(device)), expected)


def test_a_tensor_on_the_wrong_device_is_found(model: ZoomLDM) -> None:
    context = torch.zeros(1, 65, toy.WIDTH)
    with pretended("cuda") as device, pytest.raises(RuntimeError, match="expected all tensors on one device"):
        model.to(device).sample_latents(context, steps=1)


def test_the_encoder_of_tiles_runs_on_cuda() -> None:
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8))
    encoder = DemoEncoder.load(DEMO_WEIGHTS, "cpu")
    expected = encoder(tiles)
    with pretended("cuda") as device:
        torch.testing.assert_close(encoder.to(device)(tiles), expected, rtol=0, atol=1e-3)


def batch(image: Tensor | None = None) -> Batch:
    grids = [noise(5, toy.EMBEDDING, 2, 2), noise(6, toy.EMBEDDING, 1, 1)]
    return Batch(noise(7, 2, 3, 8, 8), grids, torch.tensor([1, 0]), BatchRNG(0, 0, 0, 2), image)


def plan() -> OptimizerPlan:
    return OptimizerPlan(lambda params: Muon(params, lr=0.01), warmup=1, last=4)


def shared() -> dict[str, Any]:
    return {"scale_names": list(toy.SCALES), "plan": plan()}


def latent_diffusion(model: ZoomLDM) -> tuple[Any, Batch]:
    parts = {"denoiser": model.unet, "summarizer": model.summarizer}
    return ZoomLDMTraining(**parts, alpha_bar=model.alpha_bar, prediction="v", **shared()), batch()


def conditioning(model: ZoomLDM) -> tuple[Any, Batch]:
    assert model.cdm is not None
    system = CDMTraining(cdm=model.cdm.network, alpha_bar=cosine_alpha_bar(), **shared())
    system.summarizer = model.summarizer
    return system, batch()


def control(model: ZoomLDM) -> tuple[Any, Batch]:
    network = Control(UNet(**{key: value for key, value in toy.NETWORKS["denoiser"].items() if key != "target"}))
    fill_(network.state_dict(), "control.")
    steered = ControlModel(network, copy.deepcopy(model), "20x", 4)
    system = ControlTraining(
        steered=steered, denoiser=network, summarizer=model.summarizer, alpha_bar=model.alpha_bar, **shared()
    )
    return system, batch(noise(8, 2, 3, 32, 32))


def autoencoder(model: ZoomLDM, kind: Callable[[], nn.Module]) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    loss = kind()
    more: dict[str, Any] = {"smooth": 0.1, "noise": 0.0, "revive_every": 1, "clip": 1.0}
    return AutoencoderTraining(autoencoder=model.autoencoder, loss=loss, plan=plan(), **more), noise(9, 2, 3, 32, 32)


SYSTEMS = {
    "zoomldm": latent_diffusion,
    "cdm": conditioning,
    "control": control,
    "vq": partial(autoencoder, kind=ReconstructionLoss),
    "vq, adversary": partial(autoencoder, kind=partial(TextureLoss, adversary_weight=0.2, width=8)),
}


@pytest.fixture
def one_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's random numbers on every device: one that is not there has none."""
    generator = BatchRNG.generator
    monkeypatch.setattr(BatchRNG, "generator", lambda self, device="cpu": generator(self))
    monkeypatch.setattr("torch.Generator", lambda device="cpu", real=torch.Generator: real())


def two_steps(system: Any, given: Any) -> Tensor:
    """Train for two steps as Lightning does, and validate; what the first one logged. The weights stay finite."""
    for parameter in system.parameters():
        parameter.requires_grad_(True)
    planned = system.configure_optimizers()
    several = isinstance(planned, tuple)
    optimizers = planned[0] if several else [planned["optimizer"]]
    schedules = [entry["scheduler"] for entry in planned[1]] if several else []
    logged: list[Tensor] = []
    system.log = lambda name, value, **options: logged.append(value.detach().cpu())
    system.log_dict = lambda values, **options: logged.extend(value.detach().cpu() for value in values.values())
    system.optimizers, system.lr_schedulers = (lambda: optimizers), (lambda: schedules)
    system.manual_backward, system.clip_gradients = (lambda loss: loss.backward()), (lambda *arguments, **options: None)
    first: list[Tensor] = []
    for _ in range(2):
        loss = system.training_step(given)
        if loss is not None:
            optimizers[0].zero_grad()
            loss.backward()
            optimizers[0].step()
        first = first or list(logged)
    with torch.no_grad():
        system.validation_step(given)
    assert all(weight.isfinite().all() for weight in system.parameters())
    return torch.stack(first)


@pytest.mark.usefixtures("one_generator")
@pytest.mark.parametrize("name", SYSTEMS)
def test_training_makes_every_tensor_on_its_device(model: ZoomLDM, name: str) -> None:
    system, given = SYSTEMS[name](copy.deepcopy(model))
    expected = two_steps(system, given)
    with pretended("meta") as device:
        system, given = SYSTEMS[name](model)
        system.to(device)
        for part in (model, getattr(system, "steered", None), getattr(system, "summarizer", None)):
            if part is not None:
                part.to(device)
        torch.testing.assert_close(two_steps(system, given.to(device)), expected, rtol=1e-3, atol=1e-4)
