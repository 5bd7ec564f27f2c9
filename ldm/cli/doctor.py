"""Check the environment, models, cohorts and training configs: one line per finding, with its remedy.

    python scripts/doctor.py                                        the environment, the bundled model and slide
    python scripts/doctor.py --cohort data/mine                     every checksum and value of a prepared cohort
    python scripts/doctor.py --model runs/NAME                      a run's checkpoints and weights, or a weights file
    python scripts/doctor.py --config brca                         memory, disk and data of a training run

Exit status: 0 no failure (warnings are allowed); 1 a failure; 2 wrong arguments.
"""

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from ldm.errors import UserError
from ldm.support.arguments import Parser
from ldm.support.typed import typed


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, metavar="FOLDER", help="folder of prepared slides; reads all of them")
    parser.add_argument("--model", metavar="demo | RUN | WEIGHTS | ORG/NAME", help="a model, as for the other commands")
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="YAML",
        help="files or bundled configs of a training run; then key=value",
    )
    args = parser.parse_args(argv)
    if args.cohort and not args.cohort.is_dir():
        raise UserError(f"--cohort: {args.cohort} is no folder; give one that {typed('prepare')} wrote")
    if args.config and all("=" in item for item in args.config):
        raise UserError("--config: no config among the arguments; name a file or a bundled one, for example demo")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        from ldm.commands.doctor import run
    except ImportError as error:
        told = f"{error.name} cannot be imported by {sys.executable}, Python {platform.python_version()}"
        sys.exit(f"FAIL  {told}; in an environment with Python 3.11 or later, pip install zoomldm, or -e .")
    return run(args)
