"""Train one system: run folder, data, trainer, final weights."""

import argparse
import logging
import os
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import load_metadata, load_weights, save_weights
from ldm.commands.dry_run import dry_run
from ldm.commands.train_start import (
    WEIGHTS_KEYS,
    check_steps,
    choose_precision,
    open_trainer,
    prepare_when_absent,
    split_when_absent,
)
from ldm.config.objects import load_config
from ldm.config.run_config import SETTINGS, load_run_config, model_settings, save_config
from ldm.config.training_config import check_config
from ldm.data.datamodule import CohortData
from ldm.errors import UserError
from ldm.hub import check_there
from ldm.support.files import check_destination, remove_leftovers, report_disk_full
from ldm.support.finite import not_finite
from ldm.support.lock import owned
from ldm.support.machines import check_machines
from ldm.support.precision import allow_tf32
from ldm.support.typed import typed
from ldm.training.callbacks import Averaging, Best, DivergedError, Pictures, Progress, Watch
from ldm.training.checkpoints import Checkpoints, LastValidation, WholeCheckpoints, checkpoints, newest_checkpoint
from ldm.training.loggers import logger_names, open_loggers
from ldm.training.stopping import Stopped, StopSignals
from ldm.training.systems import Run, open_data, open_run

DIVERGED = 1


def run(args: argparse.Namespace) -> int:
    """Train what the command line says; returns the exit status. UserError for input that does not fit."""
    if args.resume and not (args.resume / "config.yaml").is_file():
        raise UserError(f"--resume: {args.resume} holds no config.yaml: no run began there; begin one with --base")
    config = load_run_config(args.resume, args.overrides) if args.resume else load_config(args.base, args.overrides)
    check_config(config)
    quiet()
    pl.seed_everything(config.get("seed", 0), verbose=False)
    allow_tf32(True)
    training = config.training
    logger_names(training.get("logger"))
    if args.dry_run:
        check_destination(args.resume or config.run or "runs", folder=True)
        if not args.resume and config.run:
            check_new(Path(config.run))
        dry_run(config, args.resume)
        return 0
    check_machines(training.accelerator, training.devices, training.nodes)
    folder = args.resume or run_folder(config, args.base[0])
    check_destination(folder, folder=True)
    with StopSignals() as signals:
        try:
            with owned(folder, "wait for it, end it, or choose another folder") if is_first() else nullcontext():
                return begin(config, folder, args.resume is not None, signals)
        except Stopped as stop:
            if not is_first():
                return 0  # its status is not asked for
            began = (folder / "config.yaml").exists()
            remedy = f"continue with: {typed('train')} --resume {folder}" if began else "the same command begins again"
            print(f"stopped; {remedy}")
            return stop.status


def is_first() -> bool:
    """Whether this is the first process of a run, by the environment variables that launchers set."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def begin(config: DictConfig, folder: Path, resumed: bool, signals: StopSignals) -> int:
    """Build the run, prepare its data, train; returns the exit status."""
    for key in WEIGHTS_KEYS:
        check_there(OmegaConf.select(config, key), key)
    run = open_run(config)
    choose_precision(config)
    prepare_when_absent(config)
    split_when_absent(config)
    checkpoint = newest_checkpoint(folder / "checkpoints") if resumed else None
    check_steps(run, folder, checkpoint)
    return train(run, folder, checkpoint, signals)


def quiet() -> None:
    """Silence Lightning's notices; errors stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.tensorboard")


def run_folder(config: DictConfig, base: str) -> Path:
    """A new folder for this run, the same for all processes that Lightning starts from this one."""
    name = config.run or os.environ.get("ZOOMLDM_RUN") or f"runs/{Path(base).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    first = "ZOOMLDM_RUN" not in os.environ and is_first()
    os.environ["ZOOMLDM_RUN"] = name
    if first:
        check_new(Path(name))
    return Path(name)


