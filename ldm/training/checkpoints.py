"""Checkpoints: when they are written, how many are kept, and the newest that is whole."""

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from ldm.errors import UserError
from ldm.support.files import Sink, atomic_write, intact, sidecar, write_sidecar
from ldm.support.finite import all_finite
from ldm.training.callbacks import DivergedError
from ldm.training.stopping import Stopped, StopSignals

KEPT = 2
"""number of checkpoints kept"""


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written atomically, with a sha256 beside them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(path, lambda: _bytes(checkpoint)) as partial, Sink(partial) as file:
            torch.save(checkpoint, file)
        write_sidecar(path)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        try:
            content = super().load_checkpoint(path, *arguments, **options)
        except UnpicklingError as error:
            raise UserError(
                f"resume: {path} holds objects that could run code, so it was not read; delete it"
            ) from error
        if not all_finite(_tensors(content)):
            raise UserError(f"resume: {path} holds values that are not finite; delete it: the one before is then used")
        return content

    def remove_checkpoint(self, path: Any) -> None:
        super().remove_checkpoint(path)
        sidecar(path).unlink(missing_ok=True)


def _bytes(content: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(content))


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        yield content
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    for part in parts:
        yield from _tensors(part)


class Checkpoints(Checkpoint):
    """Saves every `every` steps, at the last one, and when a signal asks for a stop.

    The newest two are kept. After a save on a signal, Stopped ends the run without validation, as grace periods are
    short.
    """

    def __init__(self, folder: Path, every: int, signals: StopSignals) -> None:
        self.folder, self.every, self.signals = folder, every, signals
        self.saved: int | None = None
        """the last saved step; None: training has not begun"""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = trainer.global_step
        self.signals.defer()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self.saved:  # within gradient accumulation
            return
        asked = trainer.strategy.reduce_boolean_decision(self.signals.number is not None, all=False)
        if asked or step % self.every == 0 or step >= trainer.max_steps:
            self._save(trainer, pl_module)
        if asked:
            _log_losses(trainer)
            raise Stopped(self.signals.number)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        state = [pl_module.state_dict(), *(dict(optimizer.state) for optimizer in trainer.optimizers)]
        if trainer.strategy.reduce_boolean_decision(not all_finite(_tensors(state)), all=False):
            raise DivergedError(f"a weight or moment is not finite after step {step}")
        trainer.save_checkpoint(self.folder / f"step={step:08d}.ckpt")
        self.saved = step
        for old in checkpoints(self.folder)[KEPT:]:
            trainer.strategy.remove_checkpoint(old)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.signals.deferred = False


def _log_losses(trainer: pl.Trainer) -> None:
    """Log the losses of the last step, which Lightning logs at intervals only."""
    losses = {name: float(loss) for name, loss in trainer.callback_metrics.items() if not name.startswith("val/")}
    step = trainer.fit_loop.total_batch_idx // trainer.accumulate_grad_batches  # from 0, as Lightning's own rows
    for logger in trainer.loggers:
        logger.log_metrics(losses, step)


class LastValidation(Callback):
    """Validates first when a run continues from a step at which a validation was due.

    Checkpoints are written before the validation of their step, so that saving after a signal is not delayed. `every`
    counts as `trainer.global_step` does. Must be the last callback, as it runs the others' validation hooks.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0 or trainer.global_step % self.every:
            return
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False
        trainer.validating = True
        validation.run()
        trainer.training = True


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("step=*.ckpt"), reverse=True)


def step_of(checkpoint: Path) -> int:
    """Optimiser steps of a checkpoint."""
    return int(checkpoint.stem.removeprefix("step="))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a folder, None where no save was finished; skipped ones are reported.

    UserError when all finished checkpoints are damaged, so that training does not silently start again.
    """
    damaged = []
    for path in checkpoints(folder):
        if intact(path):
            return path
        damaged += [path] if sidecar(path).is_file() else []
        reason = "damaged, its sha256 differs" if damaged else "unfinished, it has no sha256"
        tqdm.write(f"warning: {path} is {reason}; what was saved before it is used")
    if damaged:
        raise UserError(
            f"resume: no checkpoint in {folder} is whole; copy one back or, to begin again at step 0, delete them"
        )
    return None
