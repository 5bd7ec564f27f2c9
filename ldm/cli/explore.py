"""A slide without end, computed while it is looked at in a browser."""

import argparse
from collections.abc import Sequence

from ldm.cli.options import add_cdm, add_device, add_model, add_preview, add_seed
from ldm.errors import UserError
from ldm.support.arguments import Parser, integer, output_file, positive_int

LARGEST_SIDE = 2**19
"""of a region in pixels, as of all images that are read"""
FARTHEST = 10**12
"""pixels between the start and a region"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="zoomldm explore",
        description="Look at a slide that never ends, computed as you look, or write a region of it.",
        epilog="example: zoomldm explore --seed 7",
    )
    add = parser.add_argument
    add_model(add)
    add_cdm(add)
    add_preview(add)
    add_device(add)
    add_seed(add, "of the whole slide")
    add("--threads", type=positive_int, help="parts of an image at a time on a processor (default: one per core)")
    add("--port", type=integer(1024, 65535), help="of the page on 127.0.0.1 (default: 8421, or a free one)")
    add("--export", type=output_file, metavar="FILE.tiff", help="write --region as pyramidal TIFF, without a page")
    add(
        "--region",
        metavar="X,Y,WxH",
        help="of --export: first column and row and the size, in pixels of the finest scale",
    )
    args = parser.parse_args(argv)
    if (args.export is None) != (args.region is None):
        parser.error("argument --export: goes together with --region; give both, or neither for the page")
    if args.export is not None and args.port is not None:
        parser.error("argument --port: is of the page that is served, not of --export; leave one out")
    if args.export is not None and args.export.suffix.lower() not in (".tif", ".tiff"):
        parser.error(f"argument --export: {str(args.export)[:80]}; expected a name that ends in .tiff")
    return args


def region_of(text: str) -> tuple[int, int, int, int]:
    """(x, y, width, height) of "X,Y,WxH". UserError for anything else."""
    try:
        x, y, size = text.lower().split(",")
        width, height = map(int, size.split("x"))
        region = int(x), int(y), width, height
    except ValueError:
        region = 0, 0, 0, 0
    if min(region[2:]) < 1:
        raise UserError(f"--region: {text[:80]}; expected X,Y,WxH in pixels, for example --region=-1024,0,4096x2048")
    if max(map(abs, region[:2])) >= FARTHEST:
        raise UserError(f"--region: {text[:80]}; expected a column and a row nearer than {FARTHEST:,} px to the start")
    if max(region[2:]) > LARGEST_SIDE:
        raise UserError(f"--region: {text[:80]}; expected at most {LARGEST_SIDE} px a side; write several smaller ones")
    return region


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    args.area = None if args.region is None else region_of(args.region)
    from ldm.commands.explore import run

    run(args)
