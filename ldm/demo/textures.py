"""Parts of the procedural images: noise, cell mosaics, stamped sprites, and region maps at 1/8 resolution.

A scene is a set of region maps (signed distances and densities in base pixels, sampled every STEP pixels). They are
interpolated to full resolution block by block, small texture tiles are added, and thresholding at zero gives sharp
edges.

Shapes: h, w samples; n points, given as (n, 2) rows of (y, x) in base pixels; s side of a sprite in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Array = NDArray[Any]

BLOCK = 256
"""side of the blocks that are rendered at a time, in base pixels"""
STEP = 8
"""base pixels per sample of a region map"""
TILE = 1024
"""period of a texture tile, in base pixels"""
ANGLES = 16
"""directions that a sprite is drawn in, over half a turn"""


def noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float | tuple[float, float]) -> Array:
    """Periodic Gaussian noise (h, w), mean 0 and deviation 1, smooth below `wavelength` samples (or one per axis)."""
    along_y, along_x = wavelength if isinstance(wavelength, tuple) else (wavelength, wavelength)
    fy = np.fft.fftfreq(shape[0])[:, None] * along_y
    fx = np.fft.rfftfreq(shape[1])[None] * along_x
    low_pass = np.exp(-1.5 * (fy**2 + fx**2)).astype(np.float32)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * low_pass, s=shape)
    field -= field.mean()
    return (field / max(float(field.std()), 1e-6)).astype(np.float32)


def lattice(count: int) -> Array:
    """(count * count, 2) integer points (y, x) of a square lattice."""
    return rearrange(np.indices((count, count)), "yx rows columns -> (rows columns) yx")


def jittered_grid(rng: np.random.Generator, size_px: int, spacing: float, jitter: float = 0.6) -> Array:
    """(n, 2) points on a staggered grid over a square, each moved by up to jitter / 2 of the spacing."""
    points: Array = lattice(int(size_px / spacing) + 1).astype(np.float32)
    points[:, 1] += 0.5 * (points[:, 0] % 2)
    points = (points + rng.uniform(-jitter / 2, jitter / 2, points.shape)) * spacing
    return points[((points >= 0) & (points < size_px)).all(axis=1)]


def mosaic(rng: np.random.Generator, spacing: float, vary: float, rounding: float, step: int = 2) -> Array:
    """A periodic tile of cells: distance (TILE, TILE) to the nearest wall between cells `spacing` pixels apart.

    vary: spread of the cells' radii as a share of the spacing. rounding: radius of the cells' corners in pixels.
    """
    count = round(TILE / spacing)
    pitch = TILE / count
    centres = lattice(count).astype(np.float64)
    centres[:, 1] += 0.5 * (centres[:, 0] % 2)
    centres = (centres + rng.uniform(-0.3, 0.3, centres.shape)) * pitch % TILE
    radius = rng.uniform(-vary, vary, len(centres)) * spacing / 2
    samples = (lattice(TILE // step) + 0.5) * step
    distance, index = cKDTree(centres, boxsize=TILE).query(samples, k=5)
    weighted = np.sort(distance - radius[index], axis=1)
    others = weighted[:, 1:] - weighted[:, :1]
    # A soft minimum over the neighbours lifts the walls where three cells meet: round corners.
    wall = -rounding * np.log(np.exp(-others / rounding).sum(axis=1)) / 2
    tile = rearrange(wall.astype(np.float32), "(y x) -> y x", x=TILE // step)
    return ndimage.zoom(tile, step, order=1, mode="grid-wrap", grid_mode=True)


class RegionMaps:
    """Named maps of a square scene, sampled every STEP base pixels: signed distances, densities, coordinates."""

    def __init__(self, maps: dict[str, Array]) -> None:
        self._maps = {name: field.astype(np.float32) for name, field in maps.items()}
        self._padded = {name: np.pad(field, 1, mode="edge") for name, field in self._maps.items()}
        position = (np.arange(BLOCK) + 0.5) / STEP + 0.5
        self._low = position.astype(int)
        self._share = (position - self._low).astype(np.float32)

    def __getitem__(self, name: str) -> Array:
        """The whole map, (size / STEP, size / STEP)."""
        return self._maps[name]

    def at(self, name: str, points: Array) -> Array:
        """(n,) values at `points`, bilinear."""
        return ndimage.map_coordinates(self._maps[name], points.T / STEP - 0.5, order=1, mode="nearest")

    def near(self, name: str, y: int, x: int) -> Array:
        """The samples that block (y, x) depends on: if their maximum is negative, the block does not need the map."""
        rows, columns = (slice(v // STEP, v // STEP + BLOCK // STEP + 2) for v in (y, x))
        return self._padded[name][rows, columns]

    def block(self, name: str, y: int, x: int) -> Array:
        """(BLOCK, BLOCK) bilinear values of the block whose corner is (y, x), a multiple of BLOCK."""
        near, low, share = self.near(name, y, x), self._low, self._share
        rows = near[low] + share[:, None] * (near[low + 1] - near[low])  # (BLOCK, BLOCK / STEP + 2)
        left = rows[:, low]
        return left + share * (rows[:, low + 1] - left)


def blocks(size_px: int) -> Iterator[tuple[int, int]]:
    """Corners (y, x) of the blocks of a square image."""
    for y in range(0, size_px, BLOCK):
        for x in range(0, size_px, BLOCK):
            yield y, x


def fetch(tile: Array, y: int, x: int) -> Array:
    """The (BLOCK, BLOCK) part of a periodic texture tile under block (y, x)."""
    rows, columns = (np.arange(v, v + BLOCK) % TILE for v in (y, x))
    return tile[np.ix_(rows, columns)]


def fetch_at(tile: Array, points: Array) -> Array:
    """(n,) values of a periodic tile under `points`."""
    rows, columns = points.astype(int).T % TILE
    return tile[rows, columns]


def edge(distance: Array, width: float) -> Array:
    """0 outside to 1 inside a signed distance, over `width` pixels."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


