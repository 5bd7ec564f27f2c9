"""The sampled image against what is known of it: the real pixels of its place, and its coarser canvas."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from einops import reduce
from numpy.typing import NDArray

from ldm.data.h5 import SlideFile
from ldm.evaluation.metrics.seams import gradient_energy
from ldm.images.contact_sheet import Pixels
from ldm.scales import Scale


class RealPatch(NamedTuple):
    """Pixels of the real image, and where they lie in the sampled one."""

    y: int
    x: int
    pixels: Pixels


def patches_of(slide: SlideFile, scale: Scale, place: tuple[int, int], size: tuple[int, int]) -> Iterator[RealPatch]:
    """The pictures that `slide` keeps of an image of `size` (height, width) at `scale` from base tile `place` on."""
    if scale.name not in slide.ladder.names or not slide.has_images(scale.name):
        return
    corners = (slide.ij(scale.name) * scale.downsample - place) * (slide.attrs["tile_px"] // scale.downsample)
    inside = (corners >= 0).all(1) & (corners < size).all(1)
    for row in np.flatnonzero(inside).tolist():
        y, x = corners[row].tolist()
        yield RealPatch(y, x, slide.images(scale.name, [row])[0])


def gradient_share(image: Pixels, real: Iterable[RealPatch]) -> float | None:
    """Gradient energy of `image` over that of the real one, where it is known; None where it is not."""
    ours, theirs = 0.0, 0.0
    for y, x, pixels in real:
        part = image[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        pixels = pixels[: part.shape[0], : part.shape[1]]
        if min(part.shape[:2], default=0) > 1:
            ours += gradient_energy(part) * part.size
            theirs += gradient_energy(pixels) * part.size
    return ours / theirs if theirs else None


class Shrunk:
    """Rounded f x f means of an image (height, width, 3) that comes in bands; incomplete ones are dropped."""

    def __init__(self, width: int, factor: int) -> None:
        self.factor = factor
        self.waiting = np.empty((0, width - width % factor, 3), np.uint8)
        self.rows: list[NDArray[np.uint8]] = []

    def add(self, band: NDArray[np.uint8]) -> None:
        waiting = np.concatenate([self.waiting, band[:, : self.waiting.shape[1]]])
        ready = len(waiting) - len(waiting) % self.factor
        means = reduce(
            waiting[:ready].astype(np.float32), "(h a) (w b) c -> h w c", "mean", a=self.factor, b=self.factor
        )
        self.rows.append(means.round().astype(np.uint8))
        self.waiting = waiting[ready:]

    @property
    def image(self) -> NDArray[np.uint8]:
        return np.concatenate(self.rows)
