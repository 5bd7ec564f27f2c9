"""Speed beside what one would take instead: the package diffusers, and a .npy file for every patch.

    python -m benchmarks.speed --out benchmarks/speed.md

diffusers' UNet2DConditionModel and VQModel get the same weights, so results are equal up to rounding, which is checked.
Both sides run in turn in one process; the ratio is theirs over ours, above 1 where ours is faster. CPU seconds, as the
wall clock of a shared machine says little.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fixtures import toy
from benchmarks.hardware import hardware
from ldm.checkpoint import load_strict
from ldm.data.batch import BatchRNG
from ldm.data.dataset import Pick, latent_batch
from ldm.data.h5 import SlideFile
from ldm.diffusion.samplers import ddim, ddim_timesteps, dpmpp_2m
from ldm.diffusion.schedule import scaled_linear_alpha_bar
from ldm.errors import UserError, cli
from ldm.evaluation.tables import markdown
from ldm.hub import fast_form
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.diffusers_layout import diffusers_package, unet_arguments, unet_weights, vq_arguments, vq_weights
from ldm.networks.unet import UNet
from ldm.support.arguments import Parser, output_file, positive_int
from ldm.support.files import write_text

TOLERANCE = 1e-4
"""largest difference of results, over their largest value"""
STEPS = 10
"""of sampling"""
SCHEDULE = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False}
PUBLISHED: dict[str, Any] = {"TILE_PX": 256, "EMBEDDING": 1024, "SCALES": ("20x", "10x", "5x", "2.5x")}
"""of the slide that is loaded: patches of all sizes of grids, 1x1 to 8x8"""
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class SpeedSize:
    """Sizes of the networks; images are 256 px, one at a time, unless said."""

    unet: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=lambda: {"width": 96})
    """of the training step: both sides' weights, gradients and moments are in memory"""
    sampled: dict[str, Any] = field(default_factory=lambda: {"width": 64})
    autoencoder: dict[str, Any] = field(default_factory=dict)
    latents: int = 64
    sampled_latents: int = 32


SMALL = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "context_dim": 32}
SIZES = {
    "full": SpeedSize(),
    "tiny": SpeedSize(SMALL, SMALL, SMALL, {"width": 32, "blocks": 1, "codes": 64}, latents=16, sampled_latents=16),
}


def pair_of_unets(**options: Any) -> tuple[UNet, Any]:
    """Ours and diffusers' with the same weights, none of them zero."""
    ours = UNet(**options).eval()
    for weight in ours.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    theirs = diffusers_package().UNet2DConditionModel(**unet_arguments(ours, 64)).eval()
    load_strict(theirs, unet_weights(ours), "diffusers")
    return ours, theirs


