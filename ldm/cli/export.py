"""Write a model's U-Net and autoencoder in the layout of another package.

    --to diffusers    FOLDER/unet, a UNet2DConditionModel, and FOLDER/vqvae, a VQModel, whose outputs equal ours

The contexts (65 tokens) that the U-Net attends to come from the Summarizer or the CDM, which are not exported.
"""

import argparse
from collections.abc import Sequence

from ldm.cli.options import add_model
from ldm.support.arguments import Parser, output_folder


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="zoomldm export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser.add_argument)
    parser.add_argument("--to", choices=("diffusers",), required=True, help="target package")
    parser.add_argument("--out", type=output_folder, required=True, metavar="FOLDER", help="where to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from ldm.commands.export import run

    run(args)
