"""Batches for the Trainer: training from batch k onwards, and a fixed validation set."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ldm.data.batch import BatchRNG
from ldm.data.cohort import open_cohort
from ldm.data.dataset import (
    Cohort,
    ImageBatches,
    LatentBatches,
    PairBatches,
    Pick,
    image_batch,
    latent_batch,
    pair_batch,
    split_slides,
)
from ldm.data.split_file import NAME
from ldm.errors import UserError
from ldm.support.bundled_configs import bundled_file

KINDS = ("latents", "images", "pairs")


def ignore_signals(worker: int) -> None:
    """For a worker: signals reach the whole process group, but only the training process decides when to stop."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class CountFrom(Sampler[int]):
    """start, start + 1, ... without end: the numbers of batches."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


class ValidationBatches(Dataset[Any]):
    """Fixed regions in order, in batches; each batch has its own seed, so its noise is the same at every validation."""

    def __init__(self, picks: list[Pick], batch_size: int, kind: str) -> None:
        self.parts = [picks[first : first + batch_size] for first in range(0, len(picks), batch_size)]
        self.kind = kind

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Any:
        part = self.parts[number]
        if self.kind == "images":
            return image_batch(part)
        read = pair_batch if self.kind == "pairs" else latent_batch
        return read(part, BatchRNG(0, number, 0, len(part)))


class CohortData(pl.LightningDataModule):
    """A cohort folder for one of the systems; `kind` is "latents", "images" (crops) or "pairs" of both.

    `split` is a file (default: the folder's).

    The number of batches trained on travels in the checkpoint, so a resumed run starts at the next one.
    """

    def __init__(
        self,
        *,
        cohort: str,
        batch_size: int,
        seed: int = 0,
        kind: str = "latents",
        crop_px: int = 64,
        scales: list[str] | None = None,
        scale_weights: list[float] | None = None,
        split: str | None = None,
        validation_per_scale: int = 64,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"data.kind: {kind} is unknown; it is one of {', '.join(KINDS)}")
        slides = open_cohort(cohort)
        training, validation = split_slides(slides, bundled_file(split) if split else Path(cohort) / NAME)
        self.training = Cohort(training, scales, scale_weights)
        shown = [scale.name for scale in self.training.scales if any(slide.count(scale.name) for slide in validation)]
        self.validation = Cohort(validation, shown)  # a few slides may have no region of the coarsest scales
        if kind != "images" and not self.training.autoencoder:
            raise UserError(
                f"data: {cohort} has no latents; prepare it with an autoencoder (autoencoder=demo, or a VQ run)"
            )
        if kind != "latents" and not all(
            slide.has_images(scale.name) for slide in training + validation for scale in self.training.scales
        ):
            raise UserError(f"data: {cohort} holds slides without images; prepare it with images=jpeg")
        if kind != "latents":
            for slide in training + validation:
                for scale in self.training.scales:  # own pictures that are grey are so from the first one on
                    slide.images(scale.name, range(min(1, slide.count(scale.name))))
        self.folder = cohort
        self.batch_size, self.seed, self.kind, self.crop_px = batch_size, seed, kind, crop_px
        self.validation_per_scale, self.workers = validation_per_scale, workers
        self.trained = 0
        """number of batches trained on before this process started"""

    def batches(self, rank: int = 0, world: int = 1) -> Dataset[Any]:
        """The endless training batches of one rank."""
        if self.kind == "images":
            return ImageBatches(self.training, self.seed, self.batch_size, crop_px=self.crop_px, rank=rank, world=world)
        batches = PairBatches if self.kind == "pairs" else LatentBatches
        return batches(self.training, self.seed, self.batch_size, rank, world)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        batches = self.batches(self.trainer.global_rank, self.trainer.world_size)
        return self._loader(batches, CountFrom(self.trained))

    def val_dataloader(self) -> DataLoader[Any]:
        picks = self.validation.spread(self.validation_per_scale)
        return self._loader(ValidationBatches(picks, self.batch_size, self.kind), None)

    def _loader(self, batches: Dataset[Any], sampler: Sampler[int] | None) -> DataLoader[Any]:
        return DataLoader(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_signals,
        )

    def state_dict(self) -> dict[str, int]:
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return {"trained": progress.processed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.trained = state_dict["trained"]
