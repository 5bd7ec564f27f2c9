"""Rows of sampling, and of one evaluation of each network, with the networks as they are or compiled."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from benchmarks.gpu.meter import GpuRow, Meter
from benchmarks.gpu.networks_of_size import Size, tokens
from ldm.evaluation.experiments.operations import WorkCount, counted, pflop
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import to_uint8
from ldm.multiscale.conditions import TokenMap
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import CONSISTENT, PRESETS, Settings, adapted
from ldm.multiscale.super_resolution import SuperResolution
from ldm.pipeline import ZoomLDM

SCALES = ("20x", "5x")
WARM_UP_STEPS = 2
"""sampling steps of the run before the one that is measured"""


@dataclass
class Bench:
    """The models that rows measure."""

    model: ZoomLDM
    size: Size
    costs: WorkCount
    """GFLOP of each network"""
    compiled: ZoomLDM = field(init=False)
    """the same networks through torch.compile"""

    def __post_init__(self) -> None:
        self.compiled = replace(self.model, compile=True)


def patches(model: ZoomLDM, size: Size) -> Pixels:
    """Under random embeddings of the finest scale."""
    return model.sample("20x", embeddings=[tokens(size, size.tile_px)] * size.patches, steps=size.steps)


def joint(model: ZoomLDM, size: Size, preset: str = "default") -> Pixels:
    """One image under random embeddings."""
    conditions = TokenMap(model, tokens(size, size.large_px))
    return large(model, conditions, size.large_px, size.steps, preset, size.windows)[None]


def superres(model: ZoomLDM, size: Size) -> Pixels:
    """A random image, four times larger, under random embeddings."""
    side = size.large_px // 4
    y = np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return enlarged(model, y, TokenMap(model, tokens(size, size.large_px)), size.steps, size.windows)[None]


def large(
    model: ZoomLDM, conditions: TokenMap, px: int, steps: int | None, preset: str = "default", windows: int = 16
) -> Pixels:
    """(px, px, 3): joint sampling, two scales with a ratio of 4."""
    settings = _with_steps(adapted(PRESETS[preset], model), steps)
    sampling = Joint(
        model=model, scales=SCALES, height=px, width=px, conditions=conditions, settings=settings, batch_size=windows
    )
    for _ in sampling.run():
        pass
    return to_uint8(torch.cat(list(sampling.bands()), dim=1)[None])[0]


def enlarged(model: ZoomLDM, y: Pixels, conditions: TokenMap, steps: int | None, windows: int = 16) -> Pixels:
    """y (h, w, 3), four times larger."""
    settings = _with_steps(adapted(CONSISTENT, model), steps)
    sampling = SuperResolution(model, y, SCALES, conditions, settings=settings, batch_size=windows)
    for _ in sampling.run():
        pass
    return np.concatenate(list(sampling.bands()))


def _with_steps(settings: Settings, steps: int | None) -> Settings:
    return replace(settings, steps=steps or settings.steps)


def sampled(title: str, task: Callable[[ZoomLDM, Size], Pixels], model: ZoomLDM, size: Size, each: WorkCount) -> GpuRow:
    """Measure one task, after a run of few steps of at most 16 tiles."""
    first, meter = Meter(model.device), Meter(model.device)
    with first.running():
        task(model, replace(size, steps=WARM_UP_STEPS, large_px=min(size.large_px, 4 * size.tile_px)))
    with counted(model) as work, meter.running():
        images = task(model, size)
    title = f"{title}, {images.shape[2]} x {images.shape[1]} px"
    return GpuRow(title, len(images), meter.seconds, first.seconds, meter.memory, pflop(work, each))


def repeated(title: str, call: Callable[[], object], images: int, times: int, gflop: float, model: ZoomLDM) -> GpuRow:
    """Measure `times` calls on `images` at a time, `gflop` each, after two."""
    first, meter = Meter(model.device), Meter(model.device)
    with torch.no_grad():
        with first.running():
            for _ in range(2):
                call()
        with meter.running():
            for _ in range(times):
                call()
    done = images * times
    return GpuRow(f"{title}, {images} at a time", done, meter.seconds, first.seconds, meter.memory, done * gflop / 1e6)


def unet(title: str, model: ZoomLDM, size: Size, each: WorkCount) -> GpuRow:
    z, context = _latents(model, size), model.context([tokens(size, size.tile_px)] * size.batch, "20x")
    t = torch.full((size.batch,), 500, device=model.device)
    denoise = model.denoiser(context)
    return repeated(title, lambda: denoise(z, t), size.batch, size.repeats, each.unet.evaluations, model)


def decoding(title: str, model: ZoomLDM, size: Size, each: WorkCount) -> GpuRow:
    z = _latents(model, size)
    cost = each.decoder.evaluations
    return repeated(title, lambda: model.decode(z), size.batch, size.repeats, cost, model)


def encoding(title: str, model: ZoomLDM, size: Size, each: WorkCount) -> GpuRow:
    x = torch.rand(size.batch, 3, size.tile_px, size.tile_px, device=model.device) * 2 - 1
    cost = each.encoder.evaluations
    return repeated(title, lambda: model.encode(x), size.batch, size.repeats, cost, model)


def _latents(model: ZoomLDM, size: Size) -> torch.Tensor:
    side = size.tile_px // model.downsample
    return torch.randn(size.batch, 3, side, side, device=model.device)
