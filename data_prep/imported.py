"""Import patches of TRIDENT or CLAM: their coordinates as tissue, and their embeddings.

Both write one HDF5 file per slide. `coords` (n, 2) are the x and y of each patch's corner in pixels of full resolution;
attributes of `coords` give its side: TRIDENT's `patch_size_level0`, CLAM's `patch_size` times `downsample`. In files of
features, `features` (n, d) or (1, n, d) are added; CLAM's do not state the side.

Coordinates may have any side and place: a base tile's share of tissue is the share of its area under patches.
Embeddings represent base tiles, so they must lie on one lattice whose step is a base tile, to 2 %; the slide is then
read on that lattice. Tissue is where embeddings are. Other tiles have the zero embedding, which does not change the
direction of a mean of tokens; the model uses only the direction.

Shapes: n patches; d channels; `_l0` pixels of full resolution; rows, cols base tiles.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from data_prep.slides.grid import Field, Shares
from data_prep.slides.slide import Plane, Slide
from ldm.errors import UserError

SAME_STEP = 0.02
"""largest relative difference between a lattice's step and a base tile, as between scanners of one magnification"""
ROUNDING_L0 = 1.0
"""how far a patch may lie from its place on the lattice"""
RECOMPUTE = "set coordinates instead of encoder.embeddings and compute the embeddings here"
Corners = NDArray[np.float64]


@dataclass(frozen=True)
class ImportedPatches:
    """Content of a file: `corners_l0` (n, 2) x and y; their side and the slide's size, if stated; `features`
    (n, d), if any."""

    path: Path
    corners_l0: Corners
    side_l0: float | None
    size_l0: tuple[int, int] | None
    features: NDArray[np.floating] | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """UserError when the file is damaged or of another format."""
        try:
            with h5py.File(path, "r") as file:
                found = {name: file[name] for name in file if isinstance(file.get(name), h5py.Dataset)}
                if "coords" not in found:
                    raise UserError(f"{path}: has {', '.join(found) or 'nothing'}, expected coords; name other files")
                corners, attrs = np.asarray(found["coords"]), dict(found["coords"].attrs)
                features = np.asarray(found["features"]) if "features" in found else None
        except (OSError, RuntimeError, KeyError, MemoryError) as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); make it again") from error
        if corners.ndim != 2 or corners.shape[1] != 2 or corners.dtype.kind not in "iuf":
            raise UserError(
                f"{path}: coords are {corners.dtype} {corners.shape}, expected numbers (n, 2); make it again"
            )
        if features is not None and features.ndim == 3 and len(features) == 1:
            features = features[0]
        size = [int(attrs[key]) for key in ("level0_width", "level0_height") if key in attrs]
        size_l0 = (size[0], size[1]) if len(size) == 2 else None
        return cls(path, corners.astype(np.float64), _side_l0(path, attrs), size_l0, features)

    def inside(self, size_l0: tuple[int, int], side_l0: float) -> Self:
        """Returns itself. UserError when the slide's `size_l0` (width, height) differs, or a patch lies outside."""
        if self.size_l0 not in (None, size_l0):
            found, expected = (f"{width}x{height} px" for width, height in (self.size_l0, size_l0))
            raise UserError(f"{self.path}: is of a slide of {found}, expected {expected}; name this slide's file")
        outside = (self.corners_l0 <= -side_l0) | (self.corners_l0 >= size_l0) | ~np.isfinite(self.corners_l0)
        if outside.any():
            place = _place(self.corners_l0[outside.any(1)][0])
            size = "x".join(map(str, size_l0))
            raise UserError(f"{self.path}: the patch at {place} lies off the slide ({size} px); name this slide's file")
        return self


def _side_l0(path: Path, attrs: dict[str, Any]) -> float | None:
    """Side of the patches by the attributes of coords. UserError for an invalid one."""
    if not {"patch_size_level0", "patch_size"} & attrs.keys():
        return None
    if "patch_size_level0" not in attrs and attrs.get("patch_level", 0) and "downsample" not in attrs:
        raise UserError(f"{path}: patches of level {attrs['patch_level']} without its downsample; make it again")
    try:
        side = float(attrs.get("patch_size_level0", 0) or attrs["patch_size"] * np.ravel(attrs.get("downsample", 1))[0])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: the size of its patches is no number ({error}); make it again") from error
    if not 0 < side < np.inf:
        raise UserError(f"{path}: its patches are {side:g} px wide; make it again")
    return side


