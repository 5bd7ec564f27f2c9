"""Every image is read once: its size, its traces of compression and resampling, its signature and its features.

Shapes: n images, d channels of the space.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ldm.errors import UserError
from ldm.evaluation.metrics.extractors import Extractor
from ldm.evaluation.passport.duplicates import signature
from ldm.evaluation.passport.folders import FolderImage
from ldm.evaluation.passport.jpeg_traces import Trace, jpeg_trace
from ldm.evaluation.passport.resampling_traces import difference_spectra, fine_detail
from ldm.images.contact_sheet import Pixels

LEAST_PX = 32
TRACED, TRACED_EVERYWHERE = 64, 4
"""images of a folder that are searched for JPEG, and of those that are searched as crops"""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Traces:
    """What one image's file and pixels tell."""

    size: tuple[int, int]
    """height and width"""
    signature: Values
    detail: float
    spectra: list[Values]
    jpeg: Trace | None
    searched: bool
    """whether JPEG was looked for"""


@dataclass(frozen=True)
class Folder:
    """The images of one side, as they were read."""

    images: list[FolderImage]
    traces: list[Traces]
    features: Values
    """(n, d)"""

    def part(self, numbers: Sequence[int]) -> "Folder":
        """Some of them."""
        return Folder(
            [self.images[i] for i in numbers], [self.traces[i] for i in numbers], self.features[list(numbers)]
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        return Counter(traces.size for traces in self.traces)


def read(images: Sequence[FolderImage], extractor: Extractor, batch: int, what: str) -> Folder:
    """UserError for an image that cannot be read, or below LEAST_PX."""
    searched = {i * len(images) // TRACED for i in range(TRACED)}
    crops = {i * len(images) // TRACED_EVERYWHERE for i in range(TRACED_EVERYWHERE)}
    traces: list[Traces] = []
    waiting: list[Pixels] = []
    features = [np.zeros((0, extractor.width))]

    def embed() -> None:
        if waiting:
            features.append(extractor(torch.from_numpy(np.stack(waiting))).numpy().astype(np.float64))
            waiting.clear()

    for number, image in enumerate(tqdm(images, what, unit="image", leave=False)):
        pixels = image.pixels()
        height, width = pixels.shape[:2]
        if min(height, width) < LEAST_PX:
            raise UserError(f"{image.path}: is {width}x{height} px; expected at least {LEAST_PX} on both sides")
        if len(waiting) == batch or (waiting and waiting[0].shape != pixels.shape):
            embed()
        waiting.append(pixels)
        jpeg = jpeg_trace(image.path, pixels, number in crops) if number in searched | crops else None
        measured = signature(pixels), fine_detail(pixels), difference_spectra(pixels)
        traces.append(Traces((height, width), *measured, jpeg, number in searched | crops))
    embed()
    found = np.concatenate(features)
    if not np.isfinite(found).all():
        raise UserError(f"--space: {extractor.id} gives features that are not finite; check its weights")
    return Folder(list(images), traces, found)
