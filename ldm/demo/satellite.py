"""Procedural satellite scenes of farmland in red, green, blue and near infrared, a function of the seed alone.

Coarse scales show forest, a river, fields and villages; fine scales show roads, crop rows, tree crowns, roofs and their
shadows. Fields and streets are drawn in coordinates (v, u), which a rotation and a smooth warp map to the scene.

Shapes: n points (y, x) in base pixels (metres); s side of an object's picture. Distances in base pixels, positive
inside; reflectances in 4 bands, 1.0 is white.
"""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from scipy import ndimage
from scipy.spatial import cKDTree

from ldm.demo.parcels import PARCEL_STEP, Parcels
from ldm.demo.textures import (
    BLOCK,
    STEP,
    TILE,
    Array,
    RegionMaps,
    blocks,
    edge,
    fetch,
    jittered_grid,
    lattice,
    noise,
)

MARGIN = 48
"""border of the plane of objects, in base pixels"""
CROPS = np.array(
    [
        [0.30, 0.44, 0.24, 0.75],
        [0.36, 0.52, 0.27, 0.80],
        [0.46, 0.58, 0.30, 0.72],
        [0.58, 0.60, 0.36, 0.60],
        [0.70, 0.62, 0.42, 0.50],
        [0.62, 0.50, 0.38, 0.42],
        [0.52, 0.40, 0.32, 0.36],
        [0.76, 0.70, 0.52, 0.52],
    ],
    np.float32,
)
GRASS = np.array([0.40, 0.50, 0.32, 0.68], np.float32)
LEAVES = np.array([0.24, 0.38, 0.25, 0.78], np.float32)
WATER = np.array([0.16, 0.27, 0.32, 0.06], np.float32)
BANK = np.array([0.60, 0.56, 0.44, 0.45], np.float32)
ROAD = np.array([0.66, 0.65, 0.62, 0.58], np.float32)
ROOFS = np.array([[0.80, 0.80, 0.80, 0.7], [0.62, 0.38, 0.32, 0.5], [0.45, 0.46, 0.50, 0.4], [0.74, 0.62, 0.5, 0.6]])
SHADE = np.array([0.14, 0.18, 0.18, 0.20])


@dataclass(frozen=True)
class Crowns:
    """A periodic tile of sunlit tree crowns, each a dome that may hide its neighbours; arrays (TILE, TILE)."""

    light: Array
    """brightness around 0"""
    solid: Array
    """whether the pixel lies on a crown"""
    offset: Array
    """(2, TILE, TILE) offset from the pixel to the centre of its crown, in pixels: forests end with whole crowns"""


def draw_crowns(rng: np.random.Generator, spacing: float) -> Crowns:
    """Crowns `spacing` pixels apart."""
    count = round(TILE / spacing)
    pitch = TILE / count
    centres = (lattice(count) + 0.5 + rng.uniform(-0.42, 0.42, (count**2, 2))) * pitch % TILE
    radius = rng.uniform(0.5, 0.85, len(centres)) * pitch
    samples = lattice(TILE) + 0.5
    distance, index = cKDTree(centres, boxsize=TILE).query(samples, k=3)
    domes = np.sqrt(np.maximum(1 - (distance / radius[index]) ** 2, 0)) * radius[index]
    tallest = domes.argmax(axis=1)[:, None]
    height = np.take_along_axis(domes, tallest, axis=1).reshape(TILE, TILE)
    crown = np.take_along_axis(index, tallest, axis=1)[:, 0]  # (TILE * TILE,)
    offset = (centres[crown] - samples + TILE / 2) % TILE - TILE / 2
    slope = np.roll(height, -2, (0, 1)) - np.roll(height, 2, (0, 1))
    light = np.clip(ndimage.gaussian_filter(slope, 0.8, mode="wrap") * 0.07, -0.45, 0.45)
    tone = rng.normal(0, 0.12, len(centres))[crown].reshape(TILE, TILE)
    gap = np.clip(1 - height / (0.4 * pitch), 0, 1)
    return Crowns(
        light=(light + tone - 0.5 * gap).astype(np.float32),
        solid=height > 0.12 * pitch,
        offset=rearrange(np.round(offset).astype(np.int32), "(y x) way -> way y x", y=TILE),
    )


