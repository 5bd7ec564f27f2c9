"""Sample patches at every scale: PNGs and one contact sheet, real patches beside generated ones.

Without arguments, the bundled demo model samples under the conditions of the bundled held-out slide.
"""

import argparse
from collections.abc import Sequence

from ldm.cli.options import add_device, add_model
from ldm.multiscale.presets import SAMPLER_NAMES
from ldm.support.arguments import Parser, non_negative, output_folder, positive_int, seed_int


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "sample",
        description="Sample patches at every scale of a model.",
        example="--scale 5x --count 8 --seed 3",
    )
    add = parser.add_argument
    add_model(add)
    add("--cdm", help="the model's CDM, named likewise; the demo model brings its own")
    add("--from", dest="origin", metavar="cdm|SLIDE.h5", help="conditions; default: the bundled slide")
    add("--scale", nargs="+", metavar="NAME", help="scales to sample; default: all")
    add("--count", type=positive_int, default=4, help="patches per scale (%(default)s)")
    add("--guidance", type=non_negative, default=2.0, help="1 is none (%(default)s)")
    add("--steps", type=positive_int, help="default: 20 of dpmpp, 100 of ddim")
    add("--sampler", choices=SAMPLER_NAMES, default=SAMPLER_NAMES[0], help="(%(default)s)")
    add("--seed", type=seed_int, default=0, help="patch i depends on seed + i alone (%(default)s)")
    add_device(add)
    add("--out", type=output_folder, default="samples/patches", help="folder of the pictures (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from ldm.commands.sample import run

    run(args)
