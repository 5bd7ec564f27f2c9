"""Enlarge images with a multi-scale model: see ldm/cli/superres.py."""

from ldm.cli.superres import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
