"""Two commands side by side: the slowdown of sharing a machine's cores.

    python -m benchmarks.threads --out benchmarks/threads.md

Samples patches alone and twice at once, alternately, and compares the medians of wall-clock times. On two cores a
factor of at most 2 is expected; threads that spin while they wait make it 10 and more.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.hardware import hardware
from ldm.errors import UserError, cli
from ldm.support.arguments import Parser, output_file, positive_int
from ldm.support.files import write_text

ROOT = Path(__file__).parents[1]
COMMAND = [
    sys.executable,
    "scripts/sample_patches.py",
    "--scales",
    "20x,5x",
    "--precision",
    "fp32",
    "--device",
    "cpu",
]


def seconds(count: int) -> float:
    """Wall clock until `count` commands, started at once, have all ended."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        running = [
            subprocess.Popen(
                [*COMMAND, "--out", str(Path(folder) / str(i))],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for i in range(count)
        ]
        if any(process.wait() for process in running):
            raise UserError(f"{' '.join(COMMAND)}: failed; run it by itself to see why")
        return time.monotonic() - started


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="What two commands side by side cost each other.")
    parser.add_argument("--repeats", type=positive_int, default=3, help="medians of so many (%(default)s)")
    parser.add_argument("--out", type=output_file, default="benchmarks/threads.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    times = [(seconds(1), seconds(2)) for _ in range(args.repeats)]
    alone, both = (median(column) for column in zip(*times, strict=True))
    lines = [
        "| one command, s | two at once, s | ratio |",
        "|---|---|---|",
        f"| {alone:.1f} | {both:.1f} | {both / alone:.2f} |",
    ]
    print(lines[-1], flush=True)
    head = f"`python -m benchmarks.threads`: {hardware()}; medians of {args.repeats}, in turn.\n\n"
    write_text(args.out, head + "\n".join(lines) + "\n")
    print(args.out)


if __name__ == "__main__":
    cli(main)
