"""The training loss, learning rate and average against the published ones; where gradients reach."""

import json
import math
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn

from benchmarks.fixtures.fill import fill_
from ldm.config.objects import load_config
from ldm.data.batch import Batch, BatchRNG
from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.diffusion.timestep_sampling import LogNormal, Uniform, timestep_of_sigma
from ldm.networks.summarizer import Summarizer
from ldm.networks.unet import UNet
from ldm.training.base import OptimizerPlan, fused, learning_rate_factor
from ldm.training.callbacks import Averaging, DivergedError, Watch
from ldm.training.zoomldm import ZoomLDMTraining
from tests.golden.parity import noise

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "training.json").read_text())


@pytest.fixture
def system() -> ZoomLDMTraining:
    denoiser = UNet(width=32, multipliers=(1, 2), blocks=1, attention=(2,))
    summarizer = Summarizer(embedding_dim=64, layers=2, mlp=256)
    fill_(denoiser.state_dict(), "model.diffusion_model.")
    fill_(summarizer.state_dict(), "cond_stage_model.")
    return ZoomLDMTraining(
        denoiser=denoiser,
        summarizer=summarizer,
        alpha_bar=scaled_linear_alpha_bar(),
        scale_names=[str(scale) for scale in range(8)],
        plan=OptimizerPlan(torch.optim.AdamW, warmup=1000, last=10),
    )


def published_batch() -> Batch:
    grids = [noise(8003, 64, 2, 2), noise(8004, 64, 8, 8)]
    return Batch(noise(8001, 2, 3, 64, 64), grids, torch.tensor([1, 5]), BatchRNG(0, 0, 0, 2))


def test_loss_and_gradients_equal_the_published_ones(system: ZoomLDMTraining) -> None:
    batch = published_batch()
    context = system.summarizer(batch.embedding, batch.scale)
    losses = system.losses(system.denoiser, batch.z_0, context, torch.tensor([10, 700]), noise(8002, 2, 3, 64, 64))
    assert losses.tolist() == pytest.approx(GOLDEN["eval_per_sample"], rel=1e-6)
    losses.mean().backward()
    found = {
        **{f"model.diffusion_model.{name}": p.grad for name, p in system.denoiser.named_parameters()},
        **{f"cond_stage_model.{name}": p.grad for name, p in system.summarizer.named_parameters()},
    }
    for name, norm in GOLDEN["grad_norms"].items():
        assert float(found[name].norm()) == pytest.approx(norm, rel=1e-4), name


def test_learning_rate_warms_up_as_published_and_decays_to_its_floor() -> None:
    for step, factor in GOLDEN["lr_factor"].items():
        assert learning_rate_factor(int(step), 1000) == pytest.approx(factor, rel=1e-9)
    assert learning_rate_factor(100, 10, decay_from=50, last=100) == pytest.approx(0.02)
    assert learning_rate_factor(75, 10, decay_from=50, last=100) == pytest.approx(0.51)


def test_the_average_follows_the_published_decay() -> None:
    module = pl.LightningModule()
    module.w = nn.Parameter(torch.zeros(()))
    averaging = Averaging(0.9999)
    averaging.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), module, "fit")
    average = averaging._average_model
    for number in range(1, 1001):
        module.w.data.fill_(number)
        average.update_parameters(module)
        if str(number) in GOLDEN["ema"]:
            assert average.module.w.item() == pytest.approx(GOLDEN["ema"][str(number)]["shadow"], rel=1e-5)


def test_the_average_is_where_training_is_and_its_count_where_no_card_is_waited_for() -> None:
    module = pl.LightningModule()  # on the CPU, as before Lightning moves it
    module.w = nn.Parameter(torch.zeros(()))
    averaging = Averaging(0.9999)
    averaging.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta"))), module, "fit")
    average = averaging._average_model
    assert average.module.w.device.type == "meta"
    average.update_parameters(module)
    assert average.n_averaged.tolist() == 2


def test_a_card_is_asked_for_the_losses_of_several_steps_at_once() -> None:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer = SimpleNamespace(strategy=strategy, max_steps=100, global_step=0, callback_metrics={})
    watch, card = Watch(every=10), SimpleNamespace(device=torch.device("cuda"))

    def step(loss: float, system: Any = card) -> None:
        trainer.global_step += 1
        trainer.callback_metrics = {"loss": torch.tensor(loss)}
        watch.on_train_batch_end(trainer, system)

    for loss in (1.0, 1.0, math.nan, *[1.0] * 6):
        step(loss)
    with pytest.raises(DivergedError, match="loss is nan at step 3"):
        step(1.0)
    with pytest.raises(DivergedError, match="loss is inf at step 11"):
        step(math.inf, SimpleNamespace(device=torch.device("cpu")))
    trainer.global_step = 99
    with pytest.raises(DivergedError, match="step 100"):  # the last one
        step(math.nan)


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD"])
def test_one_kernel_updates_all_weights_as_one_after_the_other_does(name: str) -> None:
    config = OmegaConf.create({"precision": "32-true"})
    arguments = fused({"target": f"torch.optim.{name}"}, config)
    assert arguments == {"fused": True}
    weights = []
    for given in (arguments, {}):
        weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        optimizer = getattr(torch.optim, name)([weight], lr=0.1, **given)
        for number in range(3):
            weight.grad = torch.cos(weight.detach() + number)
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)
    assert fused({"target": f"torch.optim.{name}", "foreach": False}, config) == {}
    assert fused({"target": "ldm.training.muon.Muon"}, config) == {}
    assert fused({"target": f"torch.optim.{name}"}, OmegaConf.create({"precision": "16-mixed"})) == {}