def inputs(unet: UNet, side: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """z_t, t, context."""
    return torch.randn(batch, 3, side, side), torch.full((batch,), 500), torch.randn(batch, 65, unet.context_dim)


def evaluation(size: SpeedSize) -> Iterator[tuple[str, Run, Run]]:
    """The U-Net as sampling runs it."""
    unet, theirs = pair_of_unets(**size.unet)
    z, t, context = inputs(fast_form(unet), size.latents)
    yield (
        "U-Net, one evaluation",
        lambda: unet(z, t, context),
        lambda: theirs(z, t, encoder_hidden_states=context).sample,
    )


def autoencoding(size: SpeedSize) -> Iterator[tuple[str, Run, Run]]:
    """Both halves of the autoencoder as sampling runs them."""
    ours = Autoencoder(**size.autoencoder).eval().requires_grad_(False)
    nn.init.normal_(ours.get_parameter("quantize.embedding.weight"))
    vq = diffusers_package().VQModel(**vq_arguments(ours, 4 * size.latents)).eval().requires_grad_(False)
    load_strict(vq, vq_weights(ours), "diffusers")
    ours, z = fast_form(ours), torch.randn(1, 3, size.latents, size.latents)
    x = torch.rand(1, 3, 4 * size.latents, 4 * size.latents) * 2 - 1
    yield "VQ-f4, encoding", lambda: ours.encode(x), lambda: vq.encode(x).latents
    yield "VQ-f4, decoding with codebook", lambda: ours.decode(z), lambda: vq.decode(z).sample


def training(size: SpeedSize) -> Iterator[tuple[str, Run, Run]]:
    """Forward, backward and AdamW, ours in the form that training gives it."""
    ours, theirs = pair_of_unets(**size.trained)
    z, t, context = inputs(ours, size.latents)
    ours.to(memory_format=torch.channels_last)
    optimizers = [torch.optim.AdamW(ours.parameters(), 1e-6, fused=True), torch.optim.AdamW(theirs.parameters(), 1e-6)]

    def step(evaluate: Run, optimizer: torch.optim.Optimizer) -> Tensor:
        with torch.enable_grad():
            loss = F.mse_loss(evaluate(), z)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        return loss.detach()

    yield (
        f"training step, U-Net of width {size.trained['width']}",
        partial(step, lambda: ours(z, t, context), optimizers[0]),
        partial(step, lambda: theirs(z, t, encoder_hidden_states=context).sample, optimizers[1]),
    )


def sampling(size: SpeedSize) -> Iterator[tuple[str, Run, Run]]:
    """DDIM and DPM-Solver++(2M) from noise to latents, two samples at a time."""
    unet, theirs = pair_of_unets(**size.sampled)
    z_T, _, context = inputs(fast_form(unet), size.sampled_latents, 2)
    alpha_bar, title = scaled_linear_alpha_bar(), f"{STEPS} steps, U-Net of width {size.sampled['width']}"

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        return unet(z_t, t, context)

    def loop(scheduler: Any) -> Tensor:
        scheduler.set_timesteps(STEPS)
        z_t = z_T
        for t in scheduler.timesteps:
            eps = theirs(z_t, t, encoder_hidden_states=context).sample
            z_t = scheduler.step(eps, t, z_t).prev_sample
        return z_t

    theirs_ddim = diffusers_package().DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, steps_offset=1)
    yield (
        f"DDIM, {title}",
        lambda: ddim(denoise, z_T, alpha_bar, ddim_timesteps(STEPS)),
        lambda: loop(theirs_ddim),
    )
    options = {key: value for key, value in SCHEDULE.items() if key != "clip_sample"}
    solver = diffusers_package().DPMSolverMultistepScheduler(
        **options, timestep_spacing="leading", steps_offset=1, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    solver.set_timesteps(STEPS)
    timesteps = solver.timesteps.tolist()
    yield (
        f"DPM-Solver++(2M), {title}",
        lambda: dpmpp_2m(denoise, z_T, alpha_bar, timesteps),
        lambda: loop(solver),
    )


def loading(folder: Path) -> Iterator[tuple[str, Run, Run]]:
    """Batches of latents and normalised tokens: a prepared slide, and two .npy files for every patch."""
    with patch.multiple(toy, **PUBLISHED):
        slide = SlideFile(toy.slide(folder / "slide.h5", images=False))
    picks: list[Pick] = [(slide, scale, row) for scale in slide.ladder for row in range(slide.count(scale.name))]
    for number, (_, scale, row) in enumerate(picks):
        i, j = (slide.ij(scale.name)[row] * scale.grid).tolist()
        tokens = slide.tokens(scale.pyramid_level, i, j, scale.grid, scale.grid)
        np.save(folder / f"{number}-z.npy", slide.latents(scale.name, [row])[0].half().numpy())
        np.save(folder / f"{number}-e.npy", tokens.half().numpy())

    def read(number: int) -> tuple[Tensor, Tensor]:
        z, grid = (torch.from_numpy(np.load(folder / f"{number}-{part}.npy")).float() for part in "ze")
        return z, (grid - grid.mean(0)) / (grid.std(0) + 1e-8)

    def files() -> Tensor:
        read_all = [read(number) for number in range(len(picks))]
        return torch.cat([torch.stack([z for z, _ in read_all]).flatten(), *(grid.flatten() for _, grid in read_all)])

    def prepared() -> Tensor:
        batch = latent_batch(picks, BatchRNG(0, 0, 0, len(picks)))
        return torch.cat([batch.z_0.flatten(), *(grid.flatten() for grid in batch.embedding)])

    yield f"loading {len(picks)} patches, against .npy files", prepared, files


def measured(name: str, ours: Run, theirs: Run, repeats: int) -> list[str]:
    """A row of the table. UserError where the two results differ by more than rounding."""
    found, expected = ours(), theirs()  # this warms both up
    apart = float((found - expected).abs().max() / expected.abs().max())
    if not apart <= TOLERANCE:
        raise UserError(f"{name}: results differ by {apart:.1e} of the largest, expected at most {TOLERANCE:.0e}")
    times: dict[Run, list[float]] = {ours: [], theirs: []}
    for number in range(repeats):
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            started = time.process_time()
            run()
            times[run].append(time.process_time() - started)
    one, other = median(times[ours]), median(times[theirs])
    return [name, str(torch.get_num_threads()), f"{one:.3g}", f"{other:.3g}", f"{other / one:.2f}"]


@torch.no_grad()
def rows(size: SpeedSize, threads: Sequence[int], repeats: int) -> Iterator[list[str]]:
    """Of every comparison, with each number of threads."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for comparisons in (
            evaluation(size),
            autoencoding(size),
            training(size),
            sampling(size),
            loading(Path(folder)),
        ):
            for comparison in comparisons:
                for count in threads:
                    torch.set_num_threads(count)
                    yield measured(*comparison, repeats)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="CPU seconds beside diffusers' networks and schedulers, and beside .npy files.")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny: to try the command (%(default)s)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="medians of so many (%(default)s)")
    parser.add_argument("--threads", type=positive_int, nargs="+", default=[1, 2], help="(1 2)")
    parser.add_argument("--out", type=output_file, help="a Markdown file; default: prints only")
    args = parser.parse_args(argv)
    theirs = diffusers_package().__version__
    table = []
    for row in rows(SIZES[args.size], args.threads, args.repeats):
        print(*row, sep="  ", flush=True)
        table.append(row)
    text = (
        f"`python -m benchmarks.speed --size {args.size}`: {hardware()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, PyTorch "
        f"{torch.__version__}, diffusers {theirs}, fp32; medians of {args.repeats}, in turn.\n\n"
        + markdown(["", "threads", "ours, CPU s", "theirs, CPU s", "theirs / ours"], table)
    )
    if args.out is not None:
        write_text(args.out, f"{text}\n")
        print(args.out)


if __name__ == "__main__":
    cli(main)
