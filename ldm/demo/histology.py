"""Procedural H&E slides with structure at every scale, a function of the seed alone.

Coarse scales show a tissue outline, tumour nests, fat lobules and lymphoid follicles; intermediate scales show stroma
around the nests, glands with lumens, vessels; full resolution shows nuclei, fibres, cell membranes. Layout, textures,
nuclei and stain are all drawn from the slide's seed.

Colour follows Beer and Lambert: intensity = glass * exp(-(hematoxylin * od_h + eosin * od_e)), per channel.
Shapes: n points (y, x) in base pixels; distances in base pixels, positive inside.
"""

from dataclasses import dataclass

import numpy as np

from ldm.demo.histology_map import region_maps
from ldm.demo.textures import (
    BLOCK,
    STEP,
    TILE,
    Array,
    ImageCanvas,
    RegionMaps,
    Spot,
    blocks,
    edge,
    fetch,
    fetch_at,
    jittered_grid,
    mosaic,
    noise,
    sprite_bank,
)

GLASS = np.array([244, 243, 245], np.float32)


@dataclass(frozen=True)
class Textures:
    """Periodic tiles (TILE, TILE) of one slide: noise of standard deviation 1, distances to cell walls in pixels."""

    fine: Array
    middle: Array
    broad: Array
    fibres: Array
    strands: Array
    fat_walls: Array
    cell_walls: Array
    red_cells: Array


def textures(rng: np.random.Generator, nucleus_spacing: float) -> Textures:
    """The textures of one slide."""
    shape = (TILE, TILE)
    fibres = noise(rng, shape, (rng.uniform(13, 20), 280)) + 0.5 * noise(rng, shape, (7, 140))
    return Textures(
        fine=noise(rng, shape, 6),
        middle=noise(rng, shape, 28),
        broad=noise(rng, shape, 120),
        fibres=fibres / fibres.std(),
        strands=noise(rng, shape, (rng.uniform(16, 26), 330)),
        fat_walls=mosaic(rng, rng.uniform(75, 120), vary=0.5, rounding=14.0),
        cell_walls=mosaic(rng, nucleus_spacing * 1.15, vary=0.2, rounding=1.5),
        red_cells=mosaic(rng, 14, vary=0.1, rounding=1.0),
    )


@dataclass(frozen=True)
class Character:
    """Parameters of one slide's cells and stain."""

    nucleus_px: float
    """half length of a tumour nucleus"""
    spacing: float
    """distance between tumour nuclei in pixels"""
    crowding: float
    """density of spindle nuclei in the stroma, 0 to 1"""
    slits: float
    """how easily the stroma splits"""
    od_h: Array
    od_e: Array


def character(rng: np.random.Generator) -> Character:
    """Draw a slide's character; stain vectors lie around Ruifrok and Johnston's (2001)."""
    nucleus_px = rng.uniform(7.5, 11.0)
    od_h = np.array([0.66, 0.72, 0.30]) + rng.normal(0, 0.035, 3)
    od_e = np.array([0.10, 0.78, 0.33]) + rng.normal(0, 0.035, 3)
    return Character(
        nucleus_px=nucleus_px,
        spacing=nucleus_px * rng.uniform(2.7, 3.3),
        crowding=rng.uniform(0.35, 0.75),
        slits=rng.uniform(-0.35, 0.35),
        od_h=(od_h * 1.55 * rng.uniform(0.85, 1.15)).astype(np.float32),
        od_e=(od_e * 1.55 * rng.uniform(0.8, 1.2)).astype(np.float32),
    )


