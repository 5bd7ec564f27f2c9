"""Options that several commands have, each with one name, one type and one meaning."""

import argparse

from ldm.arguments import device
from ldm.precision import add_precision

MODEL = "demo (the default), a run folder or a published weights file"


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model: which weights."""
    parser.add_argument("--model", default="demo", help=MODEL)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --precision of a command that uses one device."""
    add_precision(parser.add_argument)
    parser.add_argument(
        "--device", type=device, default="auto", help="auto: cuda where there is a card, else cpu (%(default)s)"
    )
