"""Command lines: a parser, and types that refuse invalid values in one line, before any work.

    parser = Parser("sample", description=..., example="--steps 20")
    add("--count", type=positive_int)
    add("--guidance", type=guidance)
    add("--out", type=output_folder, default="samples")

The message names the option; the status is 2. Values are not rounded; nan and infinities are refused. Defaults of
output paths are text, so that argparse checks them too.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ldm.errors import UserError, one_line
from ldm.support.files import check_destination
from ldm.support.typed import SCRIPTS, typed

LARGEST_SEED = 2**32 - 1
LARGEST = 10**9
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


RENAMED = {"--scale": "--scales", "--batch": "--batch-size", "--tile-batch": "--batch-size", "--base": "--config"}
"""former spellings of options -> their present name"""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text.

    `command`, a key of SCRIPTS, appears as the user typed it: in the usage, in `example` and in the description.
    """

    def __init__(self, command: str | None = None, example: str | None = None, **options: Any) -> None:
        if command is not None:
            options["prog"] = typed(command)
            options["epilog"] = f"example: {typed(command)} {example}" if example else None
            options["description"] = options["description"].replace(f"python {SCRIPTS[command]}", typed(command))
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        for item in args:
            if re.match(r"--?[\w-]+=-*$", item):  # argparse would treat "--seed=--" as a missing value
                self.error(f"argument {item.partition('=')[0]}: {item.partition('=')[2]!r} found, expected a value")
            old = item.partition("=")[0]
            if RENAMED.get(old) in self._option_string_actions and old not in self._option_string_actions:
                self.error(f"argument {old}: is called {RENAMED[old]} now, expected that name")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{one_line(f'error: {message}')}; {self.prog} --help lists what it takes\n")


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of whole numbers from `least` to `most`, both included."""
    expected = f"expected a whole number from {least} to {most}" if most is not None else f"expected {least} or more"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is no whole number; {expected}") from error
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{value}; {expected}")
        return value

    return read


def real(least: float, most: float = math.inf) -> Callable[[str], float]:
    """The type of finite numbers from `least` to `most`, both included."""
    expected = f"expected a number from {least:g} to {most:g}" if most < math.inf else f"expected {least:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is no number; {expected}") from error
        if not math.isfinite(value) or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value}; {expected}")
        return value

    return read


def whole_numbers(text: str, separator: str) -> list[int] | None:
    """The numbers in "1024x512" or "10,5"; None where there is anything but digits between separators."""
    numbers = text.split(separator)
    plain = all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers)
    return [int(number) for number in numbers] if plain else None


def interval(text: str) -> tuple[float, float]:
    """The type of LOW,HIGH, numbers with 0 <= LOW < HIGH."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} found, expected two numbers LOW,HIGH, as 0.3,3")
    low, high = (real(0)(part) for part in parts)
    if low >= high:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} found, expected the lower number first, as 0.3,3")
    return low, high


def names(text: str) -> list[str]:
    """The type of names separated by commas, as 20x,5x."""
    found = text.split(",")
    if not all(name and name == name.strip() for name in found):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} found, expected names separated by commas, as 20x,5x")
    if twice := next((name for number, name in enumerate(found) if name in found[:number]), None):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} holds {twice} twice, expected each name once, as 20x,5x")
    return found


def output_folder(text: str) -> Path:
    """The type of a folder to write to, new or not."""
    return _destination(text, True)


def output_file(text: str) -> Path:
    """The type of a file to write."""
    return _destination(text, False)


def _destination(text: str, folder: bool) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("no path found, expected one")
    try:
        check_destination(text, folder)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def device(text: str) -> str:
    """The type of a device of torch, or auto."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} found, expected auto, cpu, cuda, cuda:N or mps")
    return text


positive_int, non_negative_int = integer(1, LARGEST), integer(0, LARGEST)
fraction, guidance, correction = real(0, 1), real(0, 100), real(0, 100)
"""shares; and magnitudes far above any use, below those at which samples are no numbers any more"""
sampling_steps, timestep = integer(1, 1000), integer(0, 999)
"""of a schedule of 1000 timesteps; a sampler may allow fewer"""
seed_int = integer(0, LARGEST_SEED)
"""the largest seed that torch, NumPy and Lightning all accept"""