def stamp_nuclei(
    rng: np.random.Generator, maps: RegionMaps, look: Character, tiles: Textures, size_px: int
) -> ImageCanvas:
    """Draw all nuclei of the slide: tumour, necrotic debris, spindle cells of the stroma, vessels, lymphocytes."""
    canvas = ImageCanvas(size_px)
    px, vesicular = look.nucleus_px, rng.uniform(0, 0.5)
    tumour = Spot((0.8 * px, 1.3 * px), (0.65 * px, 0.95 * px), (0.75, 1.25), vesicular, dots=rng.uniform(0, 0.8))
    debris = Spot((2, 4.5), (2, 3.5), (1.3, 1.7))
    spindle = Spot((9, 15), (2.6, 4.2), (1.1, 1.4))
    lymphocyte = Spot((4.8, 6.2), (4.5, 5.6), (1.4, 1.8), wobble=0.03)
    banks = [
        sprite_bank(rng, spot, count) for spot, count in ((tumour, 20), (debris, 4), (spindle, 8), (lymphocyte, 6))
    ]

    def place(spacing: float, jitter: float = 0.6) -> tuple[Array, dict[str, Array], Array]:
        points = jittered_grid(rng, size_px, spacing, jitter)
        names = ("tissue", "nest", "lumen", "necrosis", "fat", "vessel", "lymphocytes")
        return points, {name: maps.at(name, points) for name in names}, rng.random(len(points))

    points, here, chance = place(look.spacing)
    alive = (here["tissue"] > 8) & (here["nest"] > 5) & (here["lumen"] < -9) & (here["necrosis"] < -4)
    canvas.stamp(banks[0], points[alive & (chance < 0.93)], rng)
    points, here, chance = place(18)
    dead = (here["tissue"] > 8) & (here["nest"] > 5) & (here["necrosis"] > 6)
    canvas.stamp(banks[1], points[dead & (chance < 0.2)], rng)
    points, here, chance = place(38)
    stroma = (here["tissue"] > 12) & (here["nest"] < -10) & (here["fat"] < -6) & (here["vessel"] < -10)
    points = points[stroma & (chance < look.crowding)]
    canvas.stamp(banks[2], points, rng, flow_angle(maps, points) + rng.normal(0, 0.12, len(points)))
    points, here, _ = place(15)
    wall = fetch_at(tiles.fat_walls, points)
    lining = (here["vessel"] > -9) & (here["vessel"] < -2) | (here["fat"] > 10) & (wall < 1) & (
        rng.random(len(wall)) < 0.2
    )
    canvas.stamp(banks[3], points[(here["tissue"] > 8) & lining], rng)
    points, here, chance = place(15)
    share = here["lymphocytes"] * (here["nest"] < -4) + 0.008
    free = (here["tissue"] > 8) & (here["fat"] < -5) & (here["lumen"] < -8) & (here["vessel"] < -8)
    canvas.stamp(banks[3], points[free & (chance < share)], rng)
    return canvas


def flow_angle(maps: RegionMaps, points: Array) -> Array:
    """(n,) direction of the fibres at `points`, radians: along the level lines of the flow."""
    gy, gx = np.gradient(maps["flow"])
    rows, columns = np.minimum(points / STEP, len(gy) - 1).astype(int).T
    return np.arctan2(gx[rows, columns], -gy[rows, columns]) % np.pi


