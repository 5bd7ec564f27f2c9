"""Enlarge images with a multi-scale model: 2x, 4x, 8x or 16x, the ratio of two of its scales.

Without arguments, a patch of a held-out demo slide is shrunk four times and enlarged again; input, bicubic, ours and
truth are written side by side, with their scores.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options import (
    add_batch_size,
    add_compile,
    add_device,
    add_guidance_interval,
    add_model,
    add_model_out,
    add_preview,
    add_scales,
    add_seed,
)
from ldm.multiscale.presets import SUPERRES_PRESETS
from ldm.support.arguments import Parser, guidance, integer, sampling_steps


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "superres",
        description="Enlarge images with a multi-scale model.",
        example="photos/ --scales 20x,5x --condition inferred --out photos4x",
    )
    add = parser.add_argument
    add(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE|FOLDER",
        help="at the coarsest of --scales; default: a part of a demo slide or scene",
    )
    add_model_out(add, "samples/superres")
    add_model(add)
    add_preview(add)
    add_scales(add, "finest and coarser ones; their ratio is the enlargement (20x,5x or 1x,3x)")
    add("--method", choices=("zoomldm", "bicubic"), default="zoomldm", help="(%(default)s)")
    add("--condition", choices=("none", "given", "inferred"), help="default: given with --from, inferred without")
    add("--from", dest="slide", metavar="SLIDE.h5", help="prepared slide that contains the image")
    add("--place", metavar="ROW,COL", help="the base tile of that slide in the image's upper left corner (0,0)")
    add("--truth", type=Path, metavar="IMAGE|FOLDER", help="what the result should be, to score it; same names")
    several = "enlarge with so many seeds, from --seed on: mean, spread and intervals of each pixel (%(default)s)"
    add("--samples", type=integer(1, 1000), default=1, metavar="N", help=several)
    add("--no-consistency", action="store_true", help="skip the final consistency step")
    text = "exact: through decoder and encoder, not the preview head (%(default)s)"
    add("--preset", choices=SUPERRES_PRESETS, default="default", help=text)
    add("--steps", type=sampling_steps, help="denoising steps, instead of the preset's")
    add("--guidance", type=guidance, help="instead of the preset's; 1 is none")
    add_guidance_interval(add)
    add_batch_size(add, "tiles")
    add_device(add)
    add_compile(add)
    add_seed(add)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from ldm.commands.superres import run

    return run(args)
