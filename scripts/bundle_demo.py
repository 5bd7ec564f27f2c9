"""Put finished runs into the package as the demo model: see ldm/cli/bundle.py."""

from ldm.cli.bundle import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
