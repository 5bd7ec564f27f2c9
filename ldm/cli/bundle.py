"""Put finished runs into the package as the demo model: weights in half precision, and the config that made them.

    python scripts/bundle_demo.py runs/VQ runs/ZOOMLDM runs/CDM runs/CONTROL

A run's system says which of the bundled folders it replaces. An autoencoder whose latents are those of the bundled
ZoomLDM's takes its place there too: a decoder can be trained on alone.
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
