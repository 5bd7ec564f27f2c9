"""Near duplicates: pairs of images that show the same pixels, also mirrored, turned, recompressed or resized.

An image is described by its luminance at 16x16 places, without mean and of unit length, so that the product of two is
their correlation. Images without contrast are left out: they are alike without being copies.

Shapes: n, m images, d = 256 places.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from ldm.evaluation.metrics.seams import LUMINANCE
from ldm.images.contact_sheet import Pixels

SIDE = 16
CONTRAST = 4.0
"""smallest standard deviation of the places, in grey levels of 255"""
SAME = 0.985
"""correlation from which two images count as one; tissue of other places reaches 0.9"""
BLOCK = 1024
Values = NDArray[np.float64]


class Pair(NamedTuple):
    """An image of each set, and their correlation."""

    first: int
    second: int
    correlation: float


def signature(image: Pixels) -> Values:
    """(d,); nan for an image without contrast."""
    small = PillowImage.fromarray(image).resize((SIDE, SIDE), PillowImage.Resampling.BOX)
    grey = np.asarray(small).astype(np.float64) @ LUMINANCE.astype(np.float64)
    if grey.std() < CONTRAST:
        return np.full(SIDE * SIDE, np.nan)
    grey = (grey - grey.mean()).ravel()
    return grey / np.linalg.norm(grey)


def near_duplicates(first: Sequence[Values], second: Sequence[Values] | None = None) -> list[Pair]:
    """The nearest image of `second` of every image of `first` that has a duplicate there, the most alike first.

    Without `second`, pairs within `first`, each once.
    """
    within = second is None
    a, b = np.array(first), np.array(first if second is None else second)
    if not a.size or not b.size:
        return []
    turned = _turned(np.nan_to_num(b))  # (8, m, d)
    found = []
    for start in range(0, len(a), BLOCK):
        block = np.nan_to_num(a[start : start + BLOCK])
        best = np.max([block @ one.T for one in turned], axis=0)  # (rows, m)
        for row, values in enumerate(best, start):
            if within:
                values[: row + 1] = -1
            nearest = int(values.argmax())
            if values[nearest] >= SAME:
                found.append(Pair(row, nearest, float(values[nearest])))
    return sorted(found, key=lambda pair: -pair.correlation)


def _turned(signatures: Values) -> list[Values]:
    """All eight turns and reflections."""
    squares = signatures.reshape(-1, SIDE, SIDE)
    turns = [np.rot90(part, k, (1, 2)) for part in (squares, squares[:, :, ::-1]) for k in range(4)]
    return [turn.reshape(len(turn), -1) for turn in turns]
