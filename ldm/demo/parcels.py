"""Fields and streets: a rectangle split recursively by roads, down to fields or blocks of houses.

Shapes: p side of the parcel map, in samples of PARCEL_STEP base pixels; (v, u) coordinates in it.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from ldm.demo.textures import Array

PARCEL_STEP = 4
"""base pixels per sample of the parcel map"""


@dataclass
class Parcels:
    """The parcel map (p, p) under construction: the field's number, and where roads and lanes run."""

    rng: np.random.Generator
    side: int
    villages: Array
    """(k, 3) centre v, centre u and radius, in samples of the parcel map"""
    count: int = 0
    numbers: Array = field(init=False)
    road: Array = field(init=False)
    lane: Array = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = np.zeros((self.side, self.side), np.int32)
        self.road = np.zeros((self.side, self.side), bool)
        self.lane = np.zeros_like(self.road)
        self.split(0, self.side, 0, self.side, depth=0)

    def in_village(self, v: float, u: float) -> bool:
        return bool((np.hypot(self.villages[:, 0] - v, self.villages[:, 1] - u) < self.villages[:, 2]).any())

    def split(self, top: int, bottom: int, left: int, right: int, depth: int) -> None:
        """Cut the longer side until the parcel is as small as a field, or as a block of houses in a village."""
        height, width = bottom - top, right - left
        village = self.in_village((top + bottom) / 2, (left + right) / 2)
        smallest = self.rng.uniform(22, 32) if village else self.rng.uniform(70, 190)
        if max(height, width) < smallest:
            self.numbers[top:bottom, left:right] = self.count
            self.count += 1
            return
        share = self.rng.uniform(0.35, 0.65)
        run_road = depth < 3 or (depth < 6 and self.rng.random() < 0.3)
        kind = self.road if run_road else self.lane
        passable = run_road or village
        if height > width * self.rng.uniform(0.85, 1.2):
            cut = top + int(height * share)
            kind[cut, left:right] |= passable
            self.split(top, cut, left, right, depth + 1)
            self.split(cut, bottom, left, right, depth + 1)
        else:
            cut = left + int(width * share)
            kind[top:bottom, cut] |= passable
            self.split(top, bottom, left, cut, depth + 1)
            self.split(top, bottom, cut, right, depth + 1)

    def distances(self) -> tuple[Array, Array, Array]:
        """(p, p) distances in base pixels to the field's border, the nearest road and the nearest lane."""
        border = np.zeros_like(self.road)
        border[1:] |= self.numbers[1:] != self.numbers[:-1]
        border[:, 1:] |= self.numbers[:, 1:] != self.numbers[:, :-1]
        return tuple(
            (ndimage.distance_transform_edt(~lines) * PARCEL_STEP).astype(np.float32)
            for lines in (border, self.road, self.lane)
        )
