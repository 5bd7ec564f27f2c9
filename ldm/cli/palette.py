"""Prototypes of classes for `zoomldm joint --layout`: what each class looks like, as embeddings of real tiles.

Without arguments: the demo slides, whose true map is known. With --cohort: prepared slides with annotations of QuPath
or class rasters, or clusters that k-means finds in them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options import add_seed
from ldm.errors import UserError
from ldm.support.arguments import Parser, integer, output_file


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="zoomldm palette",
        description="Collect what each class looks like, for joint --layout; without arguments, on demo slides.",
        epilog="example: zoomldm palette --cohort data/mine --annotations qupath/geojson --out mine.safetensors",
    )
    add = parser.add_argument
    add("--cohort", type=Path, metavar="FOLDER", help="prepared slides")
    add(
        "--annotations",
        type=Path,
        metavar="FOLDER",
        help="SLIDE.geojson of QuPath for each slide, or class rasters SLIDE.png with SLIDE.csv; others are left out",
    )
    add("--clusters", type=integer(2, 100), metavar="K", help="instead of annotations: classes that k-means finds")
    add(
        "--prototypes",
        type=integer(1, 64),
        default=4,
        help="at most so many tiles of each class and slide (%(default)s)",
    )
    add_seed(add, "of k-means")
    add("--out", type=output_file, default="samples/palette.safetensors", help="a picture goes beside it (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.cohort and bool(args.annotations) == (args.clusters is not None):
        found = "both found" if args.annotations else "neither found"
        raise UserError(f"--annotations, --clusters: {found} beside --cohort; give one: where classes are known from")
    if not args.cohort and (args.annotations or args.clusters is not None):
        option = "--annotations" if args.annotations else "--clusters"
        raise UserError(f"{option}: found without --cohort, expected both; give the folder of prepared slides")
    if args.out.suffix != ".safetensors":
        raise UserError(f"--out: {args.out} found, expected a name that ends with .safetensors")
    from ldm.commands.palette import run

    run(args)
