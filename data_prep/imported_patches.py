"""Files of patches of one slide that TRIDENT or CLAM wrote.

Both write one HDF5 file per slide. `coords` (n, 2) are the x and y of each patch's corner in pixels of full resolution;
attributes of `coords` give its side: TRIDENT's `patch_size_level0`, CLAM's `patch_size` times `downsample`. In files of
features, `features` (n, d) or (1, n, d) are added; CLAM's do not state the side.

Shapes: n patches; d channels; `_l0` pixels of full resolution.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError

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
            place = place_of_patch(self.corners_l0[outside.any(1)][0])
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


def place_of_patch(corner: Corners) -> str:
    """A corner (2,) as text."""
    return "({:g}, {:g})".format(*corner)


@cache
def files_of(folder: str) -> dict[str, list[Path]]:
    """The *.h5 and *.geojson below a folder, by name without the suffix."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: is no folder; expected one with an .h5 for each slide, as TRIDENT or CLAM writes")
    files: dict[str, list[Path]] = {}
    for path in sorted([*Path(folder).rglob("*.h5"), *Path(folder).rglob("*.geojson")]):
        files.setdefault(path.stem, []).append(path)
    return files


COORDINATES, EMBEDDINGS = ("_patches", ""), ("",)
"""suffixes of file names after the slide's name; the first that exists is used"""
ANNOTATIONS = ".geojson"


def tissue_file(slide: Path, folder: str) -> Path:
    """Where a slide's tissue is said to be: coordinates, or annotations of QuPath. UserError for none or both."""
    return file_of(slide, folder, COORDINATES, (".h5", ANNOTATIONS))


def file_of(slide: Path, folder: str, endings: tuple[str, ...], suffixes: tuple[str, ...] = (".h5",)) -> Path:
    """The only file below `folder` with the slide's name, one of `endings` and of `suffixes`. UserError otherwise."""
    stems = dict.fromkeys((slide.stem, slide.stem.removesuffix(".ome")))
    names = [stem + ending for stem in stems for ending in endings]
    for name in names:
        found = [path for path in files_of(folder).get(name, []) if path.suffix in suffixes]
        if len(found) > 1:
            raise UserError(f"{folder}: holds {found[0]} and {found[1]}; name the folder of one run")
        if found:
            return found[0]
    expected = " or ".join([*(f"{name}.h5" for name in names), *(f"{stem}{s}" for s in suffixes[1:] for stem in stems)])
    raise UserError(f"{folder}: holds no {expected}; make it, or take the slide out")
