"""Requirements of a training run: memory, disk for its checkpoints, a matching cohort."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

from ldm.doctor.environment import GB
from ldm.doctor.finding import Finding, fail, ok, warn
from ldm.support.machines import available_memory
from ldm.support.typed import typed
from ldm.training.checkpoints import KEPT
from ldm.training.memory import parameter_count
from ldm.training.systems import Run, open_data, open_run

CHECKPOINT_BYTES = 4 + 8 + 4
"""per trained parameter, float32: weight, two Adam moments, average"""


def needs(config: DictConfig) -> Iterator[Finding]:
    """Check memory, disk and data for the run that `config` describes."""
    run = open_run(config)
    parameters = parameter_count(run.networks().values())
    yield ok(f"config: builds, {parameters:,} trained parameters, {run.images_per_step()} images a step")
    yield memory(run)
    yield disk(parameters, Path(config.run or "runs"))
    yield from data(run)


def memory(run: Run) -> Finding:
    """Compare the memory of one process with that of its device."""
    state, kept = run.memory()
    told = f"memory: about {(state + kept) / GB:.1f} GB a process, {kept / GB:.1f} of them for activations"
    accelerator = run.config.training.accelerator
    if accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        return fail(
            f"training.accelerator: {accelerator}, but torch finds no GPU ({told}); "
            f"see {typed('doctor')} without arguments"
        )
    on_gpu = accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else available_memory()
    place = "GPU" if on_gpu else "this machine"
    if state + kept < free:
        return ok(f"{told}; {place} has {free / GB:.1f} free")
    return fail(f"{told}, but {place} has {free / GB:.1f} free; lower data.batch_size and raise training.accumulate")


def disk(parameters: int, folder: Path) -> Finding:
    """Disk space for the kept checkpoints, the one being written, and the weights."""
    takes = parameters * (CHECKPOINT_BYTES * (KEPT + 1) + 4)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    told = f"disk: checkpoints and weights take {takes / GB:.1f} GB; {folder.resolve()} has {free / GB:.1f} free"
    return ok(told) if takes < free else fail(f"{told}; make room, or choose another folder with run=FOLDER")


def data(run: Run) -> Iterator[Finding]:
    """Check the cohort that the config names."""
    folder = Path(run.config.data.cohort)
    if not folder.is_dir() or not any(folder.rglob("*.h5")):
        preparation = run.config.data.get("prepare")
        remedy = f"{typed('train')} makes it with {preparation}" if preparation else f"make it with {typed('prepare')}"
        yield warn(f"data.cohort: {folder} holds no prepared slide yet; {remedy}")
        return
    cohort = open_data(run.config)
    run.attach(cohort)
    regions = sum(cohort.training.count(scale) for scale in cohort.training.scales)
    steps = regions / run.images_per_step()
    yield ok(f"data.cohort: {folder} fits; {regions:,} regions to train on, {steps:,.1f} steps an epoch")
