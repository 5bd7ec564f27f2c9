"""Numbers on command lines: argparse types that refuse what has no meaning, before any work.

    add("--steps", type=positive_int)
    add("--guidance", type=non_negative)

argparse names the option and ends with status 2. Nothing is rounded, and neither nan nor an infinity passes.
"""

import argparse
import math
from collections.abc import Callable

LARGEST_SEED = 2**32 - 1


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of whole numbers from `least` to `most`, both included."""
    expected = f"expected a whole number from {least} to {most}" if most is not None else f"expected {least} or more"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number; {expected}") from error
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
            raise argparse.ArgumentTypeError(f"{text!r} is no number; {expected}") from error
        if not math.isfinite(value) or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value}; {expected}")
        return value

    return read


positive_int, non_negative_int = integer(1), integer(0)
non_negative, fraction = real(0), real(0, 1)
seed_int = integer(0, LARGEST_SEED)
"""of a generator; the largest that torch, NumPy and Lightning all take"""
