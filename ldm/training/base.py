"""What the training systems share.

`System` is the Lightning module, `OptimizerPlan` its optimiser and learning rate, `Run` a training config as objects.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldm.config.objects import build, find
from ldm.config.training_config import check_config
from ldm.data.batch import Batch
from ldm.data.datamodule import CohortData
from ldm.diffusion.timestep_sampling import Uniform, timestep_of_sigma
from ldm.errors import UserError
from ldm.networks.unet import UNet
from ldm.scales import ladder
from ldm.training.memory import BUCKET_BYTES, CAST_BYTES, STATE_BYTES, parameter_count

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def learning_rate_factor(
    step: int, warmup: int, decay_from: int | None = None, last: int = 0, floor: float = 0.02
) -> float:
    """Multiplier of the learning rate at optimiser step `step`.

    Linear from 1e-6 to 1 over `warmup` steps, then 1 (as published); with `decay_from`, linear decay from that step to
    `floor` at step `last`.
    """
    if step < warmup:
        return 1e-6 + (1 - 1e-6) * step / warmup
    if decay_from is None or step < decay_from:
        return 1.0
    return floor + (1 - floor) * max(0.0, (last - step) / max(1, last - decay_from))


@dataclass(frozen=True)
class OptimizerPlan:
    """An optimiser, and its learning rate over the steps of training: see `learning_rate_factor`."""

    optimizer: OptimizerFactory
    warmup: int
    last: int
    decay_from: int | None = None

    def scheduled(self, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        """Optimiser and schedule over `parameters`, stepped every optimiser step, in the form Lightning takes."""
        optimizer = self.optimizer([parameter for parameter in parameters if parameter.requires_grad])
        if optimizer.defaults.get("fused"):
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # else Lightning clips no gradients
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, self.warmup, self.decay_from, self.last))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class System(pl.LightningModule):
    """A Lightning module that provides the tensors of a run's weights file."""

    def __init__(self, plan: OptimizerPlan) -> None:
        super().__init__()
        self.plan = plan

    def configure_optimizers(self) -> Any:
        return self.plan.scheduled(self.parameters())


