"""A training config as objects: which networks a system trains, what its weights file holds, what its pictures show."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.config import build, check_arguments, check_keys
from ldm.data.datamodule import CohortData
from ldm.errors import UserError
from ldm.scales import ladder
from ldm.training.memory import STATE_BYTES, parameter_count
from ldm.training.system import System

COLUMNS = 6
"""samples a scale in a run's pictures"""
TOP = ("system", "run", "seed", "ladder", "tile_px", "data", "model", "training")
LEARNING = ("optimizer", "warmup", "decay_from", "max_steps", "ema", "accumulate", "clip", "precision")
MACHINES = ("accelerator", "devices", "nodes", "strategy", "validate_every", "checkpoint_every")


def data_arguments(config: DictConfig) -> dict[str, Any]:
    """What the `data` section says to CohortData. UserError for a key that it does not take."""
    arguments = {"seed": config.seed, **{str(key): value for key, value in config.data.items() if key != "prepare"}}
    check_arguments(CohortData, arguments, "data")
    return arguments


def open_data(config: DictConfig) -> CohortData:
    """The cohort that the `data` section names."""
    return CohortData(**data_arguments(config))


class Run:
    """One training run: the system that Lightning fits, and what belongs to it. Subclasses build the system."""

    keys: tuple[str, ...] = ()
    """of the config, besides TOP"""
    found_keys: tuple[str, ...] = ("autoencoder", "encoder")
    """that a run may write into its config when it starts"""
    model_keys: tuple[str, ...] = ()
    training_keys: tuple[str, ...] = ()
    """of its `training` section, besides LEARNING and MACHINES"""
    system: System
    optimizer_steps = 1
    """optimiser steps that Lightning counts for one training step"""

    def __init__(self, config: DictConfig) -> None:
        check_keys(config, "config", (*TOP, *self.keys), self.found_keys)
        check_keys(config.model, "model", self.model_keys, ("autoencoder",))
        check_keys(config.training, "training", (*LEARNING, *MACHINES, *self.training_keys))
        data_arguments(config)
        self.config = config
        self.ladder = ladder(config.ladder.kind, config.ladder.scales)

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

    def activations(self) -> int:
        """Elements kept for the backward pass of one image."""
        raise NotImplementedError

    def memory(self) -> tuple[int, int]:
        """Bytes of one process: of weights, gradients, moments and average; about, of a batch's activations."""
        state = parameter_count(self.networks().values()) * STATE_BYTES
        element = 4 if str(self.config.training.precision).startswith("32") else 2
        return state, self.activations() * self.config.data.batch_size * element

    def images_per_step(self) -> int:
        """Images of one training step over all processes; where `devices` is "auto", of one process."""
        training = self.config.training
        devices = training.devices if isinstance(training.devices, int) else 1
        return self.config.data.batch_size * training.accumulate * devices * training.nodes
