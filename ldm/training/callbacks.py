"""Callbacks: weight averaging, divergence check, the best weights, progress, pictures."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from ldm.support.finite import NotFiniteError


class DivergedError(Exception):
    """Training has diverged: the loss, or the weights after a step, are not finite."""


class Averaging(WeightAveraging):
    """Exponential moving average (EMA) of all trained weights, starting from the initial ones.

    Update n = 1, 2, ... has decay min(decay, (1 + n) / (10 + n)), as published; unlike the published code it covers
    the Summarizer too.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        def average(averaged: Any, current: Any, count: Tensor | int) -> None:
            number = int(count if self._average_model is None else self._average_model.n_averaged)
            get_ema_multi_avg_fn(min(decay, (1 + number) / (10 + number)))(averaged, current, count)

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # not the system's, which is moved there only after this
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # the average starts with the initial weights; its count stays on the CPU
            self._average_model.n_averaged = torch.ones((), dtype=torch.long)

    def put_average(self, system: pl.LightningModule) -> None:
        """Replace the trained weights by the average, as at the end of training."""
        self._copy_average_to_current(system)


class Watch(Callback):
    """Ends a run whose loss is not finite. Must be the first callback.

    On a CPU before its weights are averaged or saved. A card would wait for every loss that is looked at: there, those
    of `every` batches at once; what is saved meanwhile is judged by `Checkpoints`.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.losses: list[tuple[str, int, Tensor]] = []
        """names, steps and losses that were not looked at"""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._keep(trainer, "loss")
        last = trainer.global_step >= trainer.max_steps
        if len(self.losses) >= self.every or last or pl_module.device.type == "cpu":
            self._judge(trainer)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keep(trainer, "val/loss")
        self._judge(trainer)

    def _keep(self, trainer: pl.Trainer, name: str) -> None:
        if name in trainer.callback_metrics:
            self.losses.append((name, trainer.global_step, trainer.callback_metrics[name]))

    def _judge(self, trainer: pl.Trainer) -> None:
        kept, self.losses = self.losses, []
        values = torch.stack([loss for _, _, loss in kept]).tolist() if kept else []
        wrong = [number for number, value in enumerate(values) if not math.isfinite(value)]
        if trainer.strategy.reduce_boolean_decision(bool(wrong), all=False):
            name, step, _ = kept[wrong[0] if wrong else -1]
            raise DivergedError(f"{name} is {values[wrong[0] if wrong else -1]} at step {step}")


class Best(Callback):
    """Calls `save(step)` after each validation whose loss is the lowest so far, with the averaged weights in place.

    Must precede Averaging among the callbacks, which restores the trained weights. Its state is in the checkpoint.
    """

    def __init__(self, save: Callable[[int], Any]) -> None:
        self.save, self.loss, self.step = save, float("inf"), 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics["val/loss"].item()
        if loss < self.loss:
            self.loss, self.step = loss, trainer.global_step
            if trainer.is_global_zero:
                self.save(self.step)

    def state_dict(self) -> dict[str, float]:
        return {"loss": self.loss, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.loss, self.step = state_dict["loss"], int(state_dict["step"])


class Progress(Callback):
    """Progress bar: steps, time left, loss, images per second. Without a terminal, a line every `every` steps."""

    def __init__(self, every: int, images_per_step: int) -> None:
        self.every, self.images_per_step = every, images_per_step
        self.bar: tqdm | None = None
        self.seen = (0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = (time.monotonic(), trainer.global_step)
        watched = os.isatty(2)
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            disable=not trainer.is_global_zero,
            unit="step",
            miniters=None if watched else self.every,
            mininterval=0.5 if watched else 0,
            maxinterval=10 if watched else float("inf"),
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert self.bar is not None
        step, (then, before) = trainer.global_step, self.seen
        if step >= before + self.every:
            rate = (step - before) * self.images_per_step / (time.monotonic() - then)
            self.seen = (time.monotonic(), step)
            pl_module.log("images_per_second", rate, rank_zero_only=True)
            self.bar.set_postfix_str(f"loss {trainer.callback_metrics['loss']:.4f}, {rate:.1f} images/s", refresh=False)
        self.bar.update(step - self.bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)  # so that later output starts on a new line


class Pictures(Callback):
    """After every validation, `draw(path)` writes <folder>/<step>.png with the averaged weights.

    Must precede Averaging, as Best.
    """

    def __init__(self, folder: Path, draw: Callable[[Path], None]) -> None:
        self.folder, self.draw = folder, draw

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            path = self.folder / f"step={trainer.global_step:08d}.png"
            try:
                self.draw(path)
            except NotFiniteError as error:  # a failed picture does not stop training
                tqdm.write(f"warning: {path} was not drawn: {error}")
