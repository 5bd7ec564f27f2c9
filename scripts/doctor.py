"""Look at everything that a run stands on: see ldm/cli/doctor.py."""

import sys

try:
    from ldm.cli.doctor import main
    from ldm.errors import cli
except ImportError as error:
    sys.exit(f"FAIL  {error.name} cannot be imported by {sys.executable}; with Python 3.11 or later, pip install -e .")

if __name__ == "__main__":
    cli(main)
