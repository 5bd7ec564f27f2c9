"""Where tumour nests and lymphoid follicles lie on slides whose label is how they are arranged.

Every such slide has two nests and two follicles of the same sizes, apart from their like, and no other cluster of
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

PAIR = 2
NEST_PX, FOLLICLE_PX = (130.0, 180.0), (85.0, 115.0)
"""radii"""
GAP, FAR = (200, 300), 745
"""distances in base pixels; the diagonals of squares of 128 and 512 px are 181 and 724"""
BORDER = 30
"""pixels around a follicle over which its lymphocytes thin out"""
MARGIN = 0.1
"""of the slide, without centres"""
TRIES = 20_000


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
        radii = [layout.rng.uniform(*NEST_PX, PAIR), layout.rng.uniform(*FOLLICLE_PX, PAIR)]
        centres = [layout.rng.uniform(MARGIN, 1 - MARGIN, (len(of), 2)) * layout.size_px for of in radii]
        if not _may_fit(centres, radii, beside):
            continue
        nests, follicles = (
            _discs(layout, where, of) + more for where, of, more in zip(centres, radii, rough, strict=True)
        )
        if _fits(nests, follicles, beside):
            return Arrangement(nests, follicles)
    raise UserError(f"size: {layout.size_px} px are too few for nests and follicles apart; expected at least 2048")


def _may_fit(centres: list[Array], radii: list[Array], beside: bool) -> bool:
    """Whether discs, as centres (n, 2) and radii (n,), are roughly as asked, before their outline is drawn."""
    gaps = np.linalg.norm(centres[0][:, None] - centres[1], axis=2) - radii[0][:, None] - radii[1]
    nearest = gaps.min(0)
    if any(np.linalg.norm(where[0] - where[1]) < of.sum() + GAP[0] for where, of in zip(centres, radii, strict=True)):
        return False
    return bool((nearest > GAP[0]).all() and (nearest < GAP[1] + 60).all() if beside else (nearest > FAR).all())


def _discs(layout: Drawing, centres: Array, radii: Array) -> Array:
    places = zip(centres.tolist(), radii.tolist(), strict=True)
    return np.max([r - np.hypot(layout.y - y, layout.x - x) for (y, x), r in places], axis=0)


def _fits(nests: Array, follicles: Array, beside: bool) -> bool:
    """Whether every follicle is as far from the nearest nest as asked."""
    distance = ndimage.distance_transform_edt(nests <= 0) * STEP
    pieces, count = ndimage.label(follicles > -BORDER)
    gaps = ndimage.minimum(distance, pieces, range(1, count + 1)) if count else []
    within = GAP if beside else (FAR, np.inf)
    return count == PAIR and all(within[0] <= gap <= within[1] for gap in gaps)