class DenoisingSystem(System):
    """Trains a denoiser at random times of a schedule; validates it at fixed noise levels, scale by scale."""

    alpha_bar: Tensor

    def __init__(
        self, plan: OptimizerPlan, alpha_bar: Tensor, scale_names: list[str], times: Uniform | None = None
    ) -> None:
        super().__init__(plan)
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.scale_names, self.times = scale_names, times or Uniform()

    def validate(self, batch: Batch, x_0: Tensor, losses: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Log the validation loss of `losses(t (b,), eps) -> (b,)`, the mean over VALIDATION_SIGMAS: of all, by scale.

        The noise, of the shape of `x_0`, is drawn on the CPU, so that scores are comparable between devices.
        """
        eps = torch.randn(x_0.shape, generator=batch.stream.generator()).to(self.device)
        total = torch.zeros(len(batch), device=self.device)
        for sigma in VALIDATION_SIGMAS:
            total += losses(
                timestep_of_sigma(torch.full((len(batch),), sigma, device=self.device), self.alpha_bar), eps
            )
        self.log_scores(total / len(VALIDATION_SIGMAS), batch)

    def log_scores(self, mean: Tensor, batch: Batch) -> None:
        """Log the validation losses `mean` (b,): of all, by scale."""
        self.log("val/loss", mean.mean(), batch_size=len(mean), on_epoch=True, prog_bar=True)
        for index in batch.scale.unique().tolist():
            own = mean[batch.scale == index]
            self.log(f"val/loss/{self.scale_names[index]}", own.mean(), batch_size=len(own), on_epoch=True)


VALIDATION_SIGMAS = (0.15, 0.4, 1.0, 2.7)
"""noise-to-signal ratios at which every validation sample is scored, with fixed noise"""
COLUMNS = 6
"""samples per scale in a run's pictures"""


def data_arguments(config: DictConfig) -> dict[str, Any]:
    """Arguments of CohortData from the `data` section."""
    return {"seed": config.seed, **{str(key): value for key, value in config.data.items() if key != "prepare"}}


def open_data(config: DictConfig) -> CohortData:
    """The cohort that the `data` section names."""
    return CohortData(**data_arguments(config))


class Run:
    """One training run: the system that Lightning fits, its data and pictures. Subclasses build the system."""

    system: System
    optimizer_steps = 1
    """optimiser steps that Lightning counts for one training step"""
    steps_itself = False
    """whether the system steps its optimisers and clips its gradients itself"""

    def __init__(self, config: DictConfig) -> None:
        check_config(config)
        self.config = config
        self.ladder = ladder(config.ladder.kind, config.ladder.get("scales"))
        scales = config.data.get("scales") or []
        for number, scale in enumerate(scales):
            if self.ladder[scale].name in scales[:number]:
                raise UserError(f"data.scales: {scale} found twice, expected each scale once")
        check_optimizer(config.training.optimizer)

    def check_side(self, unet: UNet) -> None:
        """UserError where a patch's latent cannot be downsampled to the coarsest level of `unet`."""
        side = self.config.tile_px // 4
        if side % unet.coarsest:
            raise UserError(
                f"tile_px: {self.config.tile_px} found, expected a multiple of {4 * unet.coarsest} for this denoiser"
            )

    def same(self, key: str, found: int, expected: int, of: str) -> None:
        """UserError where `key` of the config contradicts another part."""
        if found != expected:
            raise UserError(f"{key}: {found} found, expected {expected} as {of} has; change one of them")

    @property
    def plan(self) -> OptimizerPlan:
        """The optimiser and learning rate of `training`."""
        training = self.config.training
        optimizer = OmegaConf.to_container(training.optimizer, resolve=True)
        return OptimizerPlan(
            lambda params: build(optimizer, "training.optimizer", params=params, **fused(optimizer, training)),
            warmup=training.warmup,
            last=training.max_steps,
            decay_from=None if training.decay_from is None else int(training.decay_from * training.max_steps),
        )

    def attach(self, data: CohortData) -> None:
        """Check the cohort against the config, and load the frozen networks that training needs.

        UserError when the cohort was prepared for another ladder, patch size or autoencoder.
        """
        cohort = data.training
        for what, found, expected in (
            ("ladder", cohort.ladder.names, self.ladder.names),
            ("tile_px", cohort.tile_px, self.config.tile_px),
        ):
            if found != expected:
                raise UserError(
                    f"{what}: the config has {expected}, but the cohort {data.folder} has {found}; change one"
                )

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        """The tensors of weights.safetensors; called once, after training, with the averaged weights in place."""
        raise NotImplementedError

    def draw(self, path: Path, data: CohortData) -> None:
        """A picture of the state of training."""
        raise NotImplementedError

    def networks(self) -> dict[str, nn.Module]:
        """The trained networks, by name."""
        raise NotImplementedError

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        """Approximate bytes of activations per image, computed in `dtype`."""
        raise NotImplementedError

    def check_fit(self) -> None:
        """UserError where the networks do not accept images of the config's size, or each other's outputs."""
        try:
            self.activations()
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f"model: its networks do not run on tile_px {self.config.tile_px} and each other's results "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); change their widths or numbers"
            ) from error

    def memory(self) -> tuple[int, int]:
        """Bytes of one process: weights, gradients, moments and average; and, approximately, activations of a batch."""
        training = self.config.training
        half = not str(training.precision).startswith("32")
        shared = training.nodes > 1 or training.devices != 1
        each = STATE_BYTES + CAST_BYTES * half + BUCKET_BYTES * shared
        state = parameter_count(self.networks().values()) * each
        dtype = torch.bfloat16 if half else torch.float32
        return state, self.activations(dtype) * self.config.data.batch_size

    def images_per_step(self) -> int:
        """Images per training step over all processes; of one process if `devices` is "auto"."""
        training = self.config.training
        devices = training.devices if isinstance(training.devices, int) else 1
        return self.config.data.batch_size * training.accumulate * devices * training.nodes


def fused(optimizer: Any, training: DictConfig) -> dict[str, Any]:
    """The argument `fused` for an optimiser that has it and is not told another way: one kernel updates all weights.

    Not at fp16, where it would undo the scale of the gradients itself and Lightning could not clip them.
    """
    takes = inspect.signature(find(optimizer["target"], "training.optimizer")).parameters
    told = {"fused", "foreach", "capturable"} & optimizer.keys()
    return {"fused": True} if "fused" in takes and not told and not str(training.precision).startswith("16") else {}


def check_optimizer(section: DictConfig) -> None:
    """UserError where the optimiser of `section` cannot be built, or cannot step from dense gradients alone."""
    with torch.device("cpu"):
        weight = nn.Parameter(torch.zeros(2, 2))
        optimizer = build(section, "training.optimizer", kind=Optimizer, params=[weight])
        weight.grad = torch.zeros_like(weight)
        try:
            optimizer.step()
        except (RuntimeError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"training.optimizer.target: {section.target} takes no step from dense gradients alone ({why}); "
                "expected one that does, for example torch.optim.AdamW"
            ) from error
