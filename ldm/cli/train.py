"""Train one system - VQ-f4 autoencoder, ZoomLDM, or CDM - from YAML.

    python main.py --base configs/zoomldm_brca.yaml [more.yaml] [key=value ...]
    python main.py --resume runs/NAME [key=value ...]

Writes a run folder: config.yaml (resolved), checkpoints/, logs, samples/ and, at the end, weights.safetensors (EMA).
--resume continues from the newest checkpoint, or from the first step when none was saved yet. Once a run has a
config.yaml, --resume always works and --base is refused.

SIGTERM, SIGUSR1 and Ctrl-C save at the end of the step; Ctrl-C again stops at once. Exit status: 0 done; 1 the loss or
the weights became NaN or infinite, and no weights were written; 2 a mistake in the input; 75 stopped by a scheduler's
signal, 130 by Ctrl-C, to be resumed.
"""

import argparse
from pathlib import Path

from ldm.errors import UserError
from ldm.support.arguments import Parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "train",
        description="Train the VQ-f4 autoencoder, the ZoomLDM or the CDM.",
        example="--base configs/demo/zoomldm.yaml training.max_steps=200",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config",
        "--base",
        dest="base",
        nargs="+",
        metavar="YAML",
        help="files, or names of bundled ones (brca, naip, demo), later ones win; then key=value overrides",
    )
    source.add_argument(
        "--resume", type=Path, metavar="RUN", help="run folder to continue from its newest whole checkpoint"
    )
    parser.add_argument("--dry-run", action="store_true", help="build everything, print sizes and memory, and exit")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that win over the files")
    args = parser.parse_args(argv)
    if args.base:  # "--base a.yaml key=value": the option is greedy
        args.overrides = [item for item in args.base if "=" in item] + args.overrides
        args.base = [item for item in args.base if "=" not in item]
        if not args.base:
            raise UserError("--config: no config among the arguments; name a file or a bundled one, for example demo")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from ldm.commands.train import run

    return run(args)
