"""Options shared by several commands. `add` is the parser's add_argument."""

import argparse
from collections.abc import Callable
from typing import Any

from ldm.diffusion.defaults import GUIDANCE, GUIDANCE_INTERVAL, SAMPLER, STEPS, Interval
from ldm.errors import UserError
from ldm.support.arguments import (
    ACCELERATORS,
    device,
    guidance,
    interval,
    names,
    output_folder,
    positive_int,
    sampling_steps,
    seed_int,
)
from ldm.support.precision import add_precision

Add = Callable[..., Any]


def add_model(add: Add) -> None:
    """--model: which weights."""
    add(
        "--model",
        default="demo",
        help="demo, demo-fast, satellite, a folder, a file, or a hub name: StonyBrook-CVLab/ZoomLDM/brca (%(default)s)",
    )


def add_device(add: Add) -> None:
    """--precision and --device of a command that uses one device."""
    add_precision(add)
    add("--device", type=device, default="auto", help="auto: cuda where there is a card, else cpu (%(default)s)")


def add_machines(add: Add, shared: str) -> None:
    """--precision, --devices, --nodes and --accelerator of a command whose processes share its `shared`."""
    add_precision(add)
    add("--devices", type=positive_int, default=1, help=f"GPUs or processes that share the {shared} (%(default)s)")
    add("--nodes", type=positive_int, default=1, help="machines (%(default)s)")
    add("--accelerator", choices=ACCELERATORS, default="auto", help="cpu, cuda ... (%(default)s)")


def add_compile(add: Add) -> None:
    """--compile: of a command that samples."""
    text = "compile U-Net, encoder and decoder first: a minute or more, then faster; for long jobs (off)"
    add("--compile", action="store_true", help=text)


def add_guidance_interval(add: Add, default: Interval | None = None) -> None:
    """--guidance-interval: (low, high) in sigma; None: guidance at all noise levels."""
    usual = f"{default[0]:g},{default[1]:g}" if default else "all noise levels"
    add(
        "--guidance-interval",
        type=interval,
        default=default,
        metavar="LOW,HIGH",
        help=f"guide between these values of sigma, noise over signal, as 0.3,3; elsewhere guidance is 1 ({usual})",
    )


def add_patch_sampling(add: Add) -> None:
    """--guidance, --guidance-interval, --sampler and --steps of patches; the model completes the last two."""
    add("--guidance", type=guidance, default=GUIDANCE, help="1 is none (%(default)s)")
    add_guidance_interval(add, GUIDANCE_INTERVAL)
    add("--sampler", choices=list(STEPS), help=f"default: {SAMPLER}, of distilled models ddim")
    usual = ", ".join(f"{steps} of {name}" for name, steps in STEPS.items())
    add("--steps", type=sampling_steps, help=f"default: {usual}; of distilled models as many as they were trained for")


def check_guidance(args: argparse.Namespace) -> argparse.Namespace:
    """`args`. UserError for an interval of a guidance that is none."""
    if getattr(args, "guidance_interval", None) is not None and args.guidance == 1:
        raise UserError(
            "--guidance-interval: limits a guidance, but --guidance is 1, which is none; give --guidance 2, or leave "
            "the interval out"
        )
    return args


def add_scales(add: Add, help: str, default: str | None = None) -> None:
    """--scales: names separated by commas; a list, or None where none was given."""
    add("--scales", type=names, default=default, metavar="NAME,...", help=help)


def add_batch_size(add: Add, what: str, default: int = 16) -> None:
    """--batch-size: how many at a time; results do not depend on it."""
    text = f"{what} at a time; fewer when memory is short (%(default)s)"
    add("--batch-size", type=positive_int, default=default, help=text)


def add_seed(add: Add, meaning: str = "of all randomness") -> None:
    """--seed."""
    add("--seed", type=seed_int, default=0, help=f"{meaning} (%(default)s)")


def add_model_out(add: Add, usual: str, meaning: str = "folder") -> None:
    """--out: a folder to write to; None where it is not given (`ldm.commands.out_folder`)."""
    text = f"{meaning} (default: {usual}, of other models than demo {usual}/MODEL)"
    add("--out", type=output_folder, help=text)


def add_preview(add: Add) -> None:
    """--preview: the preview head of the model's autoencoder."""
    add("--preview", help="the preview head of its autoencoder, named likewise; bundled models bring their own")


def add_cdm(add: Add) -> None:
    """--cdm: the conditioning diffusion model of the model."""
    add("--cdm", help="the model's CDM, named likewise; bundled models bring their own")


def add_label(add: Add) -> None:
    """--label: of the CDM's labels."""
    text = "with --from cdm: conditions of slides with this label, one of the cdm.labels of its training"
    add("--label", metavar="NAME", help=text)
