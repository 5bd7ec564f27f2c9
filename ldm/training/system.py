"""What the training systems share: they own the networks they train, an optimiser factory and a learning-rate plan."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def learning_rate_factor(
    step: int, warmup: int, decay_from: int | None = None, last: int = 0, floor: float = 0.02
) -> float:
    """Multiplier of the learning rate at optimiser step `step`.

    Linear from 1e-6 to 1 over `warmup` steps, then 1 (as published); with `decay_from`, linear from there down to
    `floor` at step `last`.
    """
    if step < warmup:
        return 1e-6 + (1 - 1e-6) * step / warmup
    if decay_from is None or step < decay_from:
        return 1.0
    return floor + (1 - floor) * max(0.0, (last - step) / max(1, last - decay_from))


class System(pl.LightningModule):
    """A Lightning module that can hand over the tensors of a run's weights file."""

    def __init__(self, optimizer: OptimizerFactory, *, warmup: int, decay_from: int | None, last: int) -> None:
        super().__init__()
        self.optimizer_factory = optimizer
        self.warmup, self.decay_from, self.last = warmup, decay_from, last

    def scheduled(self, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        """Optimiser and schedule over `parameters`, stepped every optimiser step, in the form Lightning takes."""
        optimizer = self.optimizer_factory([parameter for parameter in parameters if parameter.requires_grad])
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, self.warmup, self.decay_from, self.last))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_optimizers(self) -> Any:
        return self.scheduled(self.parameters())

    def log_scales(self, losses: Tensor, scale: Tensor, names: list[str]) -> None:
        """Log the validation loss: the mean, and one value a scale. losses (b,), scale (b,) indices into `names`."""
        self.log("val/loss", losses.mean(), batch_size=len(losses), on_epoch=True, prog_bar=True)
        for index in scale.unique().tolist():
            mine = losses[scale == index]
            self.log(f"val/loss/{names[index]}", mine.mean(), batch_size=len(mine), on_epoch=True)
