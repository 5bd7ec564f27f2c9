"""Put finished runs into the package as the demo model: weights in half precision, and the config that made them.

    python scripts/bundle_demo.py runs/VQ runs/ZOOMLDM runs/CDM runs/CONTROL

A run's system decides which bundled folder it replaces. An autoencoder with the same latents as the bundled ZoomLDM's
also replaces the autoencoder there, so a decoder can be trained further on its own.
"""

import argparse
from pathlib import Path

from ldm.support.arguments import Parser


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    args = parser.parse_args(argv)
    from ldm.commands.bundle import run

    run(args)
