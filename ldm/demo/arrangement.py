"""Where tumour nests and lymphoid follicles lie on slides whose label is how they are arranged.

Every such slide has COUNT nests and as many follicles of the same sizes, apart from their like, and no other cluster of
lymphocytes; tissue is everywhere, and neither fat nor stroma depends on the label.
Beside: each follicle is GAP pixels from a nest. Apart: none is within FAR pixels of any. No tile of 128 px shows both a
nest and a follicle; regions of 512 px (5x) do on slides of the first kind alone.

Shapes: m samples of a region map (size / STEP).
"""

from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage

from ldm.demo.textures import STEP, Array
from ldm.errors import UserError

COUNT = 4
NEST_PX, FOLLICLE_PX = (75.0, 100.0), (55.0, 75.0)
"""radii"""
GAP, FAR = (185, 215), 745
"""distances in base pixels; the diagonals of squares of 128 and 512 px are 181 and 724"""
BORDER = 30
"""pixels around a follicle over which its lymphocytes thin out"""
MARGIN = 0.1
"""of the slide, without centres"""
TRIES, CANDIDATES = 2_000, 500


class Drawing(Protocol):
    """What a layout draws: `ldm.demo.histology_map.Layout`."""

    rng: np.random.Generator
    size_px: int
    y: Array
    x: Array

    def noise(self, wavelength: float) -> Array: ...


class Arrangement(NamedTuple):
    """Signed distances (m, m), positive inside."""

    nests: Array
    follicles: Array


def arranged(layout: Drawing, beside: bool) -> Arrangement:
    """Nests and follicles, beside each other or apart. UserError for a slide that is too small for them."""
    rough = 14 * layout.noise(330), 8 * layout.noise(200)
    for _ in range(TRIES):
        radii = [layout.rng.uniform(*NEST_PX, COUNT), layout.rng.uniform(*FOLLICLE_PX, COUNT)]
        centres = _centres(layout, radii[0], radii[1], beside)
        if centres is None:
            continue
        nests, follicles = (
            _discs(layout, where, of) + more for where, of, more in zip(centres, radii, rough, strict=True)
        )
        if _fits(nests, follicles, beside):
            return Arrangement(nests, follicles)
    raise UserError(f"size: {layout.size_px} px are too few for nests and follicles apart; expected at least 2048")


def _centres(layout: Drawing, nest_px: Array, follicle_px: Array, beside: bool) -> tuple[Array, Array] | None:
    """Centres (n, 2) of nests and follicles with these radii, before their outline is drawn; None: not found."""
    nests: list[Array] = []
    follicles: list[Array] = []
    low, high = GAP if beside else (FAR, np.inf)
    for own, radii in ((nests, nest_px), (follicles, follicle_px)):
        for r in radii:
            found = layout.rng.uniform(MARGIN, 1 - MARGIN, (CANDIDATES, 2)) * layout.size_px
            fits = np.ones(len(found), bool)
            for there, of in zip(own, radii, strict=False):
                fits &= _gaps(found, r, there, of) >= GAP[0]
            if own is follicles:
                gaps = [_gaps(found, r, there, of) for there, of in zip(nests, nest_px, strict=True)]
                nearest = np.min(gaps, axis=0)
                fits &= (nearest >= low) & (nearest <= high)
            if not fits.any():
                return None
            own.append(found[fits.argmax()])
    return np.stack(nests), np.stack(follicles)


def _gaps(centres: Array, radius: float, centre: Array, other: float) -> Array:
    """Distances (n,) of discs at `centres` (n, 2) from the disc at `centre`."""
    return np.linalg.norm(centres - centre, axis=1) - radius - other


def _discs(layout: Drawing, centres: Array, radii: Array) -> Array:
    places = zip(centres.tolist(), radii.tolist(), strict=True)
    return np.max([r - np.hypot(layout.y - y, layout.x - x) for (y, x), r in places], axis=0)


def _fits(nests: Array, follicles: Array, beside: bool) -> bool:
    """Whether every follicle is as far from the nearest nest as asked."""
    distance = ndimage.distance_transform_edt(nests <= 0) * STEP
    pieces, count = ndimage.label(follicles > -BORDER)
    gaps = ndimage.minimum(distance, pieces, range(1, count + 1)) if count else []
    within = GAP if beside else (FAR, np.inf)
    return count == COUNT and all(within[0] <= gap <= within[1] for gap in gaps)
