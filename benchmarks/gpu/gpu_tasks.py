"""What is measured: training, patches, joint sampling, super-resolution; seconds, memory and operations of each."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.gpu.networks_of_size import Size, tokens
from ldm.data.batch import Batch, BatchRNG
from ldm.errors import UserError
from ldm.evaluation.experiments.operations import WorkCount, counted, gflop, pflop
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import to_uint8
from ldm.multiscale.conditions import TokenMap
from ldm.multiscale.joint import Joint, adapted
from ldm.multiscale.presets import CONSISTENT, PRESETS
from ldm.multiscale.super_resolution import SuperResolution
from ldm.pipeline import ZoomLDM
from ldm.support.precision import DTYPES, allow_tf32
from ldm.training.base import OptimizerPlan
from ldm.training.zoomldm import ZoomLDMTraining

SCALES = ("20x", "5x")
WARM_UP = 3
"""training steps before measurement"""


@dataclass
class GpuRow:
    """A measured task: images per run, seconds, peak bytes, and PFLOP."""

    name: str
    images: int
    seconds: float
    memory: int
    pflop: float

    def cells(self, peak: float) -> list[str]:
        """Cells of the table; `peak` in PFLOP/s."""
        share = self.pflop / self.seconds / peak
        return [
            self.name,
            f"{self.images / self.seconds:.3g}",
            f"{self.seconds:.3g}",
            f"{self.memory / 2**30:.1f}",
            f"{self.pflop:.3g}",
            f"{share:.0%}",
        ]


@dataclass
class Meter:
    """Seconds and memory of the code within `running`."""

    device: torch.device
    seconds: float = 0.0
    memory: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        on_card = self.device.type == "cuda"
        if on_card:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.monotonic()
        yield
        if on_card:
            torch.cuda.synchronize(self.device)
            self.memory = torch.cuda.max_memory_allocated(self.device)
        else:
            self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.seconds = time.monotonic() - started


def training(model: ZoomLDM, size: Size) -> GpuRow:
    """Steps of AdamW on U-Net and Summarizer, in mixed precision."""
    device, total = model.device, WARM_UP + size.train_steps
    allow_tf32(True)
    system = ZoomLDMTraining(
        denoiser=model.unet.requires_grad_(True),
        summarizer=model.summarizer.requires_grad_(True),
        alpha_bar=model.alpha_bar,
        scale_names=model.ladder.names,
        plan=OptimizerPlan(partial(torch.optim.AdamW, lr=1e-5), warmup=1, last=total),
    ).to(device)
    system.log = lambda *values, **options: None  # type: ignore[method-assign]
    optimizer = system.configure_optimizers()["optimizer"]
    side = size.tile_px // model.autoencoder.downsample
    drawn = torch.Generator().manual_seed(2)
    grids = [torch.randn(size.embedding_dim, 2, 2, generator=drawn) for _ in range(size.train_batch)]
    z_0 = torch.randn(size.train_batch, 3, side, side, generator=drawn)
    scale = torch.zeros(size.train_batch, dtype=torch.long)
    meter = Meter(device)

    def steps(first: int, count: int) -> None:
        for number in tqdm(range(first, first + count), desc="training", unit="step", leave=False):
            batch = Batch(z_0, grids, scale, BatchRNG(0, number, 0, size.train_batch)).to(device)
            with autocast(model):
                loss = system.training_step(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not torch.isfinite(loss):
            raise UserError(f"training: the loss is {loss.item()} on {device}; this device cannot train")

    steps(0, WARM_UP)
    with meter.running():
        steps(WARM_UP, size.train_steps)
    for network in (model.unet, model.summarizer):
        network.requires_grad_(False)
    allow_tf32(False)
    images = size.train_batch * size.train_steps
    each = training_gflop(model.unet, side, size.context_dim)
    return GpuRow(f"training, {size.train_batch} a step", images, meter.seconds, meter.memory, images * each / 1e6)


def training_gflop(unet: nn.Module, side: int, context_dim: int) -> float:
    """Of a forward and a backward pass of the U-Net, for one image."""
    with torch.device("meta"):
        z, t, context = torch.zeros(1, 3, side, side), torch.zeros(1), torch.zeros(1, 65, context_dim)
        context.requires_grad_()

    def step() -> None:
        weights = {name: torch.empty_like(w, device="meta").requires_grad_() for name, w in unet.named_parameters()}
        torch.func.functional_call(unet, weights, (z, t, context)).sum().backward()

    return gflop(step)


def autocast(model: ZoomLDM) -> Any:
    dtype = getattr(torch, DTYPES[model.precision])
    return torch.autocast(model.device.type, dtype) if model.precision != "fp32" else nullcontext()


def patches(model: ZoomLDM, size: Size) -> Pixels:
    """Under random embeddings of the finest scale."""
    return model.sample("20x", embeddings=[tokens(size, size.tile_px)] * size.patches, steps=size.steps)


def joint(model: ZoomLDM, size: Size) -> Pixels:
    """One image under random embeddings."""
    return large(model, TokenMap(model, tokens(size, size.large_px)), size.large_px, size.steps)[None]


def superres(model: ZoomLDM, size: Size) -> Pixels:
    """A random image, four times larger, under random embeddings."""
    side = size.large_px // 4
    y = np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return enlarged(model, y, TokenMap(model, tokens(size, size.large_px)), size.steps)[None]


def large(model: ZoomLDM, conditions: TokenMap, px: int, steps: int | None) -> Pixels:
    """(px, px, 3): joint sampling with default settings, two scales with a ratio of 4."""
    preset = adapted(PRESETS["default"], model)
    sampling = Joint(
        model=model,
        scales=SCALES,
        height=px,
        width=px,
        conditions=conditions,
        settings=replace(preset, steps=steps or preset.steps),
    )
    for _ in tqdm(sampling.run(), total=sampling.steps, desc="joint sampling", unit="step", leave=False):
        pass
    return to_uint8(torch.cat(list(sampling.bands()), dim=1)[None])[0]


def enlarged(model: ZoomLDM, y: Pixels, conditions: TokenMap, steps: int | None) -> Pixels:
    """y (h, w, 3), four times larger."""
    preset = adapted(CONSISTENT, model)
    sampling = SuperResolution(model, y, SCALES, conditions, settings=replace(preset, steps=steps or preset.steps))
    for _ in tqdm(sampling.run(), total=sampling.joint.steps, desc="super-resolution", unit="step", leave=False):
        pass
    return np.concatenate(list(sampling.bands()))


TASKS: dict[str, Callable[[ZoomLDM, Size], Pixels]] = {
    "patches": patches,
    "joint sampling": joint,
    "super-resolution": superres,
}


def sampled(name: str, model: ZoomLDM, size: Size, each: WorkCount) -> GpuRow:
    """Measure one task, after a warm-up run."""
    task, meter = TASKS[name], Meter(model.device)
    task(model, replace(size, steps=1, large_px=size.tile_px))
    with counted(model) as work, meter.running():
        images = task(model, size)
    title = f"{name}, {images.shape[2]} x {images.shape[1]} px"
    return GpuRow(title, len(images), meter.seconds, meter.memory, pflop(work, each))


def peak(device: torch.device, precision: str, side: int, times: int = 5) -> float:
    """PFLOP/s of products of matrices (side, side)."""
    dtype = getattr(torch, DTYPES[precision])
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    meter = Meter(device)
    with meter.running():
        for _ in range(times):
            a @ b
    return times * 2 * side**3 / meter.seconds / 1e15
