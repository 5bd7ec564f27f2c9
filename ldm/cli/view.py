"""Look at slides, scenes, pictures and results in a browser: a local page, or a folder that opens from disk."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.support.arguments import Parser, integer, output_folder


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="zoomldm view",
        description="Look at slides, scenes, pictures, prepared slides and results in a browser.",
        epilog="example: zoomldm view samples/joint slides/a.svs data/mine/a.h5",
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="FILE|FOLDER", help="what to show; of folders, all that they hold")
    add("--port", type=integer(1024, 65535), help="of the page on 127.0.0.1 (default: 8420, or a free one)")
    add("--export", type=output_folder, metavar="FOLDER", help="write the page there instead; it opens from disk")
    args = parser.parse_args(argv)
    if args.export is not None and args.port is not None:
        parser.error("argument --port: is of the page that is served, not of one to --export; leave one out")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    from ldm.commands.view import run

    return run(args)
