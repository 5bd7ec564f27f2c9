"""Sample patches at every scale: PNGs and one contact sheet, real patches beside generated ones.

Without arguments, the bundled demo model samples under the conditions of the bundled held-out slide.
"""

import argparse
from collections.abc import Sequence

from ldm.cli.options import (
    add_cdm,
    add_compile,
    add_device,
    add_label,
    add_model,
    add_model_out,
    add_patch_sampling,
    add_scales,
    add_seed,
    check_guidance,
)
from ldm.support.arguments import Parser, positive_int


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "sample",
        description="Sample patches at every scale of a model.",
        example="--scales 5x --count 8 --seed 3",
    )
    add = parser.add_argument
    add_model(add)
    add_cdm(add)
    add_label(add)
    add("--from", dest="origin", metavar="cdm|SLIDE.h5", help="conditions; default: the bundled slide")
    add_scales(add, "scales to sample, separated by commas; default: all")
    add("--count", type=positive_int, default=4, help="patches per scale (%(default)s)")
    add_patch_sampling(add)
    add_seed(add, "patch i depends on seed + i alone")
    add_device(add)
    add_compile(add)
    add_model_out(add, "samples/patches", "folder of the pictures")
    return check_guidance(parser.parse_args(argv))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from ldm.commands.sample import run

    run(args)
