"""What the start of a training run checks and makes before its first step; a dry run checks the same."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from data_prep.preparation_config import load_prepare_config
from data_prep.report.outcomes import waiting
from ldm.data.cohort import open_cohort
from ldm.data.split_file import NAME, Shares, Split, extend, patient_of, write_split
from ldm.errors import UserError
from ldm.scales import ladder
from ldm.support.machines import report_lightning_errors
from ldm.support.precision import announce, choose_training, device_of
from ldm.support.typed import typed
from ldm.training.checkpoints import step_of
from ldm.training.systems import Run

WEIGHTS_KEYS = ("autoencoder", "zoomldm", "init", "distillation.teacher")
"""of a config: networks that a run begins with"""


def choose_precision(config: DictConfig) -> None:
    """Resolve `training.precision: auto` for this device, once: a resumed run keeps its precision."""
    device = device_of(config.training.accelerator)
    config.training.precision = choose_training(config.training.precision, device)
    announce(config.training.precision, device)


def check_steps(run: Run, folder: Path, checkpoint: Path | None) -> None:
    """UserError where the run in `folder` has trained for longer than max_steps."""
    steps = run.config.training.max_steps
    if checkpoint and step_of(checkpoint) > steps * run.optimizer_steps:
        last = step_of(checkpoint) // run.optimizer_steps
        raise UserError(f"training.max_steps: {steps}, but {folder} has trained {last} steps")


def prepared(cohort: str | Path) -> bool:
    """Whether a cohort folder holds a prepared slide."""
    return Path(cohort).is_dir() and any(Path(cohort).rglob("*.h5"))


def own_preparation(config: DictConfig) -> str | None:
    """The preparation to run before training, or None where the cohort is whole.

    UserError where the config names none for this cohort, or another preparation of it was stopped: training on a part
    of its slides is never intended.
    """
    cohort, preparation = Path(config.data.cohort), config.data.get("prepare")
    missing = waiting(cohort)
    if prepared(cohort) and not missing:
        return None
    own = preparation is not None and Path(load_prepare_config([preparation]).out).resolve() == cohort.resolve()
    if missing and not own:
        raise UserError(
            f"data.cohort: {cohort} is incomplete, {len(missing)} slides are pending ({missing[0]} first); "
            f"run the same command of {typed('prepare')} again to continue"
        )
    if preparation is None or not own:  # demo slides are for the demo's own cohort
        what = "" if cohort.is_dir() else " (it is a file)" if cohort.exists() else " (it does not exist)"
        raise UserError(
            f"data.cohort: {cohort} holds no prepared slide{what}; run {typed('prepare')} --config "
            f"configs/data_{config.ladder.kind}.yaml slides=FOLDER out={cohort}"
            + (f", or leave data.cohort out: {preparation} makes the config's own" if preparation else "")
        )
    return str(preparation)


def check_preparation(config: DictConfig, preparation: str) -> None:
    """UserError where `preparation` would make a cohort that the run then refuses."""
    planned, zooms = load_prepare_config([preparation]), ladder(config.ladder.kind, config.ladder.get("scales"))
    pairs: list[tuple[str, Any, Any]] = [
        ("ladder", planned.zooms.names, zooms.names),
        ("tile_px", planned.tile_px, config.tile_px),
    ]
    encoder = str(config.get("encoder") or planned.encoder.name)
    if not encoder.startswith(f"{planned.encoder.name}-"):  # a run that began names its weights behind the name
        pairs.append(("encoder", planned.encoder.name, encoder))
    for key, found, expected in pairs:
        if found != expected:
            raise UserError(f"{key}: the config has {expected}, but {preparation} prepares {found}; change one")


def prepare_when_absent(config: DictConfig) -> None:
    """Run the preparation that the config names, or continue it, when its cohort is not complete.

    UserError as `own_preparation` and `check_preparation`.
    """
    cohort, preparation = Path(config.data.cohort), own_preparation(config)
    if preparation is None:
        return
    check_preparation(config, preparation)
    from data_prep.prepare import main as prepare

    print(f"{cohort} is not {'whole' if waiting(cohort) else 'there'} yet: preparing it with {preparation}", flush=True)
    autoencoder = [f"autoencoder={config.autoencoder}"] if "autoencoder" in config else []
    status = prepare(["--config", preparation, f"out={cohort}", *autoencoder])
    if status == 1:
        raise UserError(f"data: preparing {cohort} failed for some slides; see {cohort / 'report.json'}")
    if status:
        raise SystemExit(status)


def split_when_absent(config: DictConfig) -> None:
    """Write the split of a cohort that has none, unless the config names one."""
    path = Path(config.data.cohort) / NAME
    if config.data.get("split") is None and not path.exists():
        print("{}: {}".format(*write_first_split(config.data.cohort, path)), flush=True)


def write_first_split(cohort: str | Path, path: Path) -> tuple[Path, Split]:
    """Write to `path` the split of a cohort that has none: the default shares, patients from barcodes."""
    ids = [str(slide.attrs["slide_id"]) for slide in open_cohort(cohort)]
    split = extend(Split({}, Shares()), {slide_id: patient_of(slide_id) for slide_id in ids})
    write_split(path, split)
    return path, split


def open_trainer(run: Run, **more: Any) -> pl.Trainer:
    """Lightning's trainer of `run`; without `more` it writes nothing. UserError for what Lightning refuses."""
    settings = run.config.training
    with report_lightning_errors():
        return pl.Trainer(
            max_steps=settings.max_steps * run.optimizer_steps,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=None if run.steps_itself else settings.clip,
            precision=settings.precision,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            val_check_interval=settings.validate_every * settings.accumulate,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **more or {"logger": False, "enable_checkpointing": False},
        )
