"""A training config as objects: which networks a system trains, what its weights file holds, what its pictures show."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.config import build
from ldm.data.datamodule import CohortData
from ldm.errors import UserError
from ldm.networks.unet import UNet
from ldm.scales import ladder
from ldm.training.memory import BUCKET_BYTES, CAST_BYTES, STATE_BYTES, parameter_count
from ldm.training.system import System
from ldm.training_config import check_config

COLUMNS = 6
"""samples a scale in a run's pictures"""


def data_arguments(config: DictConfig) -> dict[str, Any]:
    """What the `data` section says to CohortData."""
    return {"seed": config.seed, **{str(key): value for key, value in config.data.items() if key != "prepare"}}


def open_data(config: DictConfig) -> CohortData:
    """The cohort that the `data` section names."""
    return CohortData(**data_arguments(config))


class Run:
    """One training run: the system that Lightning fits, and what belongs to it. Subclasses build the system."""

    system: System
    optimizer_steps = 1
    """optimiser steps that Lightning counts for one training step"""

    def __init__(self, config: DictConfig) -> None:
        check_config(config)
        self.config = config
        self.ladder = ladder(config.ladder.kind, config.ladder.get("scales"))
        scales = config.data.get("scales") or []
        for number, scale in enumerate(scales):
            if self.ladder[scale].name in scales[:number]:
                raise UserError(f"data.scales: {scale} found twice, expected each scale once")
        weight = nn.Parameter(torch.zeros(2, 2))
        build(config.training.optimizer, "training.optimizer", kind=Optimizer, params=[weight])

    def check_side(self, unet: UNet) -> None:
        """UserError where a patch's latent cannot be halved as often as `unet` has levels."""
        side = self.config.tile_px // 4
        if side % unet.coarsest:
            raise UserError(
                f"tile_px: {self.config.tile_px} found, expected a multiple of {4 * unet.coarsest} for this denoiser"
            )

    def same(self, key: str, found: int, expected: int, of: str) -> None:
        """UserError where `key` of the config is not what another part makes it."""
        if found != expected:
            raise UserError(f"{key}: {found} found, expected {expected} as {of} has; change one of them")

    def training_arguments(self) -> dict[str, Any]:
        """What every system takes from `training`."""
        training = self.config.training
        optimizer = OmegaConf.to_container(training.optimizer, resolve=True)
        return {
            "optimizer": lambda params: build(optimizer, "training.optimizer", params=params),
            "warmup": training.warmup,
            "decay_from": None if training.decay_from is None else int(training.decay_from * training.max_steps),
            "last": training.max_steps,
        }

    def attach(self, data: CohortData) -> None:
        """Check the cohort against the config, and load what training needs besides the networks it trains.

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
        """What is trained, by name."""
        raise NotImplementedError

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        """Bytes kept for the backward pass of one image, computed in `dtype`; about."""
        raise NotImplementedError

    def check_fit(self) -> None:
        """UserError where the networks cannot be run on one image of the config's size, or on each other's results."""
        try:
            self.activations()
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f"model: its networks do not run on tile_px {self.config.tile_px} and each other's results "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); change their widths or numbers"
            ) from error

    def memory(self) -> tuple[int, int]:
        """Bytes of one process: of weights, gradients, moments and average; about, of a batch's activations."""
        training = self.config.training
        half = not str(training.precision).startswith("32")
        shared = training.nodes > 1 or training.devices != 1
        each = STATE_BYTES + CAST_BYTES * half + BUCKET_BYTES * shared
        state = parameter_count(self.networks().values()) * each
        dtype = torch.bfloat16 if half else torch.float32
        return state, self.activations(dtype) * self.config.data.batch_size

    def images_per_step(self) -> int:
        """Images of one training step over all processes; where `devices` is "auto", of one process."""
        training = self.config.training
        devices = training.devices if isinstance(training.devices, int) else 1
        return self.config.data.batch_size * training.accumulate * devices * training.nodes
