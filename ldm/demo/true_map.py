"""The true map of a drawn slide or scene: which class lies where, known because it was drawn from it.

The names of histology are those that QuPath offers for new annotations. What is far smaller than a base tile (vessels,
lumens of glands; roads, houses) belongs to the class around it.

Shapes: m samples of a region map (size / STEP). Values are positions in the names of `CLASSES`.
"""

import numpy as np

from ldm.demo.histology_map import region_maps
from ldm.demo.satellite import plan
from ldm.demo.textures import STEP, Array, RegionMaps

Colour = tuple[int, int, int]
CLASSES: dict[str, dict[str, Colour]] = {
    "histology": {
        "Background": (235, 235, 235),
        "Stroma": (150, 200, 150),
        "Tumor": (200, 0, 0),
        "Necrosis": (50, 50, 50),
        "Fat": (240, 200, 60),
        "Immune cells": (160, 90, 160),
    },
    "satellite": {
        "Fields": (225, 200, 120),
        "Forest": (40, 120, 50),
        "Water": (60, 110, 210),
        "Village": (190, 80, 60),
    },
}
"""names and colours by kind of a ladder"""
GLASS = "Background"
"""what is no tissue, and no region of a map"""
DENSE = 0.5
"""density of lymphocytes from which the class is theirs"""


def true_map(kind: str, seed: int, size_px: int, beside: bool | None = None) -> Array:
    """(m, m) uint8 of slide `seed`, drawn `size_px` wide (`ldm.demo.histology`, `ldm.demo.satellite`)."""
    if kind == "satellite":
        return _scene(plan(np.random.default_rng([seed, 100]), size_px).maps, size_px)
    return _slide(region_maps(np.random.default_rng([seed, 0]), size_px, beside), size_px)


def _slide(maps: RegionMaps, size_px: int) -> Array:
    order = list(CLASSES["histology"])
    found = np.full((size_px // STEP,) * 2, order.index("Stroma"), np.uint8)
    nest = maps["nest"] > 0
    found[(maps["lymphocytes"] > DENSE) & ~nest] = order.index("Immune cells")
    found[maps["fat"] > 0] = order.index("Fat")
    found[nest] = order.index("Tumor")
    found[nest & (maps["necrosis"] > 0)] = order.index("Necrosis")
    found[maps["tissue"] <= 0] = order.index("Background")
    return found


def _scene(maps: RegionMaps, size_px: int) -> Array:
    order = list(CLASSES["satellite"])
    found = np.full((size_px // STEP,) * 2, order.index("Fields"), np.uint8)
    for name, label in (("village", "Village"), ("forest", "Forest"), ("river", "Water")):
        found[maps[name] > 0] = order.index(label)
    return found
