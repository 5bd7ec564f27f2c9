"""Decide from its values whether a band that is tagged alpha is a mask.

Some fourth bands are tagged alpha but are not: the infrared of NAIP scenes, padding that is 0 everywhere. A mask is 0
or 255 almost everywhere, with soft edges at most, and has more opaque than soft pixels; the infrared of open water is
almost all 0 and hardly ever 255. A mask that is 0 everywhere is accepted only over a single colour.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError

BETWEEN_MAX = 0.05
"""largest share of a mask's pixels that are neither 0 nor 255 (soft edges)"""
REMEDY = "take it out, for example vips extract_band IN OUT 0 --n 3, or if it is real put it on white: vips flatten"


class Alpha:
    """Statistics of a band tagged alpha, over parts of a picture."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)
        self._colours: set[bytes] = set()  # smallest and largest value per channel of each part

    def add(self, alpha: NDArray[np.uint8], colours: NDArray[Any]) -> None:
        """Add a part: `alpha` (h, w) and its `colours` (h, w, channels)."""
        self._counts += np.bincount(alpha.ravel(), minlength=256)
        pixels = colours.reshape(-1, colours.shape[-1])
        self._colours |= {pixels.min(0).tobytes(), pixels.max(0).tobytes()} if len(pixels) else set()

    def why_none(self) -> str:
        """Why it is not a mask; empty when it is one, or nothing was added."""
        total, between, opaque = int(self._counts.sum()), int(self._counts[1:255].sum()), int(self._counts[255])
        if self._counts[0] == total:
            return "it is 0 everywhere, over different colours" if len(self._colours) > 1 else ""
        if between <= BETWEEN_MAX * total and opaque > between:
            return ""
        return (
            f"{100 * between / total:.3g} % of it is neither 0 nor 255, {100 * opaque / total:.3g} % is 255 (infrared?)"
        )


def check_alpha(path: Path, alpha: NDArray[np.uint8], colours: NDArray[Any]) -> None:
    """UserError for a picture whose `alpha` (h, w) over `colours` (h, w, channels) is not a mask."""
    seen = Alpha()
    seen.add(alpha, colours)
    refuse_alpha(path, seen)


def refuse_alpha(path: Path, seen: Alpha) -> None:
    """UserError for a picture whose alpha band, by the statistics `seen`, is not a mask."""
    if why := seen.why_none():
        raise UserError(f"{path}: its last channel is tagged alpha, but {why}; {REMEDY}")
