"""Where a classifier of bags looks: its attention over a picture of the slide.

Shapes: n tiles, H, W pixels.
"""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
COLD, HOT = np.array([60.0, 90, 190]), np.array([225.0, 40, 30])
VEIL = 0.55
"""how much of a pixel the colour covers"""


def attention_map(
    picture: Pixels, attention: NDArray[np.floating], corners: NDArray[np.floating], side: float
) -> Pixels:
    """`picture` (H, W, 3) with its tiles coloured from COLD, no attention, to HOT, the most that one of them gets.

    attention (n,) of square tiles of `side` pixels whose first pixels are at x, y `corners` (n, 2). Pixels under no
    tile stay as they are.
    """
    shown = picture.astype(np.float64)
    begins, ends = (np.rint(edge).astype(int).tolist() for edge in (corners, corners + side))
    for share, (left, top), (right, bottom) in zip(attention / attention.max(), begins, ends, strict=True):
        colour = COLD + share * (HOT - COLD)
        tile = shown[top:bottom, left:right]
        tile += VEIL * (colour - tile)
    return np.rint(shown).astype(np.uint8)
