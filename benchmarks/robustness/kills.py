"""R2: data preparation is killed at a random moment, then the command is run again.

Half of the trials run all in one process, half with two readers; half kill the whole process group, half the first
process alone, whose readers must then end by themselves.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.robustness import prepared_cohort
from data_prep.preparation import prepare
from data_prep.preparation_config import PrepareConfig

ROOT = Path(__file__).parents[2]
SLIDES, SIDE = 4, 768
PATIENCE_S = 120.0


@dataclass
class Trial:
    """One kill and its repair, and what was wrong with it."""

    config: PrepareConfig
    group: bool
    """whether the whole process group is killed"""
    wrong: list[str]


def launch(config: PrepareConfig) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    given = ["--config", "configs/demo/data.yaml", *prepared_cohort.overrides(config)]
    command = [sys.executable, "data_prep/prepare.py", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


def wait_for_work(process: subprocess.Popen[bytes], out: str) -> None:
    """Until the first slide is claimed."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline and not list(Path(out).glob(".*.claim")):
        time.sleep(0.02)


def members(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def outliving(group: int) -> list[int]:
    """Processes that still run after a grace period."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := members(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def kill(trial: Trial, delay_s: float) -> bool:
    """Start the command and kill it `delay` seconds after its first claim; False when it was done before."""
    process = launch(trial.config)
    wait_for_work(process, trial.config.out)
    time.sleep(delay_s)
    if process.poll() is not None:
        return False
    if trial.group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
    if left := outliving(process.pid):
        trial.wrong.append(f"{len(left)} processes outlived their parent")
        os.killpg(process.pid, signal.SIGKILL)
    return True


def repair(trial: Trial, expected: dict[str, bytes]) -> None:
    """Check what the kill left, run the command again, and check the result."""
    out, workers = trial.config.out, max(1, trial.config.workers)
    there = prepared_cohort.contents(out)
    begun = [name for name in prepared_cohort.hidden(out) if name.endswith(".claim") and name[1:-6] not in there]
    trial.wrong += [f"{name} is not whole" for name, content in there.items() if expected[name] != content]
    if len(begun) > workers:
        trial.wrong.append(f"{len(begun)} slides were lost by {workers} workers")
    kept = sum(report.status == "kept" for report in prepare(prepared_cohort.variant(trial.config, workers=0)))
    if kept != len(there):
        trial.wrong.append(f"{kept} kept of {len(there)} that were there")
    trial.wrong += [f"{name} differs" for name in prepared_cohort.differing(prepared_cohort.contents(out), expected)]
    trial.wrong += [f"{name} is left" for name in prepared_cohort.hidden(out)]


def measure(folder: Path, count: int) -> str:
    """`count` kills."""
    base = prepared_cohort.make(folder, SLIDES, SIDE)
    prepare(prepared_cohort.variant(base, out=str(folder / "expected")))
    expected = prepared_cohort.contents(folder / "expected")
    rng = np.random.default_rng(2)
    lasts_s = [1.0, 1.0]  # seconds of the work, without and with readers; updated during the trials
    good = number = 0
    while number < count:
        readers = number % 2
        config = prepared_cohort.variant(base, out=str(folder / f"trial{number}"), workers=2 * readers)
        trial = Trial(config, group=number % 4 < 2, wrong=[])
        delay_s = rng.uniform(0, lasts_s[readers])
        hit = kill(trial, delay_s)
        lasts_s[readers] *= 1.1 if hit else 0.7
        repair(trial, expected)
        if not hit and not trial.wrong:
            continue  # it was done before the kill: choose another moment
        number += 1
        good += not trial.wrong
        print(f"kill {number}: {delay_s:.2f} s, {2 * readers} readers, {'; '.join(trial.wrong) or 'good'}", flush=True)
    return f"{good} of {count} byte-equal"
