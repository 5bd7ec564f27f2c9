"""Features of every tile of a cohort, as bags: see ldm/cli/features.py."""

from ldm.cli.features import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)