@dataclass(frozen=True)
class Spot:
    """Appearance of one kind of nucleus; ranges are (low, high), lengths in base pixels."""

    length: tuple[float, float]
    width: tuple[float, float]
    density: tuple[float, float]
    rim: float = 0.0
    """darkening of the border"""
    dots: float = 0.0
    """share of the nuclei with a nucleolus"""
    wobble: float = 0.06
    """departure from an ellipse"""


@dataclass(frozen=True)
class Bank:
    """Drawn sprites (variants * ANGLES, s, s), uint8: how much of the pixel is covered, and optical density * 100."""

    coverage: Array
    density: Array


def sprite_bank(rng: np.random.Generator, spot: Spot, variants: int) -> Bank:
    """`variants` nuclei of one kind, each drawn in ANGLES directions."""
    count = variants * ANGLES
    side = 2 * int(spot.length[1] * 1.2 + 3) + 1

    def draw(low: float, high: float) -> Array:
        return np.repeat(rng.uniform(low, high, variants), ANGLES)[:, None, None].astype(np.float32)

    angle = (np.tile(np.arange(ANGLES), variants) * np.pi / ANGLES)[:, None, None]
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    u = x * np.cos(angle) + y * np.sin(angle)  # (n, s, s) along the nucleus
    v = -x * np.sin(angle) + y * np.cos(angle)  # (n, s, s) across it
    length, width = draw(*spot.length), draw(*spot.width)
    turn = np.arctan2(v, u)
    lumps = np.sin(2 * turn + draw(0, 6.3)) + np.sin(3 * turn + draw(0, 6.3))
    radius = np.sqrt((u / length) ** 2 + (v / width) ** 2) / (1 + spot.wobble * lumps)
    coverage = np.clip((1 - radius) * np.minimum(length, width) / 1.5 + 0.5, 0, 1)
    chromatin = ndimage.gaussian_filter(rng.standard_normal((count, side, side)), (0, 1.6, 1.6))
    density = draw(*spot.density) * (1 + 0.5 * chromatin) + spot.rim * np.exp(-(((radius - 0.9) / 0.16) ** 2))
    dot_u, dot_v = draw(-0.35, 0.35) * length, draw(-0.35, 0.35) * width
    dot = np.exp(-((u - dot_u) ** 2 + (v - dot_v) ** 2) / 4.0)
    density += 0.9 * dot * (draw(0, 1) < spot.dots)
    return Bank((coverage * 255).astype(np.uint8), np.clip(density * 100, 0, 255).astype(np.uint8))


class ImageCanvas:
    """A full-resolution plane that sprites are drawn on; where two overlap, the one with more coverage is kept."""

    def __init__(self, size_px: int, margin: int = 32) -> None:
        self.margin = margin
        self.coverage = np.zeros((size_px + 2 * margin,) * 2, np.uint8)
        self.density = np.zeros_like(self.coverage)

    def stamp(self, bank: Bank, points: Array, rng: np.random.Generator, angles: Array | None = None) -> None:
        """Draw one sprite of `bank` at each point, along `angles` (n,) in radians or in random directions."""
        variant = rng.integers(0, len(bank.coverage) // ANGLES, len(points))
        turn = rng.uniform(0, np.pi, len(points)) if angles is None else angles
        pick = variant * ANGLES + np.round(turn / np.pi * ANGLES).astype(int) % ANGLES
        side = bank.coverage.shape[1]
        corners = np.round(points).astype(int) + self.margin - side // 2
        for (y, x), sprite in zip(corners.tolist(), pick.tolist(), strict=True):
            under = self.coverage[y : y + side, x : x + side]
            above = bank.coverage[sprite] > under
            np.copyto(self.density[y : y + side, x : x + side], bank.density[sprite], where=above)
            np.copyto(under, bank.coverage[sprite], where=above)

    def block(self, y: int, x: int) -> tuple[Array, Array]:
        """Coverage in 0..1 and optical density of block (y, x), each (BLOCK, BLOCK)."""
        rows, columns = (slice(v + self.margin, v + self.margin + BLOCK) for v in (y, x))
        return self.coverage[rows, columns] / np.float32(255), self.density[rows, columns] / np.float32(100)
