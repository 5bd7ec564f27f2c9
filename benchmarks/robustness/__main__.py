"""Robustness table: damaged files, kills, full disks, odd slides, hostile inputs.

    python -m benchmarks.robustness [R1 R2 ...] --out benchmarks/robustness.md

Each row is a scenario of this package at its full count; other rows keep the results of earlier calls.
"""

import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from benchmarks.hardware import hardware
from ldm.errors import cli
from ldm.support.arguments import Parser, output_file
from ldm.support.files import write_text


class Figure(NamedTuple):
    """One row: a module of this package, its number of trials, the expected result."""

    module: str
    trials: int
    test: str
    wanted: str


FIGURES = {
    "R1": Figure("odd_slides", 44, "odd slides mixed with five good ones", "44 of 44 as labelled"),
    "R2": Figure("kills", 50, "preparation killed at a random point, run again", "50 of 50 byte-equal"),
    "R3": Figure(
        "resume",
        20,
        "killed while saving; at a random step, before the first checkpoint, after the last, and resumed",
        "all loadable, all bit-equal",
    ),
    "R4": Figure(
        "disk", 4, "disk full while preparing, training, sampling, exporting", "old data intact, resume equal"
    ),
    "R5": Figure("flips", 300, "one flipped bit in each kind of file that is read", "0 silent"),
    "R6": Figure("hostile", 200, "hostile checkpoints, configs, slides, ids", "0 executed or escaped"),
    "R7": Figure("invariance", 4, "slides prepared with batches of 1/7/32, workers 0/4", "byte-equal"),
    "R8": Figure("two_processes", 50, "two gloo processes against one with the same batch", "50 losses within 1e-6"),
    "R9": Figure(
        "leaks",
        500,
        "memory and open files while sampling and reading, after as many repetitions to warm up",
        "under 1 MB per 100, no more open files",
    ),
    "R10": Figure("command_lines", 3000, "command lines and overrides drawn from typed grammars", "0 wrong"),
    "R11": Figure("edits", 600, "an edit of a run's config or weights, or of a bag's settings", "0 silent"),
    "R13": Figure("stale", 45, "one thing that a kept result depends on is changed", "0 silent"),
}
HEADER = ["| figure | test | wanted | found | hardware | command |", "|---|---|---|---|---|---|"]


def row(name: str) -> str:
    """Run one scenario; its line of the table."""
    figure = FIGURES[name]
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        found = import_module(f"benchmarks.robustness.{figure.module}").measure(Path(folder), figure.trials)
    cells = [name, figure.test, figure.wanted, found, hardware(), f"`python -m benchmarks.robustness {name}`"]
    return f"| {' | '.join(cells)} |"


def rows(table: Path) -> dict[str, str]:
    """The existing rows of a table, by figure."""
    lines = table.read_text().splitlines() if table.is_file() else []
    return {name: line for line in lines for name in FIGURES if line.startswith(f"| {name} |")}


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Count what must never happen.")
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], metavar="R1", help="(default: all)")
    parser.add_argument("--out", type=output_file, default="benchmarks/robustness.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    for name in args.figures or FIGURES:
        line = row(name)
        print(line, flush=True)
        known = rows(args.out) | {name: line}  # another call may have filled rows in the meantime
        write_text(args.out, "\n".join(HEADER + [known[name] for name in FIGURES if name in known]) + "\n")
    print(args.out)


if __name__ == "__main__":
    cli(main)
