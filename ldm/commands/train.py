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
import torch
from omegaconf import DictConfig

from data_prep.preparation_config import load_prepare_config
from data_prep.report.outcomes import waiting
from ldm.checkpoint import load_metadata, load_weights, save_weights
from ldm.config.objects import load_config
from ldm.config.run_config import SETTINGS, load_run_config, model_settings, save_config
from ldm.config.training_config import check_config
from ldm.data import split_file as splits
from ldm.data.cohort import open_cohort
from ldm.data.datamodule import CohortData
from ldm.data.dataset import Cohort
from ldm.errors import UserError
from ldm.hub import check_there
from ldm.support.files import check_destination, full_disk_told, remove_leftovers
from ldm.support.finite import not_finite
from ldm.support.lock import owned
from ldm.support.machines import check_machines, told_by_lightning
from ldm.support.precision import allow_tf32, announce, choose_training, device_of
from ldm.support.typed import typed
from ldm.training.callbacks import (
    Averaging,
    Best,
    Checkpoints,
    DivergedError,
    LastValidation,
    Pictures,
    Progress,
    Watch,
    WholeCheckpoints,
    checkpoints,
    newest_checkpoint,
    step_of,
)
from ldm.training.loggers import logger_names, open_loggers
from ldm.training.memory import parameter_count
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
    if args.dry_run:
        with torch.device("meta"):  # sizes can be computed on the meta device
            run = open_run(config)
            choose_precision(config)
            report(run)
        return 0
    training = config.training
    logger_names(training.get("logger"))
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
    for key in ("autoencoder", "zoomldm", "init"):
        check_there(config.get(key), key)
    run = open_run(config)
    choose_precision(config)
    prepare_when_absent(config)
    split_when_absent(config)
    checkpoint = newest_checkpoint(folder / "checkpoints") if resumed else None
    if checkpoint and step_of(checkpoint) > config.training.max_steps * run.optimizer_steps:
        last = step_of(checkpoint) // run.optimizer_steps
        raise UserError(f"training.max_steps: {config.training.max_steps}, but {folder} has trained {last} steps")
    return train(run, folder, checkpoint, signals)


