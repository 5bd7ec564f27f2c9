"""Whether a band that is tagged alpha is one, told by its values.

Fourth bands are tagged alpha that are none: the infrared of NAIP scenes, padding that is 0 everywhere. A mask is 0 and
255 almost everywhere, with soft edges at most, and has more opaque pixels than such; the infrared of nothing but water
is nearly all 0 and has hardly a pixel of 255. One that hides everything hides nothing but fill of one colour.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError

BETWEEN_MAX = 0.05
"""largest share of a mask's pixels that are neither 0 nor 255: its soft edges"""
REMEDY = "take it out, for example vips extract_band IN OUT 0 --n 3, or if it is real put it on white: vips flatten"


class Alpha:
    """What was seen of a band tagged alpha, in parts of a picture."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)
        self._colours: set[bytes] = set()  # of a part whose pixels are all alike; two kinds are enough to know

    def add(self, alpha: NDArray[np.uint8], colours: NDArray[Any]) -> None:
        """A part: `alpha` (h, w), and its `colours` (h, w, channels)."""
        self._counts += np.bincount(alpha.ravel(), minlength=256)
        pixels = colours.reshape(-1, colours.shape[-1])
        self._colours |= {pixels.min(0).tobytes(), pixels.max(0).tobytes()} if len(pixels) else set()

    def why_none(self) -> str:
        """Why it is no mask; empty when it is one, or nothing was seen of it."""
        total, between, opaque = int(self._counts.sum()), int(self._counts[1:255].sum()), int(self._counts[255])
        if self._counts[0] == total:
            return "it is 0 everywhere, over different colours" if len(self._colours) > 1 else ""
        if between <= BETWEEN_MAX * total and opaque > between:
            return ""
        return (
            f"{100 * between / total:.3g} % of it is neither 0 nor 255, {100 * opaque / total:.3g} % is 255 (infrared?)"
        )


def check_alpha(path: Path, alpha: NDArray[np.uint8], colours: NDArray[Any]) -> None:
    """UserError for a picture whose `alpha` (h, w) over `colours` (h, w, channels) is none."""
    seen = Alpha()
    seen.add(alpha, colours)
    refuse_alpha(path, seen)


def refuse_alpha(path: Path, seen: Alpha) -> None:
    """UserError for a picture whose alpha, as far as it was `seen`, is none."""
    if why := seen.why_none():
        raise UserError(f"{path}: its last channel is tagged alpha, but {why}; {REMEDY}")
