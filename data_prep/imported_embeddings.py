"""Embeddings of TRIDENT or CLAM.

Embeddings represent base tiles, so they must lie on one lattice whose step is a base tile, to 2 %; the slide is then
read on that lattice. Tissue is where embeddings are. Other tiles have the zero embedding, which does not change the
direction of a mean of tokens; the model uses only the direction.

Shapes: n patches; d channels; `_l0` pixels of full resolution; rows, cols base tiles.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.imported_patches import EMBEDDINGS, Corners, ImportedPatches, file_of, files_of, place_of_patch
from data_prep.slides.grid import Field, Shares
from data_prep.slides.slide import Plane, Slide
from ldm.errors import UserError

SAME_STEP = 0.02
"""largest relative difference between a lattice's step and a base tile, as between scanners of one magnification"""
ROUNDING_L0 = 1.0
"""how far a patch may lie from its place on the lattice"""
RECOMPUTE = "set coordinates instead of encoder.embeddings and compute the embeddings here"


class Lattice(NamedTuple):
    """Base tiles of `step_l0`, the first with its corner at `origin_l0`."""

    origin_l0: tuple[float, float]
    step_l0: float

    def places(self, corners_l0: Corners) -> NDArray[np.int64]:
        """(n, 2) column and row."""
        return np.rint((corners_l0 - self.origin_l0) / self.step_l0).astype(np.int64)


def lattice(patches: ImportedPatches, tile_l0: float, begin_l0: tuple[float, float]) -> Lattice:
    """The lattice of the patches, which begins at or just before `begin_l0`; `tile_l0` is the side of a base tile.

    UserError when there is none, or its step differs from a base tile.
    """
    corners = patches.corners_l0
    if not len(corners):
        return Lattice(begin_l0, tile_l0)
    step = _step(patches, tile_l0)
    if abs(step / tile_l0 - 1) > SAME_STEP:
        raise UserError(
            f"{patches.path}: patches are {step:g} px wide at full resolution, expected {tile_l0:.1f}; {RECOMPUTE}"
        )
    first = corners.min(0)
    offsets = corners - first - np.rint((corners - first) / step) * step
    origin = first + np.median(offsets, axis=0)
    off = np.abs(corners - origin - np.rint((corners - origin) / step) * step).max(1)
    if off.max() > ROUNDING_L0:
        place = place_of_patch(corners[off.argmax()])
        raise UserError(
            f"{patches.path}: the patch at {place} is {off.max():g} px off the others' lattice of step {step:g}, "
            f"as with overlap, or between CLAM's contours; {RECOMPUTE}"
        )
    late = (origin - begin_l0) % step
    x, y = begin_l0 + np.where(late > ROUNDING_L0, late - step, late)
    return Lattice((float(x), float(y)), step)


def _step(patches: ImportedPatches, tile_l0: float) -> float:
    """The stated side; else the greatest common divisor of all distances, else a base tile."""
    if patches.side_l0 is not None:
        return patches.side_l0
    corners = np.rint(patches.corners_l0).astype(np.int64)
    divisor = int(np.gcd.reduce((corners - corners.min(0)).ravel()))
    tiles = max(1, round(divisor / tile_l0))
    return divisor / tiles if abs(divisor / tiles / tile_l0 - 1) <= SAME_STEP else tile_l0


class ImportedEncoder(NamedTuple):
    """Id and width of imported embeddings; the id keeps cohorts with other embeddings apart."""

    id: str
    width: int


def imported_encoder(name: str, folder: str, width: int | None) -> ImportedEncoder:
    """`width` is that of the encoder `name`; when it is not known, the first file of `folder` that has features tells.

    UserError when there is none.
    """
    for path in [] if width else [path for paths in files_of(folder).values() for path in paths]:
        try:
            width = _features(ImportedPatches.read(path)).shape[1]
            break
        except UserError:
            continue  # reported when its slide is prepared
    if not width:
        raise UserError(f"encoder.embeddings: no .h5 in {folder} has features; name the folder TRIDENT or CLAM wrote")
    return ImportedEncoder(f"imported-{name}-{width}", width)


def _features(patches: ImportedPatches) -> NDArray[np.floating]:
    features, found = patches.features, len(patches.corners_l0)
    if features is None or features.ndim != 2 or features.dtype.kind != "f":
        shape = "none" if features is None else f"{features.dtype} {features.shape}"
        raise UserError(f"{patches.path}: features are {shape}, expected floats (n, d); name a folder of features")
    if len(features) != found:
        raise UserError(f"{patches.path}: {len(features)} features for {found} coords; make it again")
    return features


class ImportedEmbeddings:
    """The embeddings of a slide, and their lattice of base tiles."""

    def __init__(self, patches: ImportedPatches, lattice: Lattice, width: int) -> None:
        """UserError for features that are not finite or not `width` wide, and for two of one place."""
        self.lattice = lattice
        self._features = _features(patches)
        if self._features.shape[1] != width:
            found = self._features.shape[1]
            raise UserError(f"{patches.path}: features are {found} wide, expected {width}; correct encoder.name")
        finite = np.isfinite(self._features).all(1)
        if not finite.all():
            place = place_of_patch(patches.corners_l0[~finite][0])
            raise UserError(f"{patches.path}: the features of the patch at {place} are not finite; make it again")
        self._places = self.lattice.places(patches.corners_l0)
        _, firsts, times = np.unique(self._places, axis=0, return_index=True, return_counts=True)
        if times.max(initial=1) > 1:
            place = place_of_patch(patches.corners_l0[firsts[times > 1]][0])
            raise UserError(f"{patches.path}: has {times.max()} features of the patch at {place}; make it again")

    @classmethod
    def of(cls, plane: Plane, folder: str, tile_px: int, width: int) -> Self:
        """The embeddings in `folder` for the slide of `plane`."""
        tile_l0 = tile_px * plane.mpp / plane.slide.mpp
        patches = ImportedPatches.read(file_of(plane.slide.path, folder, EMBEDDINGS)).inside(
            plane.slide.size_l0, tile_l0
        )
        return cls(patches, lattice(patches, tile_l0, plane.origin_l0), width)

    def plane(self, slide: Slide, tile_px: int) -> Plane:
        """The slide's base level, whose tiles are those of the lattice."""
        origin_l0, step_l0 = self.lattice
        return Plane(slide, step_l0 * slide.mpp / tile_px, origin_l0)

    def shares(self, rows: int, cols: int) -> Shares:
        """(rows, cols): 1 where there is an embedding."""
        shares = np.zeros((rows, cols), np.float32)
        x, y = self._places[((self._places >= 0) & (self._places < (cols, rows))).all(1)].T
        shares[y, x] = 1
        return shares

    def field(self, field: Field) -> NDArray[np.float32]:
        """(tiles, tiles, d), zero where there is none."""
        grid = np.zeros((field.tiles, field.tiles, self._features.shape[1]), np.float32)
        places = self._places - (field.col, field.row)
        here = ((places >= 0) & (places < field.tiles)).all(1)
        x, y = places[here].T
        grid[y, x] = self._features[here]
        return grid

    def fill(self, grid: NDArray[np.float32], field: Field, patches: object) -> None:
        """Does nothing: there is nothing left to embed."""