class Painter:
    """Renders one block: layers of (hematoxylin, eosin), each composited over those before it."""

    def __init__(self, maps: RegionMaps, tiles: Textures, look: Character, corner: tuple[int, int]) -> None:
        self.maps, self.tiles, self.look, self.corner = maps, tiles, look, corner
        self.fine, self.middle, self.broad = (self.tile(name) for name in ("fine", "middle", "broad"))
        self.hematoxylin = np.zeros((BLOCK, BLOCK), np.float32)
        self.eosin = np.zeros((BLOCK, BLOCK), np.float32)

    def tile(self, name: str) -> Array:
        return fetch(getattr(self.tiles, name), *self.corner)

    def region(self, name: str) -> Array:
        return self.maps.block(name, *self.corner)

    def reaches(self, name: str, margin: float = 30) -> bool:
        """Whether the region comes within `margin` pixels of this block."""
        return float(self.maps.near(name, *self.corner).max()) > -margin

    def lay(self, mask: Array, hematoxylin: Array | float, eosin: Array | float) -> None:
        """Composite a layer over the present ones, with opacity `mask` (0..1)."""
        self.hematoxylin += mask * (hematoxylin - self.hematoxylin)
        self.eosin += mask * (eosin - self.eosin)

    def stroma(self) -> None:
        """Fibres: a texture looked up across and along the flow; it splits where the strands are thinnest."""
        across = self.region("flow") * np.float32(1.05) + 2.2 * self.middle + 5 * self.broad
        along = self.region("along") + 4 * self.middle + 20 * self.broad
        place = (across.astype(np.int32) % TILE) * TILE + along.astype(np.int32) % TILE
        fibres, strands = self.tiles.fibres.take(place), self.tiles.strands.take(place)
        tint, lymph = self.region("tint"), self.region("lymphocytes")
        slit = np.clip((-strands - 1.55 + self.look.slits - 0.25 * tint) * 2.5, 0, 1)
        eosin = (0.48 + 0.09 * fibres + 0.05 * self.broad) * (1 - 0.85 * slit) * (1 - 0.15 * lymph)
        hematoxylin = (0.10 + 0.05 * tint + 0.02 * fibres + 0.09 * lymph) * (1 - 0.85 * slit)
        self.lay(np.ones_like(eosin), hematoxylin, eosin)

    def fat(self) -> None:
        """Empty round cells between thin membranes; cells cut by the lobule's border keep a membrane of their own."""
        region = np.minimum(self.region("fat"), self.region("tissue")) + 5 * self.middle
        self.lay(edge(region + 3, 4), 0.05, 0.38 + 0.04 * self.middle)
        self.lay(edge(np.minimum(self.tile("fat_walls"), region) - 1.9, 1.5), 0.0, 0.01)

    def nest(self) -> None:
        """Tumour cytoplasm with faint cell borders, and the necrosis and lumens inside it."""
        inside = edge(self.region("nest") + 3 * self.middle, 3)
        border = np.clip(1.2 - 0.6 * self.tile("cell_walls"), 0, 1)
        self.lay(inside, 0.27 + 0.04 * self.broad - 0.08 * border, 0.36 + 0.04 * self.middle - 0.1 * border)
        if self.reaches("necrosis", 60):
            dead = edge(self.region("necrosis") + 10 * self.middle, 24) * inside
            self.lay(dead, 0.1, 0.66 + 0.05 * self.fine + 0.05 * self.middle)
        if self.reaches("lumen"):
            lumen = self.region("lumen") + 3 * self.middle
            self.lay(edge(lumen, 2.5), 0.0, 0.02)
            self.lay(edge(lumen - 14 + 9 * self.broad, 8) * (self.broad > 0), 0.02, 0.3)

    def vessel(self) -> None:
        """A smooth eosin wall around a lumen, partly filled with red cells."""
        region = self.region("vessel") + 1.5 * self.middle
        self.lay(edge(region + 9, 4) * 0.9, 0.1, 0.62)
        self.lay(edge(region, 2), 0.0, 0.02)
        filled = edge(self.broad + 0.2, 0.2) * edge(region - 4, 3)
        self.lay(filled * np.clip(self.tile("red_cells") * 0.7 - 0.4, 0, 1), 0.0, 0.85)

    def paint(self, coverage: Array, density: Array) -> Array:
        """(BLOCK, BLOCK, 3) uint8 pixels of this block; coverage and density are the nuclei's."""
        if not self.reaches("tissue"):
            return np.broadcast_to(GLASS.astype(np.uint8), (BLOCK, BLOCK, 3))
        self.stroma()
        for name, layer in (("fat", self.fat), ("vessel", self.vessel), ("nest", self.nest)):
            if self.reaches(name):
                layer()
        self.hematoxylin *= 1 + 0.06 * self.fine
        self.eosin *= 1 + 0.035 * self.fine
        self.lay(coverage, density, self.eosin * 0.6)
        tissue = edge(self.region("tissue") + 5 * self.middle, 4)
        hematoxylin = np.maximum(self.hematoxylin, 0) * tissue
        eosin = np.maximum(self.eosin, 0) * tissue
        bands = [np.exp(-(hematoxylin * h + eosin * e)) for h, e in zip(self.look.od_h, self.look.od_e, strict=True)]
        return (np.stack(bands, axis=-1) * GLASS).astype(np.uint8)


def histology_slide(seed: int, size_px: int = 4096, beside: bool | None = None) -> Array:
    """(size_px, size_px, 3) uint8 H&E slide at 0.5 um per pixel; `size_px` is a multiple of BLOCK.

    `beside`: a slide with tissue throughout, whose lymphoid follicles lie beside tumour nests, or apart from them.
    """
    layout_rng, look_rng, tile_rng, nucleus_rng = (np.random.default_rng([seed, part]) for part in range(4))
    maps, look = region_maps(layout_rng, size_px, beside), character(look_rng)
    tiles = textures(tile_rng, look.spacing)
    nuclei = stamp_nuclei(nucleus_rng, maps, look, tiles, size_px)
    image = np.empty((size_px, size_px, 3), np.uint8)
    for y, x in blocks(size_px):
        painter = Painter(maps, tiles, look, (y, x))
        image[y : y + BLOCK, x : x + BLOCK] = painter.paint(*nuclei.block(y, x))
    return image