def quiet() -> None:
    """Silence Lightning's notices; errors stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.tensorboard")


def choose_precision(config: DictConfig) -> None:
    """Resolve `training.precision: auto` for this device, once: a resumed run keeps its precision."""
    device = device_of(config.training.accelerator)
    config.training.precision = choose_training(config.training.precision, device)
    announce(config.training.precision, device)


def run_folder(config: DictConfig, base: str) -> Path:
    """A new folder for this run, the same for all processes that Lightning starts from this one."""
    name = config.run or os.environ.get("ZOOMLDM_RUN") or f"runs/{Path(base).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    first = "ZOOMLDM_RUN" not in os.environ and is_first()
    os.environ["ZOOMLDM_RUN"] = name
    if first and (Path(name) / "config.yaml").exists():
        raise UserError(
            f"run: {name} exists; continue it with --resume {name}, or choose another folder with run=FOLDER"
        )
    if first and any(Path(name).glob("checkpoints/*")):
        raise UserError(f"run: {name} holds checkpoints but no config.yaml to continue them; choose another folder")
    return Path(name)


def report(run: Run) -> None:
    """Print parameters, memory and steps per epoch."""
    training, data = run.config.training, run.config.data
    for name, network in run.networks().items():
        print(f"{name:12} {parameter_count([network]):>13,} parameters")
    state, kept = run.memory()
    print(f"memory       {state / 2**30:.1f} GiB of weights, gradients, moments and average per process")
    print(f"             about {kept / 2**30:.1f} GiB of activations for {data.batch_size} images")
    batch = run.images_per_step()
    print(f"batch        {batch} images a step, {training.max_steps:,} steps")
    if not prepared(data.cohort):
        print(f"data         {data.cohort} is not there yet; {typed('prepare')} makes it")
        return
    whole = data.get("split") is None and not (Path(data.cohort) / splits.NAME).exists()
    cohort = Cohort(open_cohort(data.cohort), data.get("scales")) if whole else open_data(run.config).training
    regions = sum(cohort.count(scale) for scale in cohort.scales)
    print(f"data         {regions:,} regions, {len(cohort.slides)} slides: {regions / batch:,.1f} steps per epoch")


def prepared(cohort: str) -> bool:
    """Whether a cohort folder holds a prepared slide."""
    return Path(cohort).is_dir() and any(Path(cohort).rglob("*.h5"))


def prepare_when_absent(config: DictConfig) -> None:
    """Run the preparation that the config names, or continue it, when its cohort is not complete.

    UserError where another preparation was interrupted: training on some of its slides is never intended.
    """
    cohort, preparation = Path(config.data.cohort), config.data.get("prepare")
    missing = waiting(cohort)
    if prepared(config.data.cohort) and not missing:
        return
    own = preparation is not None and Path(load_prepare_config([preparation]).out).resolve() == cohort.resolve()
    if missing and not own:
        raise UserError(
            f"data.cohort: {cohort} is half prepared, {len(missing)} slides wait ({missing[0]} first); "
            f"run the same command of {typed('prepare')} again, it goes on"
        )
    if preparation is None or not own:  # demo slides are for the demo's own cohort
        what = "" if cohort.is_dir() else " (it is a file)" if cohort.exists() else " (it does not exist)"
        raise UserError(
            f"data.cohort: {cohort} holds no prepared slide{what}; run {typed('prepare')} --config "
            f"configs/data_{config.ladder.kind}.yaml slides=FOLDER out={cohort}"
            + (f", or leave data.cohort out: {preparation} makes the config's own" if preparation else "")
        )
    from data_prep.prepare import main as prepare

    print(f"{cohort} is not {'whole' if missing else 'there'} yet: preparing it with {preparation}", flush=True)
    status = prepare(["--config", preparation, f"out={cohort}", f"autoencoder={config.get('autoencoder', 'demo')}"])
    if status == 1:
        raise UserError(f"data: preparing {cohort} failed for some slides; see {cohort / 'report.json'}")
    if status:
        raise SystemExit(status)


def split_when_absent(config: DictConfig) -> None:
    """Write the split of a cohort that has none, unless the config names one."""
    path = Path(config.data.cohort) / splits.NAME
    if config.data.get("split") is not None or path.exists():
        return
    ids = [str(slide.attrs["slide_id"]) for slide in open_cohort(config.data.cohort)]
    split = splits.extend(
        splits.Split({}, splits.Shares()), {slide_id: splits.patient_of(slide_id) for slide_id in ids}
    )
    splits.write_split(path, split)
    print(f"{path}: {split}", flush=True)


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
        with full_disk_told(folder):
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
        f"training: {error}; no weights were written, {kept}; go on with {typed('train')} --resume {folder} "
        "training.clip=1 or, if it diverges again, begin anew with a lower training.optimizer.lr"
    )


def trainer_of(run: Run, folder: Path, averaged: list[pl.Callback], saver: Checkpoints, start: str) -> pl.Trainer:
    settings = run.config.training
    images = run.images_per_step()
    with told_by_lightning():
        return pl.Trainer(
            max_steps=settings.max_steps * run.optimizer_steps,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip if run.system.automatic_optimization else None,
            precision=settings.precision,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            val_check_interval=settings.validate_every * settings.accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            logger=open_loggers(logger_names(settings.get("logger")), folder, start),
            log_every_n_steps=10,
            callbacks=[
                Watch(),
                *averaged,
                Progress(max(1, settings.validate_every // 10), images // run.optimizer_steps),
                saver,
                LastValidation(settings.validate_every * run.optimizer_steps),
            ],
            plugins=[WholeCheckpoints()],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
