"""A training config as objects: which networks a system trains, what its weights file holds, what its pictures show."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.batch import Stream
from ldm.cdm import ConditioningModel
from ldm.checkpoint import PARTS, join, load_strict, load_weights, split
from ldm.config import build, check_arguments, check_keys
from ldm.data.datamodule import CohortData
from ldm.data.dataset import image_batch, latent_batch
from ldm.errors import UserError
from ldm.io import contact_sheet
from ldm.networks.autoencoder import Autoencoder
from ldm.pipeline import ZoomLDM, load_autoencoder, to_uint8
from ldm.scales import ladder
from ldm.sources import open_source
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.conditioning import Conditioning
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.memory import saved_elements
from ldm.training.system import System

COLUMNS = 6
"""samples a scale in a run's pictures"""
PICTURE_STEPS = 20


def data_arguments(config: DictConfig) -> dict[str, Any]:
    """What the `data` section says to CohortData. UserError for a key that it does not take."""
    arguments = {"seed": config.seed, **{str(key): value for key, value in config.data.items() if key != "prepare"}}
    check_arguments(CohortData, arguments, "data")
    return arguments


def open_data(config: DictConfig) -> CohortData:
    """The cohort that the `data` section names."""
    return CohortData(**data_arguments(config))


TOP = ("system", "run", "seed", "ladder", "tile_px", "data", "model", "training")
LEARNING = ("optimizer", "warmup", "decay_from", "max_steps", "ema", "accumulate", "clip", "precision")
MACHINES = ("accelerator", "devices", "nodes", "strategy", "validate_every", "checkpoint_every")


class Run:
    """One training run: the system that Lightning fits, and what belongs to it. Subclasses build the system."""

    keys: tuple[str, ...] = ()
    """of the config, besides TOP"""
    model_keys: tuple[str, ...] = ()
    training_keys: tuple[str, ...] = ()
    """of its `training` section, besides LEARNING and MACHINES"""
    system: System
    optimizer_steps = 1
    """optimiser steps that Lightning counts for one training step"""

    def __init__(self, config: DictConfig) -> None:
        check_keys(config, "config", (*TOP, *self.keys), ("autoencoder", "encoder"))
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

    def images_per_step(self) -> int:
        """Images of one training step over all processes; where `devices` is "auto", of one process."""
        training = self.config.training
        devices = training.devices if isinstance(training.devices, int) else 1
        return self.config.data.batch_size * training.accumulate * devices * training.nodes