def test_one_step_reaches_every_parameter_of_both_networks(system: ZoomLDMTraining) -> None:
    system.training_step(published_batch()).backward()
    silent = [name for name, p in system.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []


class Ones(nn.Module):
    """A Summarizer that never gives zeros."""

    def forward(self, grids: list[torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(grids), 65, 512)


class Recorder(nn.Module):
    """A denoiser that records which samples had a context."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[bool] = []

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.given += context.flatten(1).any(1).tolist()
        return z_t


def test_the_null_context_reaches_its_share_of_the_samples(system: ZoomLDMTraining) -> None:
    system.summarizer, system.denoiser = Ones(), (witness := Recorder())
    for number in range(60):
        grids = [torch.zeros(1, 1, 1)] * 20
        system.training_step(Batch(torch.zeros(20, 3, 2, 2), grids, torch.zeros(20), BatchRNG(0, number, 0, 20)))
    assert 0.07 < witness.given.count(False) / len(witness.given) < 0.13


def test_ranks_share_a_batch_s_noise_without_overlap(system: ZoomLDMTraining) -> None:
    drawn = {}
    system.losses = lambda network, z, context, t, eps: drawn.update(t=t, eps=eps) or z.mean((1, 2, 3))  # type: ignore[method-assign]
    whole = published_batch()
    system.training_step(whole)
    expected = dict(drawn)
    for rank in range(2):
        part = Batch(
            whole.z_0[rank : rank + 1], [whole.embedding[rank]], whole.scale[rank : rank + 1], BatchRNG(0, 0, rank, 2)
        )
        system.training_step(part)
        assert torch.equal(drawn["eps"], expected["eps"][rank : rank + 1])
        assert torch.equal(drawn["t"], expected["t"][rank : rank + 1])


def test_times_cover_the_schedule_where_they_should() -> None:
    alpha_bar, generator = scaled_linear_alpha_bar(), torch.Generator().manual_seed(0)
    uniform = Uniform()(20_000, alpha_bar, generator)
    assert 0 <= uniform.min() < 5
    assert 995 <= uniform.max() <= 999
    fine = timestep_of_sigma(torch.tensor([0.1, 1.0]), alpha_bar)
    texture = LogNormal()(20_000, alpha_bar, generator)
    share = [float(((t > fine[0]) & (t < fine[1])).float().mean()) for t in (uniform, texture)]
    assert share[1] > 1.3 * share[0]


@pytest.mark.parametrize("name", ["zoomldm_brca", "zoomldm_naip"])
def test_the_paper_s_values_stand_in_the_configs(name: str) -> None:
    config = load_config([Path(__file__).parents[2] / f"configs/{name}.yaml"])
    training = config.training
    images = config.data.batch_size * training.accumulate  # of one GPU and step
    assert (training.optimizer.lr, training.warmup, images, training.devices) == (1e-4, 10_000, 200, 3)
    assert training.p_uncond == 0.1
    assert config.ladder.scales == config.model.summarizer.scales == (8 if name.endswith("brca") else 4)


def step(system: ZoomLDMTraining) -> dict[str, torch.Tensor]:
    """Gradients of a training step."""
    system.log = lambda *values, **options: None  # type: ignore[method-assign]
    system.zero_grad()
    system.train().training_step(published_batch()).backward()
    return {name: weight.grad.clone() for name, weight in system.named_parameters() if weight.grad is not None}


def test_gradients_do_not_depend_on_checkpointing(system: ZoomLDMTraining) -> None:
    expected = step(system)
    system.denoiser.checkpointing = True
    found = step(system)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_training_step_is_one_graph_with_the_same_names_and_gradients(
    system: ZoomLDMTraining, checkpointing: bool
) -> None:
    torch._dynamo.reset()
    expected, names = step(system), list(system.state_dict())
    system.denoiser.checkpointing = checkpointing
    system.compile_training("aot_eager")
    assert list(system.state_dict()) == names
    found = step(system)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name
    assert system.called_denoiser is not system.denoiser
    assert system.eval().called_denoiser is system.denoiser  # validation compiles nothing
    assert list(deepcopy(system).state_dict()) == names  # as averaging copies it
