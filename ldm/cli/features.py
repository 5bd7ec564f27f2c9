"""Features of every tile of a cohort from the denoiser: .h5 bags that CLAM, TRIDENT and torchmil read.

Several scales are fused into one row per tile of the finest scale: its own features and those of the coarser regions
around it. Running the same command again continues an interrupted one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options import add_batch_size, add_machines, add_model, add_model_out, add_scales, add_seed
from ldm.support.arguments import Parser, non_negative_int, timestep


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "features",
        description="Extract tile features of a prepared cohort, a bag (.h5) a slide.",
        example="data/mine --scales 20x,5x --model runs/NAME --devices 8",
    )
    add = parser.add_argument
    add("cohort", type=Path, help="folder of prepared slides; prepare with regions_per_scale=null tissue_share=0")
    add_model(add)
    add_scales(add, "one, or several to fuse, separated by commas; default: the finest")
    sources = ("denoiser", "encoder")
    add("--source", choices=sources, default=sources[0], help="encoder: the embeddings alone (%(default)s)")
    add("--block", type=non_negative_int, default=3, help="output block of the U-Net, from 0 (%(default)s)")
    add("--t", type=timestep, default=100, help="diffusion time (%(default)s)")
    add("--clean", action="store_true", help="feed latents as they are; default: noised to t")
    add_seed(add, "of that noise")
    add_batch_size(add, "tiles", 32)
    add_machines(add, "slides")
    add_model_out(add, "features", "folder; bags go to OUT/SOURCE-SCALES/")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from ldm.commands.features import run

    return run(args)