@dataclass(frozen=True)
class Scene:
    """What is computed once for the whole scene."""

    maps: RegionMaps
    parcels: Parcels
    border: Array
    road: Array
    lane: Array
    turn: float


def plan(rng: np.random.Generator, size_px: int) -> Scene:
    """The layout: warped parcels, and maps of forest, river, villages, soil."""
    samples = size_px // STEP
    period = samples + samples // 2

    def field_of(wavelength: float) -> Array:
        return noise(rng, (period, period), wavelength / STEP)[:samples, :samples]

    turn = rng.uniform(-0.7, 0.7)
    side = int(1.7 * size_px / PARCEL_STEP)
    count = int(rng.integers(1, 5) * max(1, (size_px / 4096) ** 2))
    centres = side / 2 + rng.uniform(-0.32, 0.32, (count, 2)) * size_px / PARCEL_STEP
    villages = np.column_stack([centres, rng.uniform(120, 420, count) / PARCEL_STEP])
    parcels = Parcels(rng, side, villages)
    y, x = (axis.astype(np.float32) * STEP - size_px / 2 for axis in np.mgrid[0:samples, 0:samples])
    bend_y, bend_x = 55 * field_of(1500) + 9 * field_of(420), 55 * field_of(1500) + 9 * field_of(420)
    v = (np.cos(turn) * y + np.sin(turn) * x + bend_y) / PARCEL_STEP + side / 2
    u = (np.cos(turn) * x - np.sin(turn) * y + bend_x) / PARCEL_STEP + side / 2
    near = [r - np.hypot(v - cv, u - cu) for cv, cu, r in villages]
    village = np.max(near, axis=0) * PARCEL_STEP + 14 * field_of(160)
    valley = field_of(0.45 * size_px) - rng.uniform(-0.8, 0.8)
    steepness = np.hypot(*np.gradient(ndimage.gaussian_filter(valley, 8))) / STEP + 2.5e-4
    river = rng.uniform(8, 20) + 6 * field_of(700) - np.abs(valley / steepness + 22 * field_of(450))
    ground = field_of(0.33 * size_px) + 0.4 * field_of(420) + 0.12 * field_of(130) - rng.uniform(-0.2, 0.9)
    forest = np.maximum(ground * 150, river + 26 + 14 * field_of(200))
    forest = np.minimum(forest, np.minimum(-village - 12, -river - 7))
    maps = {"v": v, "u": u, "village": village, "river": river, "forest": forest, "soil": field_of(520)}
    return Scene(RegionMaps(maps), parcels, *parcels.distances(), turn)


