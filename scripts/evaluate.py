"""Measure a model: patches of every scale, large images, super-resolution, memorisation: see ldm/cli/evaluate.py."""

from ldm.cli.evaluate import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
