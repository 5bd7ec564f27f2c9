"""R3: a training run is killed while it saves a checkpoint, at a random step, before its first checkpoint or after its
last one, and resumed.

Processes are killed with SIGKILL, so they cannot clean up. The runs use the demo config at toy size.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.fixtures import training_cohort
from benchmarks.fixtures.training_cohort import losses
from benchmarks.robustness.flips import DEMO, digest
from benchmarks.robustness.forking import CONTEXT, start_server
from ldm.checkpoint import load_weights
from ldm.cli import train
from ldm.support.files import sha256

STEPS, EVERY = 40, 4
PATIENCE_S = 300.0


def _train(arguments: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        train.main(arguments)


def start(*arguments: str) -> BaseProcess:
    """main.py in a process of its own."""
    start_server()
    process = CONTEXT.Process(target=_train, args=(list(arguments),))
    process.start()
    return process


def finish(*arguments: str) -> bool:
    """Run main.py to its end; whether it succeeded."""
    process = start(*arguments)
    process.join(PATIENCE_S)
    process.kill()
    process.join()
    return process.exitcode == 0


def kill_when(process: BaseProcess, ready: Callable[[], object], after_s: float) -> None:
    """Kill `process` some time after `ready()`, or when it waits too long for that."""
    deadline = time.monotonic() + PATIENCE_S
    while process.is_alive() and not ready() and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(after_s)
    process.kill()
    process.join()


def killed_while_saving(folder: Path, overrides: list[str], count: int) -> Iterator[bool]:
    """Whether a run has a readable checkpoint, later than before, after each of its kills."""
    generator, run = random.Random(0), folder / "saves"
    arguments = ["--base", str(DEMO), f"run={run}", *overrides, "training.checkpoint_every=1"]
    assert finish(*arguments, "training.max_steps=2")
    step = 2
    for _ in range(count):
        process = start("--resume", str(run), "training.max_steps=1000000")
        fresh = f"step={step + 2:08d}"  # one save of this process is complete
        kill_when(process, partial(_saving, run, fresh), generator.random() * 0.01)
        newest = training_cohort.newest(run)
        content = torch.load(newest, weights_only=True)
        before, step = step, content["global_step"]
        yield before < step == int(newest.stem.removeprefix("step="))


def _saving(run: Path, after: str) -> bool:
    """Whether a checkpoint of step `after` or later is being written."""
    names = [path.name.lstrip(".") for path in (run / "checkpoints").glob(".step=*.partial")]
    return any(name >= after for name in names)


def arguments_of(overrides: list[str]) -> list[str]:
    lengths = {"max_steps": STEPS, "checkpoint_every": EVERY, "validate_every": STEPS // 2}
    return [*overrides, *(f"training.{key}={value}" for key, value in lengths.items())]


def undisturbed(folder: Path, overrides: list[str]) -> Path:
    """The uninterrupted run that the killed ones are compared with."""
    assert finish("--base", str(DEMO), f"run={folder}", *arguments_of(overrides))
    return folder


def killed_at_random(folder: Path, overrides: list[str], whole: Path, count: int) -> Iterator[bool]:
    """Whether each killed run ends as the uninterrupted one: losses, weights and files on the disk."""
    generator = random.Random(0)
    arguments = arguments_of(overrides)
    for number in range(count):
        run = folder / f"killed-{number}"
        process = start("--base", str(DEMO), f"run={run}", *arguments)
        step = EVERY * generator.randrange(1, STEPS // EVERY)
        sidecar = run / "checkpoints" / f"step={step:08d}.ckpt.sha256"
        kill_when(process, sidecar.exists, generator.random() * 0.1)
        yield not (run / "weights.safetensors").exists() and _same(run, whole)


def killed_before_the_first(folder: Path, overrides: list[str], whole: Path, count: int) -> Iterator[bool]:
    """The same of runs that are killed once they have begun and before they have saved anything."""
    generator = random.Random(1)
    late = [*arguments_of(overrides), f"training.checkpoint_every={STEPS}"]
    for number in range(count):
        run = folder / f"before-{number}"
        process = start("--base", str(DEMO), f"run={run}", *late)
        kill_when(process, (run / "config.yaml.sha256").exists, generator.random() * 0.5)
        yield not list((run / "checkpoints").glob("*.ckpt")) and _same(run, whole)


def killed_after_the_last(folder: Path, overrides: list[str], whole: Path, count: int) -> Iterator[bool]:
    """The same of runs that are killed once their last checkpoint is whole: validating, writing weights, or done."""
    generator = random.Random(2)
    for number in range(count):
        run = folder / f"after-{number}"
        process = start("--base", str(DEMO), f"run={run}", *arguments_of(overrides))
        last = run / "checkpoints" / f"step={STEPS:08d}.ckpt.sha256"
        kill_when(process, last.exists, generator.random() * 0.2)
        yield _same(run, whole, trains=False)


def _same(run: Path, whole: Path, trains: bool = True) -> bool:
    """Whether `run`, resumed, ends as `whole`; `trains`: it has steps left, whose losses it logs."""
    if not finish("--resume", str(run)):
        return False
    checkpoint, expected = (torch.load(training_cohort.newest(one), weights_only=True) for one in (run, whole))
    resumed = losses(run)
    return (
        (STEPS - 1 in resumed or not trains)
        and losses(whole).items() >= resumed.items()
        and all(digest(checkpoint[key]) == digest(expected[key]) for key in ("state_dict", "optimizer_states"))
        and sha256(run / "weights.safetensors") == sha256(whole / "weights.safetensors")
        and load_weights(run / "weights.safetensors").keys() == load_weights(whole / "weights.safetensors").keys()
        and not list(run.rglob("*.partial"))
    )


def measure(folder: Path, count: int) -> str:
    """Twice `count` kills while saving, `count` kills at random steps, as many before the first checkpoint and after
    the last one.
    """
    overrides = training_cohort.make(folder / "cohort")
    saves = sum(tqdm(killed_while_saving(folder, overrides, 2 * count), total=2 * count, desc="saves", unit="kill"))
    whole = undisturbed(folder / "whole", overrides)
    scenarios = (killed_at_random, killed_before_the_first, killed_after_the_last)
    kills = [killed for scenario in scenarios for killed in scenario(folder, overrides, whole, count)]
    return f"{saves} of {2 * count} loadable, {sum(kills)} of {len(kills)} bit-equal"