def _place(corner: Corners) -> str:
    return "({:g}, {:g})".format(*corner)


@cache
def _files(folder: str) -> dict[str, list[Path]]:
    """The *.h5 below a folder, by name without the suffix."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: is no folder; expected one with an .h5 for each slide, as TRIDENT or CLAM writes")
    files: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).rglob("*.h5")):
        files.setdefault(path.stem, []).append(path)
    return files


COORDINATES, EMBEDDINGS = ("_patches", ""), ("",)
"""suffixes of file names after the slide's name; the first that exists is used"""


def file_of(slide: Path, folder: str, endings: tuple[str, ...]) -> Path:
    """The only file below `folder` with the slide's name and one of `endings`. UserError otherwise."""
    stems = dict.fromkeys((slide.stem, slide.stem.removesuffix(".ome")))
    names = [stem + ending for stem in stems for ending in endings]
    for name in names:
        found = _files(folder).get(name, [])
        if len(found) > 1:
            raise UserError(f"{folder}: holds {found[0]} and {found[1]}; name the folder of one run")
        if found:
            return found[0]
    expected = " or ".join(f"{name}.h5" for name in names)
    raise UserError(f"{folder}: holds no {expected}; make it, or take the slide out")


def covered_shares(corners: Corners, side: float, rows: int, cols: int) -> Shares:
    """(rows, cols) share of each unit square under squares of `side` at `corners` (n, 2) x and y; exact, also for
    overlapping squares."""
    shares = np.zeros((rows, cols), np.float32)
    x, y = np.unique(corners, axis=0).T
    for row in range(rows):
        here = (y < row + 1) & (y + side > row)
        if here.any():
            top, bottom = np.maximum(y[here] - row, 0), np.minimum(y[here] + side - row, 1)
            shares[row] = _covered_row(x[here], x[here] + side, top, bottom, cols)
    return shares


def coordinate_shares(plane: Plane, folder: str, tile_px: int, rows: int, cols: int) -> Shares:
    """(rows, cols) share of each base tile of `plane` under the patches that `folder` has for its slide.

    UserError when the side of the patches is not known.
    """
    patches = ImportedPatches.read(file_of(plane.slide.path, folder, COORDINATES))
    if patches.side_l0 is None:
        raise UserError(f"{patches.path}: coords have no patch_size; name the folder of coordinates, not of features")
    corners_l0 = patches.inside(plane.slide.size_l0, patches.side_l0).corners_l0
    tile_l0 = tile_px * plane.mpp / plane.slide.mpp
    return covered_shares((corners_l0 - plane.origin_l0) / tile_l0, patches.side_l0 / tile_l0, rows, cols)


def _covered_row(left: Corners, right: Corners, top: Corners, bottom: Corners, cols: int) -> Shares:
    """(cols,) covered shares, computed on the grid of all edges, so that overlaps count once."""
    left, right = left.clip(0, cols), right.clip(0, cols)
    xs, ys = np.unique([*left, *right, *range(cols + 1)]), np.unique([*top, *bottom, 0, 1])
    corners = np.zeros((len(ys), len(xs)), np.int32)
    for edge_y, sign_y in ((top, 1), (bottom, -1)):
        for edge_x, sign_x in ((left, 1), (right, -1)):
            np.add.at(corners, (np.searchsorted(ys, edge_y), np.searchsorted(xs, edge_x)), sign_y * sign_x)
    under = corners.cumsum(0).cumsum(1)[:-1, :-1] > 0
    areas = (np.diff(ys) @ under) * np.diff(xs)
    return np.add.reduceat(areas, np.searchsorted(xs, range(cols))).astype(np.float32)


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
        place = _place(corners[off.argmax()])
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
    for path in [] if width else [path for paths in _files(folder).values() for path in paths]:
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
            place = _place(patches.corners_l0[~finite][0])
            raise UserError(f"{patches.path}: the features of the patch at {place} are not finite; make it again")
        self._places = self.lattice.places(patches.corners_l0)
        _, firsts, times = np.unique(self._places, axis=0, return_index=True, return_counts=True)
        if times.max(initial=1) > 1:
            place = _place(patches.corners_l0[firsts[times > 1]][0])
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
