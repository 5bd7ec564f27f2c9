"""Sample patches at every scale: see ldm/cli/sample.py."""

from ldm.cli.sample import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
