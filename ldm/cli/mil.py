"""Slide labels from bags of tile features: gated-attention MIL, cross-validated by patient (paper, Table 4).

Without arguments: draws and prepares demo slides, extracts the bundled model's features and learns whether
lymphoid follicles lie beside tumour nests, which no tile of 20x shows: from single scales, from fused scales, from the
encoder's embeddings and with shuffled labels.
Running the same command again continues an interrupted one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options import add_model, add_seed
from ldm.errors import UserError
from ldm.support.arguments import Parser, non_negative_int, output_folder, positive_int, whole_numbers


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "mil",
        description="Learn slide labels from bags of tile features; without arguments, on demo slides.",
        example="--features features/denoiser-20x+5x --labels labels.csv",
    )
    add = parser.add_argument
    add("--features", type=Path, nargs="+", metavar="FOLDER", help="folders of bags (.h5), one row of the table each")
    add("--labels", metavar="CSV", help="columns slide, label (two kinds) and, optionally, patient")
    add("--cohort", type=Path, metavar="FOLDER", help="prepared slides, for pictures of the attention")
    add_model(add)
    add("--folds", default="10,5", help="numbers of folds, one column of the table each (%(default)s)")
    add("--repeats", type=positive_int, default=5, help="splits into folds that are averaged (%(default)s)")
    add(
        "--shuffles",
        type=non_negative_int,
        default=5,
        help="times that labels are shuffled to compare (%(default)s)",
    )
    add_seed(add)
    add(
        "--out",
        type=output_folder,
        help="folder of table and pictures (default: samples/mil, with --features a folder of their own in it)",
    )
    return parser.parse_args(argv)


def splits_of(text: str) -> list[int]:
    """Numbers of folds, separated by commas. UserError for anything else, and for fewer than three folds."""
    numbers = whole_numbers(text, ",")
    if numbers is None or min(numbers) < 3:
        raise UserError(f"--folds: {text[:80]}; expected numbers of 3 or more, for example 10,5")
    return numbers


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    args.splits = splits_of(args.folds)
    from ldm.commands.mil import run

    run(args)
