"""Rows of training: steps as main.py takes them, in mixed precision, with fused AdamW and averaged weights.

Seconds of forward, backward, optimiser and average are of steps with a wait for the device after each of the four; the
row itself is of steps without.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.gpu.meter import GpuRow, Meter
from benchmarks.gpu.sampling_rows import Bench
from ldm.config.objects import load_config
from ldm.data.batch import Batch, BatchRNG
from ldm.errors import UserError
from ldm.evaluation.experiments.operations import gflop
from ldm.layers.blocks import Upsample
from ldm.support.precision import DTYPES, allow_tf32
from ldm.training.base import OptimizerPlan
from ldm.training.zoomldm import ZoomLDMRun, ZoomLDMTraining

WARM_UP = 3
"""training steps before measurement"""
DECAY = 0.9999
TOY = Path(__file__).parents[2] / "configs" / "demo" / "zoomldm.yaml"
PHASES = ("forward", "backward", "optimiser", "average")


@dataclass
class PhaseClock:
    """Seconds of the phases of a step."""

    meter: Meter
    split: bool = False
    """whether to wait for the device after each phase"""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if not self.split:
            yield
            return
        with self.meter.running():
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.meter.seconds


class Steps:
    """Training steps of a system on batches of random latents."""

    def __init__(self, system: ZoomLDMTraining, precision: str, device: torch.device, clip: float | None) -> None:
        self.system, self.clip, self.device = system.to(device).train(), clip, device
        self.system.log = lambda *values, **options: None  # type: ignore[method-assign]
        self.optimizer = system.configure_optimizers()["optimizer"]
        self.average = AveragedModel(system, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        self.average.n_averaged = torch.ones((), dtype=torch.long)
        dtype = getattr(torch, DTYPES[precision])
        self.autocast: Callable[[], Any] = (
            nullcontext if precision == "fp32" else partial(torch.autocast, device.type, dtype)
        )

    def take(self, batch: Batch, clock: PhaseClock) -> Tensor:
        """One step; its loss."""
        with clock.phase("forward"), self.autocast():
            loss = self.system.training_step(batch)
        with clock.phase("backward"):
            self.optimizer.zero_grad()
            loss.backward()
        with clock.phase("optimiser"):
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.system.parameters(), self.clip)
            self.optimizer.step()
        with clock.phase("average"):
            self.average.update_parameters(self.system)
        return loss


def measured(title: str, steps: Steps, batches: Callable[[int], Batch], count: int, each: float) -> GpuRow:
    """Measure `count` steps on batches(number), `each` GFLOP an image, and the phases of a few more."""
    first, meter, clock = Meter(steps.device), Meter(steps.device), PhaseClock(Meter(steps.device))
    allow_tf32(True)
    try:
        with first.running():
            for number in range(WARM_UP):
                steps.take(batches(number), clock)
        with meter.running():
            for number in range(WARM_UP, WARM_UP + count):
                loss = steps.take(batches(number), clock)
        memory = meter.memory
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()}; this device cannot train")
        clock.split, split = True, max(1, count // 4)
        for number in range(split):
            steps.take(batches(number), clock)
    finally:
        allow_tf32(False)
    images = count * len(batches(0))
    phases = ", ".join(f"{name} {1000 * clock.seconds[name] / split:.3g}" for name in PHASES)
    notes = [f"{title}, {1000 * meter.seconds / count:.3g} ms a step; by phase, in ms: {phases}."]
    return GpuRow(title, images, meter.seconds, first.seconds, memory, images * each / 1e6, notes)


def full_steps(bench: Bench, compiled: bool = False) -> Steps:
    """Steps of AdamW on copies of the bench's U-Net and Summarizer, in the form they are trained in."""
    model = bench.model
    denoiser, summarizer = copy.deepcopy(model.unet), copy.deepcopy(model.summarizer)
    for module in denoiser.modules():
        if isinstance(module, Upsample):
            module.folded = False
    fused: dict[str, Any] = {"fused": True} if model.device.type == "cuda" else {}
    system = ZoomLDMTraining(
        denoiser=denoiser.requires_grad_(True),
        summarizer=summarizer.requires_grad_(True),
        alpha_bar=model.alpha_bar,
        scale_names=model.ladder.names,
        plan=OptimizerPlan(partial(torch.optim.AdamW, lr=1e-5, **fused), warmup=1, last=10**6),
    )
    steps = Steps(system, model.precision, model.device, clip=None)
    if compiled:
        system.compile_training()
    return steps


def training(bench: Bench, batch: int, compiled: bool = False) -> GpuRow:
    """Full size."""
    size, model = bench.size, bench.model
    side = size.tile_px // model.downsample
    each = training_gflop(model.unet, side, size.context_dim)
    title = f"training{', compiled' if compiled else ''}, {batch} a step"
    batches = random_batches(batch, side, size.embedding_dim, 2, model.device)
    return measured(title, full_steps(bench, compiled), batches, size.train_steps, each)


def toy_training(bench: Bench) -> GpuRow:
    """The bundled size, with the optimiser of its config."""
    size, device = bench.size, bench.model.device
    config = load_config([TOY])
    config.training.precision = "32-true"  # for what the plan asks of its optimiser; autocast is that of the bench
    run = ZoomLDMRun(config)
    side, unet = config.tile_px // 4, run.system.denoiser
    each = training_gflop(unet, side, config.model.denoiser.context_dim)
    steps = Steps(run.system, bench.model.precision, device, config.training.clip)
    batches = random_batches(size.toy_batch, side, config.model.summarizer.embedding_dim, 8, device)
    return measured(f"training at toy size, {size.toy_batch} a step", steps, batches, size.train_steps, each)


def random_batches(count: int, side: int, channels: int, grid: int, device: torch.device) -> Callable[[int], Batch]:
    """Number of a step -> its batch, on the device already."""
    drawn = torch.Generator().manual_seed(2)
    grids = [torch.randn(channels, grid, grid, generator=drawn) for _ in range(count)]
    z_0 = torch.randn(count, 3, side, side, generator=drawn)
    held = Batch(z_0, grids, torch.zeros(count, dtype=torch.long), BatchRNG(0, 0, 0, count)).to(device)
    return lambda number: Batch(held.z_0, held.embedding, held.scale, BatchRNG(0, number, 0, count))


def training_gflop(unet: nn.Module, side: int, context_dim: int) -> float:
    """Of a forward and a backward pass of the U-Net, for one image."""
    with torch.device("meta"):
        z, t, context = torch.zeros(1, 3, side, side), torch.zeros(1), torch.zeros(1, 65, context_dim)
        context.requires_grad_()

    def step() -> None:
        weights = {name: torch.empty_like(w, device="meta").requires_grad_() for name, w in unet.named_parameters()}
        torch.func.functional_call(unet, weights, (z, t, context)).sum().backward()

    return gflop(step)
