"""Slide labels from bags of tile features: see ldm/cli/mil.py."""

from ldm.cli.mil import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