class Objects:
    """A full-resolution plane of things that stand on the ground and cast shadows: houses, single trees.

    Light comes from the upper left; `cover` is 0 for bare ground.
    """

    def __init__(self, size_px: int) -> None:
        self.colour = np.zeros((size_px + 2 * MARGIN, size_px + 2 * MARGIN, 4), np.uint8)
        self.cover = np.zeros(self.colour.shape[:2], np.uint8)

    def put(self, centre: Array, body: Array, shadow: Array, colour: Array) -> None:
        """Draw an object around `centre` (y, x): masks body and shadow (s, s), colour (s, s, 4) in 0..1."""
        top, left = (centre.astype(int) + MARGIN - len(body) // 2).tolist()
        window = (slice(top, top + len(body)), slice(left, left + len(body)))
        dark = shadow & ~body & (self.cover[window] == 0)
        self.colour[window][dark] = (SHADE * 255).astype(np.uint8)
        self.cover[window][dark] = 150
        self.colour[window][body] = (np.clip(colour, 0, 1) * 255).astype(np.uint8)[body]
        self.cover[window][body] = 255


def put_trees(rng: np.random.Generator, objects: Objects, points: Array) -> None:
    """Single trees of 3 to 7 m radius."""
    y, x = np.mgrid[-14:15, -14:15].astype(np.float32)
    for centre in points:
        radius = rng.uniform(3, 7)
        crown = np.hypot(y, x) < radius + 0.7 * np.sin(3 * np.arctan2(y, x) + rng.uniform(0, 6))
        shadow = np.hypot(y - 0.6 * radius, x - 0.6 * radius) < radius
        light = 1 - 0.4 * np.clip((y + x) / radius, -1, 1) + rng.normal(0, 0.06)
        objects.put(centre, crown, shadow, LEAVES * light[..., None])


def put_houses(rng: np.random.Generator, objects: Objects, points: Array, turn: float) -> None:
    """Gabled houses along the streets: two halves of a roof, one of them lit."""
    y, x = np.mgrid[-20:21, -20:21].astype(np.float32)
    for centre in points:
        angle = turn + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.04)
        length, width = rng.uniform(5, 9), rng.uniform(3.5, 5.5)
        if rng.random() < 0.1:
            length, width = 1.7 * length, 1.6 * width

        def inside(dy: float, dx: float, angle: float = angle, length: float = length, width: float = width) -> Array:
            along = (x - dx) * np.cos(angle) + (y - dy) * np.sin(angle)
            across = (y - dy) * np.cos(angle) - (x - dx) * np.sin(angle)
            return (np.abs(along) < length) & (np.abs(across) < width)

        across = y * np.cos(angle) - x * np.sin(angle)
        light = np.where(across < 0, 1.08, 0.78)
        roof = ROOFS[rng.integers(len(ROOFS))] * rng.uniform(0.85, 1.1)
        objects.put(centre, inside(0, 0), inside(3, 3), roof * light[..., None])


def furnish(rng: np.random.Generator, scene: Scene, size_px: int) -> Objects:
    """Houses beside the streets of the villages, trees in gardens, along field borders, and here and there."""
    objects = Objects(size_px)

    def at(points: Array) -> tuple[Array, Array, Array, Array]:
        v, u = (np.clip(scene.maps.at(axis, points).astype(int), 0, scene.parcels.side - 1) for axis in ("v", "u"))
        street = np.minimum(scene.road[v, u] - 3, scene.lane[v, u])
        return street, scene.border[v, u], scene.maps.at("village", points), scene.maps.at("river", points)

    points = jittered_grid(rng, size_px, 30, jitter=0.9)
    street, border, village, river = at(points)
    chance = rng.random(len(points))
    dry, open_ground = river < -14, scene.maps.at("forest", points) < -4
    hedge = np.where(border < 7, 0.4, 0.01) + 0.3 * (village > 0)
    put_trees(rng, objects, points[dry & open_ground & (street > 10) & (chance < hedge)])
    points = jittered_grid(rng, size_px, 21, jitter=0.5)
    street, _, village, river = at(points)
    built = (village > 8) & (river < -30) & (street > 13) & (street < 30) & (rng.random(len(points)) < 0.85)
    put_houses(rng, objects, points[built], scene.turn)
    return objects