class AutoencoderRun(Run):
    """system: vq"""

    keys = ("init",)
    model_keys = ("autoencoder",)
    training_keys = ("loss", "smooth", "revive_every", "frozen", "normalise_latents")
    system: AutoencoderTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.autoencoder: Autoencoder = build(config.model.autoencoder, "model.autoencoder")
        self.autoencoder.to(memory_format=torch.channels_last)
        if config.init:
            self.autoencoder.load_state_dict(load_autoencoder(config.init)[0].state_dict())
        self.system = AutoencoderTraining(
            autoencoder=self.autoencoder,
            loss=self._loss(),
            clip=config.training.clip,
            smooth=config.training.smooth,
            revive_every=config.training.revive_every,
            frozen=config.training.frozen,
            **self.training_arguments(),
        )
        self.optimizer_steps = 1 if self.system.adversary is None else 2

    def _loss(self) -> nn.Module:
        try:
            return build(self.config.training.loss, "training.loss")
        except OSError as error:
            raise UserError(
                f"training.loss: its VGG and LPIPS weights could not be downloaded ({' '.join(str(error).split())}); "
                "copy vgg16-397923af.pth into ~/.cache/torch/hub/checkpoints and vgg.pth into "
                "taming/modules/autoencoder/lpips, or set "
                "training.loss={target: ldm.training.autoencoder.ReconstructionLoss}"
            ) from error

    def networks(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def activations(self) -> int:
        crop = self.config.data.crop_px
        x = torch.zeros(1, 3, crop, crop, device="meta")
        return saved_elements(self.autoencoder, lambda net: net.decode(net.encode(x), quantize=False))

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        if self.config.training.normalise_latents:
            self.system.normalise(data.val_dataloader())
        return join({"autoencoder": self.autoencoder.state_dict()})

    @torch.no_grad()
    def draw(self, path: Path, data: CohortData) -> None:
        rows, labels = [], []
        for scale in data.validation.scales:
            picks = [pick for pick in data.validation.spread(COLUMNS) if pick[1] == scale]
            x = image_batch(picks).to(self.system.device)
            rows += [list(to_uint8(x)), list(to_uint8(self.system.autoencoder(x)[0]))]
            labels += [scale.name, "decoded"]
        contact_sheet(rows, labels, [""] * max(map(len, rows)), path)


def draw_samples(path: Path, data: CohortData, model: ZoomLDM, from_regions: bool) -> None:
    """Rows of real patches above rows of generated ones, from the same embeddings or from the CDM."""
    rows, labels = [], []
    for scale in data.validation.scales:
        picks = [pick for pick in data.validation.spread(COLUMNS) if pick[1] == scale]
        batch = latent_batch(picks, Stream(0, 0, 0, len(picks)))
        embeddings = batch.embedding if from_regions else None
        rows += [
            list(to_uint8(model.decode(batch.z_0.to(model.device)))),
            list(model.sample(scale.name, len(picks), embeddings=embeddings, steps=PICTURE_STEPS)),
        ]
        labels += [scale.name, "sampled"]
    contact_sheet(rows, labels, [""] * max(map(len, rows)), path)


class ZoomLDMRun(Run):
    """system: zoomldm"""

    keys = ("encoder", "autoencoder", "init")
    model_keys = ("denoiser", "summarizer", "schedule", "prediction")
    training_keys = ("p_uncond", "times")
    system: LatentDiffusion

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        model = config.model
        denoiser = build(model.denoiser, "model.denoiser").to(memory_format=torch.channels_last)
        if config.init:
            parts = split(load_weights(config.init))
            if "denoiser" not in parts:
                raise UserError(
                    f"init: {config.init} holds no denoiser; expected names that start with {PARTS['denoiser']}"
                )
            load_strict(denoiser, parts["denoiser"], f"init {config.init}")
        self.system = LatentDiffusion(
            denoiser=denoiser,
            summarizer=build(model.summarizer, "model.summarizer"),
            alpha_bar=build(model.schedule, "model.schedule"),
            prediction=model.prediction,
            scale_names=self.ladder.names,
            p_uncond=config.training.p_uncond,
            times=build(config.training.times, "training.times"),
            **self.training_arguments(),
        )

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        self.autoencoder, identity = load_autoencoder(self.config.autoencoder)
        if data.training.autoencoder != identity:
            raise UserError(
                f"autoencoder: {self.config.autoencoder} is {identity}, but the latents of {data.folder} were made by "
                f"{data.training.autoencoder}; prepare the cohort again or name that autoencoder"
            )
        source = open_source(self.config.autoencoder, "vq", "zoomldm")
        self.config.model.autoencoder = source.config.model.autoencoder  # a run needs nothing but its own folder
        self.config.encoder = data.training.encoder

    def networks(self) -> dict[str, nn.Module]:
        return {"denoiser": self.system.denoiser, "summarizer": self.system.summarizer}

    def activations(self) -> int:
        side, model = self.config.tile_px // 4, self.config.model
        context = torch.zeros(1, 65, model.denoiser.get("context_dim", 512), device="meta")
        z_t, t = torch.zeros(1, 3, side, side, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
        grid = torch.zeros(1, model.summarizer.get("embedding_dim", 1024), 8, 8, device="meta")
        return saved_elements(self.system.denoiser, lambda net: net(z_t, t, context)) + saved_elements(
            self.system.summarizer, lambda net: net(grid, t)
        )

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        networks = {**self.networks(), "autoencoder": self.autoencoder}
        return join({name: network.state_dict() for name, network in networks.items()})

    def draw(self, path: Path, data: CohortData) -> None:
        model = ZoomLDM(
            unet=self.system.denoiser,
            summarizer=self.system.summarizer,  # type: ignore[arg-type]
            autoencoder=self.autoencoder.to(self.system.device),
            alpha_bar=self.system.alpha_bar,
            prediction=self.system.prediction,
            ladder=self.ladder,
            tile_px=self.config.tile_px,
            encoder=self.config.encoder,
        )
        draw_samples(path, data, model, from_regions=True)


class ConditioningRun(Run):
    """system: cdm"""

    keys = ("zoomldm",)
    model_keys = ("cdm", "schedule")
    system: Conditioning

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.cdm = build(config.model.cdm, "model.cdm")
        self.source: ZoomLDM | None = None
        self.system = Conditioning(
            cdm=self.cdm,
            alpha_bar=build(config.model.schedule, "model.schedule"),
            scale_names=self.ladder.names,
            **self.training_arguments(),
        )

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        self.source = ZoomLDM.load(self.config.zoomldm)
        if self.source.ladder.names != self.ladder.names:
            raise UserError(
                f"zoomldm: {self.config.zoomldm} knows {', '.join(self.source.ladder.names)}, but the config has "
                f"{', '.join(self.ladder.names)}; name a run of the same ladder"
            )
        self.system.summarizer = self.source.summarizer

    def networks(self) -> dict[str, nn.Module]:
        return {"cdm": self.cdm}

    def activations(self) -> int:
        x = torch.zeros(1, 65, self.config.model.cdm.get("context_dim", 512), device="meta")
        t = torch.zeros(1, dtype=torch.long, device="meta")
        return saved_elements(self.cdm, lambda net: net(x, t, t))

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        return self.cdm.state_dict()

    def draw(self, path: Path, data: CohortData) -> None:
        assert self.source is not None
        self.source.to(self.system.device).cdm = ConditioningModel(self.cdm, self.system.alpha_bar)
        draw_samples(path, data, self.source, from_regions=False)


SYSTEMS: dict[str, type[Run]] = {"vq": AutoencoderRun, "zoomldm": ZoomLDMRun, "cdm": ConditioningRun}
