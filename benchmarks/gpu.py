"""GPU benchmark: training, patches, joint sampling and super-resolution at full size, in one table.

    python -m benchmarks.gpu                                    writes benchmarks/gpu.md
    python -m benchmarks.gpu --size tiny --device cpu           the same in a minute, without a card: prints only

First the bundled model samples on the CPU and on the device, in fp32: pictures may differ only by rounding. Then the
published networks (U-Net of 400 M parameters, VQ-f4) are run with random weights in the device's default precision. The
operations of U-Net and autoencoder are counted, those of the Summarizer are not; the peak is that of a large matrix
product in the same precision on the same device.
"""

import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ldm.data.batch import Batch, BatchRNG
from ldm.data.h5 import SlideFile
from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.errors import UserError, cli
from ldm.evaluation.experiments.operations import WorkCount, costs, counted, gflop, pflop
from ldm.evaluation.tables import markdown
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import to_uint8
from ldm.multiscale.conditions import TokenMap
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import CONSISTENT, PRESETS
from ldm.multiscale.super_resolution import SuperResolution
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.summarizer import Summarizer
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM
from ldm.scales import ladder
from ldm.support.arguments import Parser, output_file, positive_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import atomic_write
from ldm.support.precision import DTYPES, add_precision, allow_tf32, choose
from ldm.training.base import OptimizerPlan
from ldm.training.zoomldm import ZoomLDMTraining

SCALES = ("20x", "5x")
WARM_UP = 3
"""training steps before measurement"""
ALLOWED_LEVELS = 1.0
"""mean difference of pictures made on the CPU and on the device, in levels of 255"""


@dataclass(frozen=True)
class Size:
    """Sizes of the networks and of the tasks."""

    unet: dict[str, Any] = field(default_factory=dict)
    summarizer: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, Any] = field(default_factory=dict)
    context_dim: int = 512
    embedding_dim: int = 1024
    tile_px: int = 256
    train_steps: int = 50
    train_batch: int = 32
    patches: int = 16
    large_px: int = 1024
    steps: int | None = None
    """steps of sampling; None: the defaults"""
    product: int = 8192
    """side of the matrices whose product is the peak"""
    check_px: int = 256
    check_steps: int = 4


SIZES = {
    "full": Size(),
    "tiny": Size(
        unet={"width": 32, "multipliers": (1, 1), "blocks": 1, "attention": (2,), "context_dim": 32},
        summarizer={"embedding_dim": 8, "width": 32, "layers": 1, "heads": 2, "mlp": 32},
        autoencoder={"width": 16, "multipliers": (1, 1, 1), "blocks": 1, "codes": 64, "attention": False},
        context_dim=32,
        embedding_dim=8,
        tile_px=32,
        train_steps=2,
        train_batch=2,
        patches=2,
        large_px=64,
        steps=2,
        product=256,
        check_px=128,
        check_steps=1,
    ),
}


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