def check_new(folder: Path) -> None:
    """UserError where a run began in `folder`."""
    if (folder / "config.yaml").exists():
        raise UserError(
            f"run: {folder} exists; continue it with --resume {folder}, or choose another folder with run=FOLDER"
        )
    if any(folder.glob("checkpoints/*")):
        raise UserError(f"run: {folder} holds checkpoints but no config.yaml to continue them; choose another folder")


def train(run: Run, folder: Path, checkpoint: Path | None, signals: StopSignals) -> int:
    """Fit `run`, write its weights; returns the exit status."""
    config, settings = run.config, run.config.training
    signals.listen(signal.SIGINT)
    data = open_data(config)
    run.attach(data)
    saver = Checkpoints(folder / "checkpoints", settings.checkpoint_every, signals)
    kept = folder / "checkpoints" / "best.safetensors"
    best = Best(lambda step: save_weights(kept, run.weights(data), {"step": str(step)}))
    averaging = Averaging(settings.ema)
    averaged: list[pl.Callback] = [Pictures(folder / "samples", lambda path: run.draw(path, data)), averaging]
    if settings.get("keep") == "best":
        averaged.insert(0, best)
    start = checkpoint.stem if checkpoint else "step=00000000"  # so that the logger keeps the rows of earlier starts
    trainer = trainer_of(run, folder, averaged, saver, start)
    if trainer.is_global_zero:
        remove_leftovers(folder)
        save_config(folder, run.config)
    try:
        with report_disk_full(folder):
            trainer.fit(run.system, data, ckpt_path=checkpoint, weights_only=True)
            if saver.saved is None:  # all steps are done: only what Lightning does after the last step remains
                if settings.max_steps % settings.validate_every == 0:
                    trainer.validate(run.system, data, verbose=False)
                averaging.put_average(run.system)
        return finish(run, folder, trainer, data, kept if best.step else None, best.step)
    except DivergedError as error:
        if not trainer.is_global_zero:
            return 0  # its status is not asked for
        print(f"error: {diverged(error, folder)}", file=sys.stderr)
        return DIVERGED


def finish(run: Run, folder: Path, trainer: pl.Trainer, data: CohortData, kept: Path | None, step: int) -> int:
    """Write the weights: the averaged ones or, where the best were `kept` at `step`, those."""
    if not trainer.is_global_zero:
        return 0
    weights = load_weights(kept) if kept else run.weights(data)
    if kept and (found := int(load_metadata(kept)["step"])) != step:
        print(f"{kept} is of step {found}, found lower before the run was stopped; it is kept", file=sys.stderr)
        step = found
    if wrong := not_finite(weights):
        raise DivergedError(f"not finite at the end: {wrong}")
    step = step or trainer.global_step
    metadata = {"system": run.config.system, "step": str(step), SETTINGS: model_settings(run.config)}
    save_weights(folder / "weights.safetensors", weights, metadata)
    print(f"weights: {folder / 'weights.safetensors'}")
    if pictures := sorted((folder / "samples").glob("*.png")):
        print(f"picture: {pictures[-1]}")
    return 0


def diverged(error: DivergedError, folder: Path) -> str:
    """One line: what is not finite, which checkpoint is left, and the remedy."""
    left = next(iter(checkpoints(folder / "checkpoints")), None)
    kept = f"the last checkpoint before it is {left}" if left else "nothing had been saved before"
    return (
        f"training: {error}; no weights were written, {kept}; continue with {typed('train')} --resume {folder} "
        "training.clip=1 or, if it diverges again, start again with a lower training.optimizer.lr"
    )


def trainer_of(run: Run, folder: Path, averaged: list[pl.Callback], saver: Checkpoints, start: str) -> pl.Trainer:
    settings = run.config.training
    progress = Progress(max(1, settings.validate_every // 10), run.images_per_step() // run.optimizer_steps)
    last = LastValidation(settings.validate_every * run.optimizer_steps)
    return open_trainer(
        run,
        logger=open_loggers(logger_names(settings.get("logger")), folder, start),
        callbacks=[Watch(), *averaged, progress, saver, last],
        plugins=[WholeCheckpoints()],
    )
