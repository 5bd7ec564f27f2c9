"""Put finished runs into the package: weights in half precision, and the config that made them.

    python scripts/bundle_demo.py runs/VQ runs/ZOOMLDM runs/CDM runs/CONTROL

The kind of a run's ladder decides which model it becomes a part of, demo or satellite, and its system which folder it
replaces; a student becomes demo-fast. An autoencoder with the same latents as the bundled ZoomLDM's also replaces the
autoencoder there, so that a decoder can be trained further on its own.
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
