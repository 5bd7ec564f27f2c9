"""R8: two processes that share a batch train as one process that has all of it.

The processes exchange gradients through gloo, on the CPU. The runs are of the demo config at toy size, started as
main.py is started, but every step's loss is logged.

    python -m benchmarks.robustness.two_processes --base YAML [key=value ...]      one such run
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl

from benchmarks.fixtures import training_cohort
from benchmarks.fixtures.training_cohort import losses
from benchmarks.robustness.flips import DEMO
from ldm.cli.train import main
from ldm.errors import cli

ROOT = Path(__file__).parents[2]
TOLERANCE, PATIENCE_S = 1e-6, 600
ALONE = ("data.batch_size=4", "training.devices=1")
SHARED = ("data.batch_size=2", "training.devices=2", "training.strategy=ddp")


class EveryStep(pl.Trainer):
    """A Trainer that logs the loss of every step."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "log_every_n_steps": 1})


def train(run: Path, overrides: list[str], steps: int) -> dict[int, float]:
    """The loss of each of `steps` steps of a new run, trained in processes of its own."""
    lengths = [f"training.{key}={steps}" for key in ("max_steps", "validate_every", "checkpoint_every")]
    command = [sys.executable, "-m", __name__, "--base", str(DEMO), f"run={run}", *overrides, *lengths]
    environment = {key: value for key, value in os.environ.items() if key != "ZOOMLDM_RUN"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    return losses(run)


def differences(folder: Path, steps: int) -> list[float]:
    """Relative difference of the loss of each step that both runs have."""
    overrides = [*training_cohort.make(folder / "cohort"), "training.accelerator=cpu"]
    alone = train(folder / "alone", [*overrides, *ALONE], steps)
    shared = train(folder / "shared", [*overrides, *SHARED], steps)
    return [abs(shared[step] - alone[step]) / alone[step] for step in sorted(alone.keys() & shared.keys())]


def measure(folder: Path, count: int) -> str:
    """`count` steps by one process with a batch of 4, and by two with 2 each."""
    found = differences(folder, count)
    equal = sum(difference <= TOLERANCE for difference in found)
    return f"{equal} of {count} losses within {TOLERANCE:.0e} relative, at most {max(found):.1e} apart"


if __name__ == "__main__":
    with mock.patch.object(pl, "Trainer", EveryStep):
        cli(main)
