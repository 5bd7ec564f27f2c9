"""Loggers of a run's losses: `training.logger`, one name or a list of names.

tensorboard and csv (the default, both) write into the run's folder. wandb and mlflow are optional packages; every start
of a run is a new run of theirs, named after the folder. Their environment variables choose the destination (WANDB_MODE;
MLFLOW_TRACKING_URI, default mlflow.db in the run's folder). none writes nothing.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ldm.errors import UserError

PROJECT = "zoomldm"
DEFAULT = ["tensorboard", "csv"]
EXTRAS = ("wandb", "mlflow")
"""optional packages"""


def logger_names(setting: str | Sequence[str] | None) -> list[str]:
    """The names in `training.logger`. UserError for a missing package, and for none together with others."""
    names = list(dict.fromkeys([setting] if isinstance(setting, str) else DEFAULT if setting is None else setting))
    if "none" in names and len(names) > 1:
        raise UserError(f"training.logger: none found beside {len(names) - 1} others; expected it alone")
    for name in names:
        if name in EXTRAS and find_spec(name) is None:
            raise UserError(f"training.logger: {name} is not installed; pip install {name}, or choose tensorboard")
    return [name for name in names if name != "none"]


def open_loggers(names: Sequence[str], folder: Path, start: str) -> list[Logger]:
    """The loggers of one start of the run in `folder`; `start` names its CSV file."""
    return [_open(name, folder, start) for name in names]


def _open(name: str, folder: Path, start: str) -> Logger:
    if name == "csv":
        return CSVLogger(folder, "metrics", start, flush_logs_every_n_steps=1)  # a kill takes no row
    if name == "tensorboard":
        return TensorBoardLogger(folder, "", "tensorboard")
    if name == "wandb":
        return WandbLogger(name=folder.name, save_dir=folder, project=PROJECT)
    own = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    return MLFlowLogger(PROJECT, folder.name, os.environ.get("MLFLOW_TRACKING_URI", own))