class Ground:
    """Draws the ground of a scene block by block; textures and crops are the scene's own."""

    def __init__(self, rng: np.random.Generator, scene: Scene) -> None:
        self.scene, count = scene, scene.parcels.count
        season = rng.dirichlet(np.full(len(CROPS), 1.2))
        self.crop = CROPS[rng.choice(len(CROPS), count, p=season)] + rng.normal(0, 0.02, (count, 4)).astype(np.float32)
        self.row_px = rng.uniform(6, 11, count).astype(np.float32)
        self.row_strength = (rng.uniform(0.03, 0.09, count) * (rng.random(count) < 0.6)).astype(np.float32)
        self.row_along = rng.random(count) < 0.5
        self.haze = (np.array([1.0, 1.0, 1.0, 1.0]) * rng.uniform(0.9, 1.1) + rng.normal(0, 0.025, 4)).astype(
            np.float32
        )
        self.fine, self.middle, self.broad = (noise(rng, (TILE, TILE), length) for length in (6, 28, 120))
        self.crowns = draw_crowns(rng, rng.uniform(12, 17))
        self.leaves = LEAVES + rng.normal(0, 0.02, 4).astype(np.float32)

    def fields(self, v: Array, u: Array, soil: Array) -> Array:
        """(BLOCK, BLOCK, 4) crops in rows, at parcel coordinates v, u."""
        last = self.scene.parcels.side - 1
        number = self.scene.parcels.numbers[np.clip(v, 0, last).astype(int), np.clip(u, 0, last).astype(int)]
        across = np.where(self.row_along[number], v, u) * PARCEL_STEP
        rows = np.sin(across * (2 * np.pi) / self.row_px[number]) * self.row_strength[number]
        return self.crop[number] * (1 + rows + 0.05 * soil)[..., None]

    def wood(self, y: int, x: int) -> Array:
        """(BLOCK, BLOCK) 1 on the crowns whose middle stands in the forest, for a window with corner (y, x)."""
        forest = self.scene.maps["forest"]
        rows, columns = np.ogrid[y : y + BLOCK, x : x + BLOCK]
        dy, dx = (fetch(way, y, x) for way in self.crowns.offset)
        last = len(forest) - 1
        inside = forest[np.clip((rows + dy) // STEP, 0, last), np.clip((columns + dx) // STEP, 0, last)] > 0
        return (inside & fetch(self.crowns.solid, y, x)).astype(np.float32)

    def paint(self, y: int, x: int) -> Array:
        """(BLOCK, BLOCK, 4) reflectances of the ground of block (y, x)."""
        maps = self.scene.maps
        fine, middle, broad = (fetch(tile, y, x) for tile in (self.fine, self.middle, self.broad))
        v, u, village, river, forest, soil = (
            maps.block(name, y, x) for name in ("v", "u", "village", "river", "forest", "soil")
        )
        border, road, lane = (
            ndimage.map_coordinates(plane, (v, u), order=1, mode="nearest", output=np.float32)
            for plane in (self.scene.border, self.scene.road, self.scene.lane)
        )
        image = self.fields(v, u, soil)

        def lay(mask: Array, colour: Array) -> None:
            image[...] += mask[..., None] * (colour - image)

        lay(edge(7 - border + middle, 2), GRASS)
        lay(edge(village + 4 * middle, 12), GRASS * (1 + 0.06 * broad)[..., None])
        image *= (1 + 0.02 * fine + 0.02 * broad)[..., None]
        asphalt = ROAD * (1 + 0.03 * fine)[..., None]
        lay(edge(2.2 - lane, 1.5), asphalt)
        lay(edge(river + 4 + 2 * middle, 3), BANK)
        lay(edge(river + middle, 2), WATER * (1 + 0.05 * broad)[..., None])
        lay(0.55 * self.wood(y - 4, x - 4), SHADE.astype(np.float32))
        crowns = fetch(self.crowns.light, y, x)
        lay(
            np.maximum(self.wood(y, x), edge(forest - 14, 4)),
            self.leaves * (1 + 0.9 * crowns + 0.08 * broad)[..., None],
        )
        lay(edge(4 - road, 1.5), asphalt)
        return image * self.haze


def satellite_scene(seed: int, size_px: int = 4096) -> Array:
    """(size_px, size_px, 4) uint8 scene at 1 m per pixel: red, green, blue, near infrared; a multiple of BLOCK wide."""
    plan_rng, ground_rng, object_rng = (np.random.default_rng([seed, 100 + part]) for part in range(3))
    scene = plan(plan_rng, size_px)
    ground, objects = Ground(ground_rng, scene), furnish(object_rng, scene, size_px)
    image = np.empty((size_px, size_px, 4), np.uint8)
    for y, x in blocks(size_px):
        window = (slice(y + MARGIN, y + MARGIN + BLOCK), slice(x + MARGIN, x + MARGIN + BLOCK))
        cover = objects.cover[window][..., None] / np.float32(255)
        pixels = ground.paint(y, x)
        pixels += cover * (objects.colour[window] / np.float32(255) - pixels)
        image[y : y + BLOCK, x : x + BLOCK] = np.clip(pixels * 255, 0, 255).astype(np.uint8)
    return image