def random_model(size: Size, device: str | torch.device, precision: str) -> ZoomLDM:
    """The networks of `size` with random weights, none of them zero, so that nothing is degenerate."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [UNet(**size.unet), Summarizer(**size.summarizer), Autoencoder(**size.autoencoder)]
    for part in parts:
        for weight in part.eval().requires_grad_(False).parameters():
            if not weight.any():
                weight.normal_(std=0.02)
    unet, summarizer, autoencoder = parts
    model = ZoomLDM(
        unet=unet,  # type: ignore[arg-type]
        summarizer=summarizer,  # type: ignore[arg-type]
        autoencoder=autoencoder,  # type: ignore[arg-type]
        alpha_bar=scaled_linear_alpha_bar(),
        prediction="eps",
        ladder=ladder("histology", 8),
        tile_px=size.tile_px,
        encoder="random",
        precision=precision,
    )
    return model.to(device)


def tokens(size: Size, pixels: int) -> Tensor:
    """Embeddings (d, n, n) of the base tiles under an image."""
    side = -(-pixels // size.tile_px)
    return torch.randn(size.embedding_dim, side, side, generator=torch.Generator().manual_seed(1))


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
    preset = PRESETS["default"]
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
    sampling = SuperResolution(
        model, y, SCALES, conditions, settings=replace(CONSISTENT, steps=steps or CONSISTENT.steps)
    )
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


def against_cpu(device: torch.device, size: Size) -> list[list[str]]:
    """Rows: differences of the bundled model's pictures from the CPU's. UserError for more than rounding."""
    found = {}
    for where in ("cpu", device):
        model = ZoomLDM.load("demo", device=where, precision="fp32")
        found[str(where)] = check_pictures(model, size.check_px, size.check_steps)
    rows = []
    for name, expected in found["cpu"].items():
        difference = np.abs(found[str(device)][name].astype(int) - expected.astype(int))
        rows.append([name, f"{difference.mean():.2g}", str(difference.max()), f"{(difference > 1).mean():.2%}"])
        if difference.mean() > ALLOWED_LEVELS:
            raise UserError(
                f"{name}: pictures on {device} differ from the CPU's by {difference.mean():.1f} levels on average, "
                f"expected at most {ALLOWED_LEVELS}; this device or its driver computes something else"
            )
    return rows


def check_pictures(model: ZoomLDM, px: int, steps: int) -> dict[str, Pixels]:
    """Of the three tasks, with the bundled model and slide."""
    slide = SlideFile(BUNDLED["demo"].slide)
    conditions = TokenMap(model, slide.tokens(0, 12, 16, px // model.tile_px, px // model.tile_px))
    y = slide.images("5x", [0])[0][: px // 4, : px // 4]
    return {
        "patches": model.sample("5x", embeddings=[slide.embedding("5x", row) for row in range(2)], steps=steps),
        "joint sampling": large(model, conditions, px, steps),
        "super-resolution": enlarged(model, y, conditions, steps),
    }


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def report(device: torch.device, size: Size, precision: str) -> str:
    """The whole report, as Markdown."""
    checked = against_cpu(device, size)
    model = random_model(size, device, precision)
    each = costs(model.unet, model.autoencoder, size.tile_px, size.context_dim)
    most = peak(device, precision, size.product)
    rows = [sampled(name, model, size, each) for name in TASKS]
    rows.append(training(model, size))
    parameters = sum(weight.numel() for weight in model.unet.parameters())
    head = ["", "images/s", "seconds", "memory, GiB", "PFLOP", "of the peak"]
    return "\n".join(
        [
            f"{hardware(device)}, PyTorch {torch.__version__}, {precision}. U-Net of {parameters / 1e6:.0f} M "
            f"parameters, random weights; the peak, of a product of {size.product} x {size.product} matrices, is "
            f"{1000 * most:.3g} TFLOP/s.\n",
            markdown(head, [row.cells(most) for row in rows]),
            "\nThe bundled model in fp32 against the CPU, in levels of 255:\n",
            markdown(["", "mean difference", "most", "pixels off by more than 1"], checked),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Measure a GPU: training, patches, joint sampling, super-resolution at full size.")
    add = parser.add_argument
    add("--device", default="cuda", help="(%(default)s)")
    add("--size", choices=SIZES, default="full", help="of the networks; tiny: to try the command (%(default)s)")
    add_precision(add)
    add("--batch-size", type=positive_int, help="images of a training step (32)")
    add("--out", type=output_file, help="default: benchmarks/gpu.md for full size on a card, else none")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device: no CUDA device is there; run this on a machine with one, or try --device cpu --size tiny"
        )
    size = SIZES[args.size]
    if args.batch_size:
        size = replace(size, train_batch=args.batch_size)
    try:
        text = report(device, size, choose(args.precision, device))
    except torch.OutOfMemoryError as error:
        raise UserError(f"--batch: memory is short at {size.train_batch}; choose fewer") from error
    print(text)
    measured = device.type == "cuda" and args.size == "full"
    out = args.out or (Path(__file__).with_name("gpu.md") if measured else None)
    if out is not None:
        with atomic_write(out) as partial_file:
            partial_file.write_text(f"# On a GPU\n\n    python -m benchmarks.gpu\n\n{text}\n")
        print(out)


if __name__ == "__main__":
    cli(main)
