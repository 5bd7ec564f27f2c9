"""Sample one image that is larger than the network: a coarse canvas, then the finer tiles constrained by it.

Without arguments, samples 1024x1024 pixels from the bundled demo model, conditioned on the bundled held-out slide.
Running the same command again continues an interrupted one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options import (
    add_batch_size,
    add_cdm,
    add_compile,
    add_guidance_interval,
    add_label,
    add_machines,
    add_model,
    add_model_out,
    add_preview,
    add_scales,
    add_seed,
)
from ldm.errors import UserError
from ldm.multiscale.presets import PRESETS, SEAMS
from ldm.support.arguments import Parser, correction, guidance, integer, real, sampling_steps, whole_numbers


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "joint",
        description="Sample one large image at several scales at once.",
        example="--scales 20x,5x --size 2048x1024 --from cdm --seed 3",
    )
    add, usual = parser.add_argument, PRESETS["default"]
    add_model(add)
    add_cdm(add)
    add_label(add)
    add_preview(add)
    add_scales(add, "finest and coarser ones, any number; default: 20x,5x, of satellite models 1x,3x")
    add("--size", metavar="PX|WxH", help="pixels at the finest scale (1024; with --layout, as far as it reaches)")
    add(
        "--from",
        dest="origin",
        metavar="SLIDE.h5|IMAGE|cdm|none",
        help="conditions; default: the slide of a bundled model, or cdm",
    )
    add("--place", metavar="ROW,COL", help="first base tile; default: on a slide where most tissue is, on a layout 0,0")
    add(
        "--layout",
        type=Path,
        metavar="GEOJSON|RASTER",
        help="what is where: regions of QuPath, or a class raster",
    )
    add("--palette", type=Path, help="what its classes look like (zoomldm palette); bundled models bring theirs")
    add("--rest", metavar="CLASS", help="class of what no region covers; default: Background, if the palette has it")
    add("--mpp", type=real(1e-3, 1e3), help="um per pixel of the layout's coordinates; default: the image's")
    add(
        "--preset",
        choices=PRESETS,
        default="default",
        help="exact: through decoder and encoder, not the preview head; the paper's, the released sampler's, baselines",
    )
    add("--steps", type=sampling_steps, help=f"denoising steps of a canvas; default: {usual.steps}, or the preset's")
    add("--inner", type=integer(0, 1000), help="corrections a step (K); 0: tiles independent of the coarse canvas")
    add("--lambda", dest="weight", type=correction, help="length of a correction")
    add("--tolerance", type=correction, help="error below which a tile is left alone")
    usually = f"{usual.guidance:g}, the finest canvas {usual.fine_guidance:g}"
    add("--guidance", type=guidance, help=f"of all canvases; 1 is none; default: {usually}, or the preset's")
    add_guidance_interval(add)
    add("--seam", choices=SEAMS, help="against borders between tiles")
    add_batch_size(add, "tiles")
    add_machines(add, "tiles")
    add_compile(add)
    add_seed(add)
    add_model_out(add, "samples/joint")
    return parser.parse_args(argv)


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "PX" or "WxH"."""
    numbers = whole_numbers(text.lower(), "x")
    if numbers is None or len(numbers) > 2 or min(numbers) < 1:
        raise UserError(f"--size: {text[:80]}; expected pixels as 1024 or, width first, 2048x1024")
    return numbers[-1], numbers[0]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    args.pixels = None if args.size is None and args.layout else size_of(args.size or "1024")
    from ldm.commands.joint import run

    run(args)
