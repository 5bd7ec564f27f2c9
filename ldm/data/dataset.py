"""Batches of prepared slides. Item k of a dataset is batch k: a pure function of (seed, k).

A scale is drawn, uniformly unless `data.scale_weights` says otherwise, then a region of that scale, whatever slide it
lies on (paper, section 4.1.1). All ranks draw the same global batch and keep their own rows, so these are disjoint; a
resumed run continues with the next k.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.batch import Batch, BatchRNG, Sample, collate
from ldm.data.cohort import refuse_mixture
from ldm.data.h5 import SlideFile
from ldm.data.split_file import read_split
from ldm.errors import UserError
from ldm.scales import Ladder, Scale
from ldm.support.typed import typed

Pick = tuple[SlideFile, Scale, int]
"""a slide, a scale, the row of a region in that scale's table"""


class Cohort:
    """Prepared slides that share ladder, patch size, encoder and autoencoder."""

    def __init__(
        self,
        slides: Sequence[SlideFile],
        scales: Sequence[str] | None = None,
        scale_weights: Sequence[float] | None = None,
    ) -> None:
        """`scales` keeps some of the ladder's (default: all); `scale_weights` says how often each is drawn.

        UserError when slides differ, a scale has no region, or there are not as many weights as scales.
        """
        refuse_mixture(slides)
        first = slides[0]
        self.slides = list(slides)
        self.ladder: Ladder = first.ladder
        self.tile_px = int(first.attrs["tile_px"])
        self.encoder = str(first.attrs["encoder"])
        self.autoencoder = str(first.attrs["autoencoder"])
        told = (str(slide.attrs.get("latents_id", "")) for slide in slides)
        self.latents_id = next(filter(None, told), "")
        self.scales = [self.ladder[name] for name in scales] if scales else list(self.ladder)
        self._shares = None if scale_weights is None else _shares(scale_weights)
        if self._shares is not None and len(self._shares) != len(self.scales):
            raise UserError(
                f"data.scale_weights: {len(self._shares)} found, expected {len(self.scales)}, one for each of "
                f"{', '.join(scale.name for scale in self.scales)}"
            )
        self._ends = {s.name: np.cumsum([slide.count(s.name) for slide in self.slides]) for s in self.scales}
        for scale in self.scales:
            if self.count(scale) == 0:
                raise UserError(
                    f"{Path(first.path).parent}: no region at {scale.name} in {len(slides)} slides; "
                    "prepare more slides, lower tissue_share, or leave the scale out with data.scales"
                )

    def count(self, scale: Scale) -> int:
        """Regions of `scale` over all slides."""
        return int(self._ends[scale.name][-1])

    def pick(self, scale: Scale, number: int) -> Pick:
        """Region `number` of `scale`, counted over the slides in order."""
        ends = self._ends[scale.name]
        slide = int(np.searchsorted(ends, number, side="right"))
        return self.slides[slide], scale, number - (int(ends[slide - 1]) if slide else 0)

    def draw(self, seed: int, number: int, count: int) -> list[Pick]:
        """The `count` regions of global batch `number`."""
        rng = np.random.default_rng((seed, number))
        if self._shares is None:
            scales = rng.integers(len(self.scales), size=count)
        else:
            scales = rng.choice(len(self.scales), size=count, p=self._shares)
        places = rng.random(count)
        return [
            self.pick(scale, int(place * self.count(scale)))
            for scale, place in zip((self.scales[i] for i in scales), places, strict=True)
        ]

    def spread(self, per_scale: int) -> list[Pick]:
        """Up to `per_scale` regions of each scale, evenly spread over the slides: for validation and pictures."""
        return [
            self.pick(scale, number)
            for scale in self.scales
            for number in np.unique(np.linspace(0, self.count(scale) - 1, per_scale).round().astype(int)).tolist()
        ]


def _shares(weights: Sequence[float]) -> NDArray[np.float64]:
    """Weights as shares of 1, whatever their size: the sum of large ones would be infinite."""
    scaled = np.array(weights, np.float64) / max(weights)
    return scaled / scaled.sum()


