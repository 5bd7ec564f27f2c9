"""Draw demo slides: procedural images in the formats of real ones (ldm/demo/world.py), and a picture of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.support.arguments import Parser, output_folder, positive_int, seed_int

KINDS = ("histology", "neighbours", "satellite")
"""of ldm.demo.world.KINDS, known here without importing it"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="zoomldm draw", description="Draw demo slides or satellite scenes; OUT.png shows them.")
    add = parser.add_argument
    add("--out", type=output_folder, default="data/demo/slides", help="folder (%(default)s)")
    add("--count", type=positive_int, default=4, help="number of slides or scenes (%(default)s)")
    add("--seed", type=seed_int, default=0, help="of the first one; the next ones count on from it (%(default)s)")
    add(
        "--kind",
        choices=KINDS,
        default=KINDS[0],
        help="neighbours: nests and follicles beside each other or apart (%(default)s)",
    )
    add("--size", type=positive_int, default=4096, help="pixels per side (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from ldm.demo.world import generate, overview

    paths = generate(args.out, args.count, args.seed, args.kind, args.size)
    named = args.out if args.out.name.strip(".") else args.out.resolve()
    picture = Path(f"{named}.png")  # beside the folder: every image in it is a slide to `zoomldm prepare`
    overview(paths[:6], args.kind, picture)
    what = "satellite scene" if args.kind == "satellite" else f"{args.kind} slide"
    print(f"{len(paths)} {what}{'s' * (len(paths) > 1)} in {args.out}, shown in {picture}")
