"""Layout of a procedural H&E slide: tissue, tumour nests, fat, vessels, lymphocytes, direction of the stroma.

Shapes: m samples of a region map (size / STEP). Distances and wavelengths in base pixels; distances positive inside.
"""

import numpy as np
from scipy import ndimage

from ldm.demo.arrangement import BORDER, arranged
from ldm.demo.textures import STEP, Array, RegionMaps, edge, noise

FAR = np.float32(-1e6)


class Layout:
    """Draws region maps (m, m) of one slide."""

    def __init__(self, rng: np.random.Generator, size_px: int) -> None:
        self.rng, self.size_px, self.samples = rng, size_px, size_px // STEP
        self.y, self.x = np.mgrid[0 : self.samples, 0 : self.samples].astype(np.float32) * STEP
        self.area = (size_px / 4096) ** 2

    def noise(self, wavelength: float) -> Array:
        """Noise of `wavelength` base pixels, cut from a larger period so that opposite borders differ."""
        period = self.samples + self.samples // 2
        return noise(self.rng, (period, period), wavelength / STEP)[: self.samples, : self.samples]

    def ellipses(self, count: int, radius: tuple[float, float], where: tuple[float, float] = (0, 1)) -> Array:
        """Signed distance to the union of `count` random ellipses."""
        inside = np.full(self.y.shape, FAR)
        for _ in range(count):
            cy, cx = self.rng.uniform(*where, 2) * self.size_px
            r, stretch, turn = self.rng.uniform(*radius), self.rng.uniform(0.7, 1.4), self.rng.uniform(0, np.pi)
            dy, dx = self.y - cy, self.x - cx
            u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
            inside = np.maximum(inside, r - np.hypot(u * stretch, v / stretch))
        return inside


def tissue_map(layout: Layout) -> Array:
    """One or two pieces of tissue, some with a tear."""
    size, rng = layout.size_px, layout.rng
    pieces = layout.ellipses(int(rng.integers(1, 3)), (0.34 * size, 0.6 * size), where=(0.3, 0.7))
    tissue = pieces + 0.09 * size * layout.noise(0.35 * size) + 45 * layout.noise(420) + 8 * layout.noise(110)
    tear = np.abs(layout.noise(900) + 0.2 * layout.noise(170) - rng.uniform(-1, 1)) * 300
    return np.minimum(tissue, tear - rng.uniform(-12, 16))


def nest_maps(layout: Layout, given: Array | None = None) -> dict[str, Array]:
    """Tumour: solid nests, infiltrating cords, and lumens of glands and necrosis inside them.

    `given` nests take the place of those that are drawn, cords among them.
    """
    rng = layout.rng
    count = int(rng.integers(3, 16) * layout.area) + 1
    solid = layout.ellipses(count, (110, 400)) + 34 * layout.noise(330) + 8 * layout.noise(90)
    zone = layout.noise(0.4 * layout.size_px) + rng.uniform(-1.2, 0.6)
    cords = np.minimum((layout.noise(210) + 0.4 * layout.noise(110) - 0.8) * 70, zone * 220)
    nest = np.maximum(solid, cords) if given is None else given
    solid = solid if given is None else given
    glandular = rng.uniform(1.0, 2.2)
    lumen = np.minimum((layout.noise(170) - glandular) * 60, nest - 34)
    necrosis = solid - rng.uniform(150, 330) + 22 * layout.noise(170)
    return {"nest": nest, "lumen": lumen, "necrosis": np.minimum(necrosis, -lumen - 40)}


def region_maps(rng: np.random.Generator, size_px: int, beside: bool | None = None) -> RegionMaps:
    """The region maps of a slide; `beside` arranges nests and follicles: `ldm.demo.arrangement`."""
    layout = Layout(rng, size_px)
    own = None if beside is None else arranged(Layout(rng.spawn(1)[0], size_px), beside)
    maps = {"tissue": tissue_map(layout)} | nest_maps(layout, own and own.nests)
    nest = maps["nest"]
    vessel = layout.ellipses(int(rng.integers(6, 20) * layout.area) + 1, (16, 60)) + 4 * layout.noise(90)
    maps["vessel"] = np.minimum(vessel, -nest - 16)
    fat = (layout.noise(rng.uniform(700, 1300)) + 0.12 * layout.noise(260) - rng.uniform(0.2, 1.5)) * 300
    maps["fat"] = np.minimum(fat, np.minimum(-nest - 50, -maps["vessel"] - 30))
    follicle = layout.ellipses(int(rng.integers(0, 8) * layout.area), (90, 260))
    follicle = follicle + 25 * layout.noise(200)
    outside = (ndimage.distance_transform_edt(nest <= 0) - ndimage.distance_transform_edt(nest > 0)) * STEP
    cuff = np.exp(-(((outside - 60) / 60) ** 2)) * (layout.noise(500) + rng.uniform(-1.2, 0.4))
    scatter = 0.35 * layout.noise(420) - 0.75
    maps["lymphocytes"] = np.maximum(edge(follicle, 60), np.clip(np.maximum(cuff, scatter), 0, 0.8))
    if own is not None:
        maps["lymphocytes"] = edge(own.follicles, 2 * BORDER)
        maps["tissue"] = np.full_like(nest, size_px)
        for name in ("fat", "vessel"):
            maps[name] = np.minimum(maps[name], -own.follicles - 2 * BORDER)
        outside = np.zeros_like(nest)  # the stroma would tell how far a nest is
    turn = rng.uniform(0, 2 * np.pi)
    slope = layout.x * np.cos(turn) + layout.y * np.sin(turn)
    around = ndimage.gaussian_filter(np.clip(outside, -60, 600), 60 / STEP)
    maps["flow"] = around + 0.8 * slope + 170 * layout.noise(1100) + 40 * layout.noise(430)
    maps["along"] = 1.4 * (layout.y * np.cos(turn) - layout.x * np.sin(turn)) + 60 * layout.noise(700)
    maps["tint"] = layout.noise(800)
    return RegionMaps(maps)