class _Batches(Dataset[Any]):
    """Item k is this rank's part of global batch k; subclasses define its content."""

    def __init__(self, cohort: Cohort, seed: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.cohort, self.seed, self.batch_size, self.rank, self.world = cohort, seed, batch_size, rank, world

    def _part(self, number: int) -> tuple[list[Pick], BatchRNG]:
        first, total = self.rank * self.batch_size, self.world * self.batch_size
        picks = self.cohort.draw(self.seed, number, total)
        return picks[first : first + self.batch_size], BatchRNG(self.seed, number, first, total)


class LatentBatches(_Batches):
    """Batches of latents, embedding grids and scales: what the denoiser, Summarizer and CDM train on."""

    def __getitem__(self, number: int) -> Batch:
        return latent_batch(*self._part(number))


class PairBatches(_Batches):
    """The same batches with the images of the latents: what a control trains on."""

    def __getitem__(self, number: int) -> Batch:
        return pair_batch(*self._part(number))


def latent_batch(picks: Sequence[Pick], stream: BatchRNG) -> Batch:
    """Read `picks` into a Batch."""
    return collate([_sample(*pick) for pick in picks], stream)


def pair_batch(picks: Sequence[Pick], stream: BatchRNG) -> Batch:
    """Read `picks` into a Batch, images and all."""
    return replace(latent_batch(picks, stream), image=image_batch(picks))


def _sample(slide: SlideFile, scale: Scale, row: int) -> Sample:
    name = str(slide.attrs["slide_id"])
    return Sample(slide.latent(scale.name, row), slide.embedding(scale.name, row), scale.index, name)


class ImageBatches(_Batches):
    """Batches of image crops (b, 3, crop, crop) in [-1, 1], every scale alike: what the autoencoder trains on."""

    def __init__(self, cohort: Cohort, seed: int, batch_size: int, *, crop_px: int, rank: int = 0, world: int = 1):
        super().__init__(cohort, seed, batch_size, rank, world)
        self.crop_px = crop_px
        if crop_px > cohort.tile_px:
            raise UserError(
                f"data.crop_px: {crop_px} is larger than the patches ({cohort.tile_px} px); make it smaller"
            )

    def __getitem__(self, number: int) -> Tensor:
        picks, stream = self._part(number)
        rng = np.random.default_rng((self.seed, number, 1))
        room = self.cohort.tile_px - self.crop_px + 1
        corners = rng.integers(room, size=(stream.total, 2))[stream.first : stream.first + len(picks)]
        images = image_batch(picks)
        return torch.stack(
            [
                image[:, y : y + self.crop_px, x : x + self.crop_px]
                for image, (y, x) in zip(images, corners.tolist(), strict=True)
            ]
        )


def image_batch(picks: Sequence[Pick]) -> Tensor:
    """Stored images of `picks` as (b, 3, tile, tile) in [-1, 1]."""
    images = np.stack([slide.images(scale.name, [row])[0] for slide, scale, row in picks])  # (b, h, w, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def split_slides(slides: Sequence[SlideFile], path: str | Path) -> tuple[list[SlideFile], list[SlideFile]]:
    """(training, validation) slides as the split file `path` says; without validation slides, the first serve as both.

    UserError when a slide is not in the file, or none is left to train on.
    """
    split = read_split(path)
    ids = [str(slide.attrs["slide_id"]) for slide in slides]
    missing = [slide_id for slide_id in ids if slide_id not in split.lines]
    if missing:
        raise UserError(
            f"{path}: lacks {len(missing)} of {len(ids)} slides, {missing[0]} first; add them by {typed('splits')}, "
            "or take the cohort's own split (data.split=null)"
        )
    training, validation = (
        [slide for slide, slide_id in zip(slides, ids, strict=True) if split.lines[slide_id].part == part]
        for part in ("train", "validation")
    )
    if not training:
        raise UserError(f"{path}: none of the {len(ids)} slides is for training; give some the part train")
    return training, validation or training
