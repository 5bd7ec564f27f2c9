"""`train --dry-run`: what a run is made of and what it takes, and every check that its start would make.

What contradicts itself ends it with status 2, as the start would. What this machine or disk lacks - a GPU, weights that
are elsewhere - is told in a line that begins with "not here", since a run is often planned on another machine.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig, OmegaConf

from data_prep.report.outcomes import waiting
from ldm.commands.train_start import (
    WEIGHTS_KEYS,
    check_preparation,
    check_steps,
    choose_precision,
    open_trainer,
    own_preparation,
    prepared,
    write_first_split,
)
from ldm.data.datamodule import CohortData
from ldm.data.split_file import NAME
from ldm.errors import UserError
from ldm.hub import check_there
from ldm.support.machines import check_machines
from ldm.support.typed import typed
from ldm.training.base import data_arguments
from ldm.training.checkpoints import newest_checkpoint
from ldm.training.memory import parameter_count
from ldm.training.systems import Run, open_run


def dry_run(config: DictConfig, resumed: Path | None) -> None:
    """Print parameters, memory, steps per epoch and what is not here. UserError as the start of the run would raise."""
    with torch.device("meta"):  # sizes need no numbers
        run = open_run(config)
        choose_precision(config)
        sizes(run)
    if resumed:
        check_steps(run, resumed, newest_checkpoint(resumed / "checkpoints"))
    machines, weights = list(absent_machines(run)), list(absent_weights(config))
    for told in machines + weights:
        print(f"not here     {told}")
    if not machines:
        open_trainer(run)
    cohort(run, with_weights=not weights)


def sizes(run: Run) -> None:
    """Print parameters, memory and images a step."""
    training = run.config.training
    for name, network in run.networks().items():
        print(f"{name:12} {parameter_count([network]):>13,} parameters")
    state, kept = run.memory()
    print(f"memory       {state / 2**30:.1f} GiB of weights, gradients, moments and average per process")
    print(f"             about {kept / 2**30:.1f} GiB of activations for {run.config.data.batch_size} images")
    print(f"batch        {run.images_per_step()} images a step, {training.max_steps:,} steps")


def absent_machines(run: Run) -> Iterator[str]:
    """The devices that the run asks for and this machine does not have, in words."""
    training = run.config.training
    try:
        check_machines(training.accelerator, training.devices, training.nodes)
    except UserError as error:
        yield f"training.{error}"


def absent_weights(config: DictConfig) -> Iterator[str]:
    """The networks that the run begins with and that are not on this disk, in words."""
    for key in WEIGHTS_KEYS:
        try:
            check_there(OmegaConf.select(config, key), key)
        except UserError as error:
            yield str(error)


def cohort(run: Run, with_weights: bool) -> None:
    """Check the cohort against the run, and with the networks that it begins with where they are here."""
    config = run.config
    folder = Path(config.data.cohort)
    preparation = own_preparation(config) if prepared(folder) else config.data.get("prepare")
    if preparation:
        check_preparation(config, preparation)
    if not prepared(folder):
        remedy = f"this training makes it first, with {preparation}" if preparation else f"{typed('prepare')} makes it"
        print(f"data         {folder} is not there yet; {remedy}")
        return
    if missing := waiting(folder):
        here = f"{len(missing)} slides of {folder} are not prepared yet"
        print(f"data         {here}; this training prepares them first, with {preparation}")
    with TemporaryDirectory() as scratch:
        split = config.data.get("split")
        if split is None and not (folder / NAME).exists():
            split = str(write_first_split(folder, Path(scratch) / NAME)[0])
        data = CohortData(**data_arguments(config) | {"split": split})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights are copied into networks that have no numbers
        if with_weights:
            run.attach(data)
        else:
            Run.attach(run, data)
    training = data.training
    regions = sum(training.count(scale) for scale in training.scales)
    steps = regions / run.images_per_step()
    print(f"data         {regions:,} regions, {len(training.slides)} slides: {steps:,.1f} steps per epoch")
