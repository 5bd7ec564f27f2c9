"""The whole pipeline at toy size, in the current folder: ten minutes on two laptop cores, no GPU, no download.

Samples patches from the bundled model, draws and prepares demo slides, trains a small model of all scales on them and
samples it. Prepared slides of an earlier call are kept.
"""

import argparse
import shlex
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from data_prep.prepare import main as prepare
from ldm.cli.sample import main as sample
from ldm.cli.train import main as train
from ldm.support.arguments import Parser


class DemoStage(NamedTuple):
    """One command of the demo and its duration on two laptop cores."""

    about: str
    takes: str
    command: str
    main: Callable[[list[str]], int | None]
    arguments: list[str]


def stages(run: str) -> list[DemoStage]:
    """The commands, in order; the trained model goes to the folder `run`."""
    slide = "data/demo/cohort/histology_100.h5"
    return [
        DemoStage("the bundled model's patches, real ones beside them", "20 s", "sample", sample, []),
        DemoStage("draws 12 demo slides and prepares them", "2 min", "prepare", prepare, ["--config", "demo"]),
        DemoStage("trains a small model of all scales", "4 min", "train", train, ["--config", "demo", f"run={run}"]),
        DemoStage(
            "its patches", "20 s", "sample", sample, ["--model", run, "--from", slide, "--out", f"{run}/samples"]
        ),
    ]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    about = "The whole pipeline at toy size, in the current folder: sample, prepare, train, sample again."
    parser = Parser(prog="zoomldm demo", description=about)
    parser.add_argument("--dry-run", action="store_true", help="print the stages and what each takes, and exit")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the first stage that fails, else 0."""
    args = parse_args(argv)
    print("Durations are those on two laptop cores. Prepared slides of an earlier call are kept.", flush=True)
    planned = stages(f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    for number, stage in enumerate(planned, 1):
        print(f"{number}/{len(planned)}  {stage.about}: about {stage.takes}")
        print(f"     zoomldm {stage.command} {shlex.join(stage.arguments)}".rstrip(), flush=True)
        if not args.dry_run and (status := stage.main(stage.arguments)):
            return status
    return 0
