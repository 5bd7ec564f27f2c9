"""Sample one image too large for the network: see ldm/cli/joint.py."""

from ldm.cli.joint import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
