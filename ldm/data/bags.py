"""Bags for multiple-instance learning: one HDF5 file per slide, in the form that CLAM and TRIDENT write.

    features    (n, d) f32     one row per tile
    coords      (n, 2) i64     x, y of the tile's first pixel at the slide's full resolution
      attrs                    name, and the tile's side there in both tools' names: patch_size at patch_level 0,
                               patch_size_level0
    ij          (n, 2) i32     the tile's row and column on the grid of its scale
    attrs       format, slide_id, scales (finest first), identity: everything the features depend on, as JSON, of
                which only the inputs differ between slides; eligible: tiles with tissue that the slide has at the
                finest scale, of which only some may be prepared (regions_per_scale), -1: unknown;
                digest: sha256 of the other attributes, as HDF5 has no checksum of them

A region (i, j) of one scale lies in region (i // 2, j // 2) of the next. Fusing scales keeps one row per tile of the
finest one: its own features and those of the coarser regions around it (paper, Table 4).

Shapes: n tiles, d channels.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.support.cache import Identity
from ldm.support.files import Sink, atomic_write
from ldm.support.typed import typed

FORMAT = "zoomldm-bag-3"
MISSING = 0.1
"""largest share of a slide's tiles that may lie in no region of a coarser scale"""
MEMORY = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Bag:
    """The tiles of one slide."""

    slide_id: str
    scales: tuple[str, ...]
    features: NDArray[np.float32]
    coords: NDArray[np.int64]
    ij: NDArray[np.int32]
    side_l0: int
    """of a tile, in pixels at full resolution"""
    identity: Identity = field(default_factory=partial(Identity, "features"))
    eligible: int = -1
    """number of tiles with tissue at the finest scale, of which these may be a part; -1: unknown"""


def place_l0(slide: SlideFile, scale: str, ij: NDArray[np.integer]) -> tuple[NDArray[np.int64], int]:
    """Where regions `ij` (n, 2) of `scale` lie at full resolution: x, y (n, 2), and their side."""
    attrs = slide.attrs
    base_px = attrs["tile_px"] * slide.ladder[scale].downsample
    side = base_px * slide.base_l0
    origin = [attrs.get("origin_x_l0", 0), attrs.get("origin_y_l0", 0)]
    return np.rint(ij[:, ::-1] * side + origin).astype(np.int64), round(side)


def fuse(bags: Sequence[Bag]) -> Bag:
    """One bag with the tiles of the first and the features of all; bags of one slide, finest scale first.

    Tiles that lie in no region of some coarser bag are left out. UserError where more than MISSING of them do.
    """
    base = bags[0]
    kept, rows = np.ones(len(base.ij), bool), []
    for bag in bags:
        found = _rows(bag, base.ij // round(bag.side_l0 / base.side_l0))
        missing = int((found < 0).sum())
        if missing > MISSING * len(found):
            raise UserError(
                f"{base.slide_id}: {missing} of {len(found)} tiles lie in no region at {bag.scales[0]}; prepare the "
                "cohort with regions_per_scale=null tissue_share=0"
            )
        kept &= found >= 0
        rows.append(found)
    features = [bag.features[found[kept]] for bag, found in zip(bags, rows, strict=True)]
    scales = tuple(scale for bag in bags for scale in bag.scales)
    return replace(
        base, scales=scales, features=np.concatenate(features, axis=1), coords=base.coords[kept], ij=base.ij[kept]
    )


def _rows(bag: Bag, ij: NDArray[np.integer]) -> NDArray[np.int64]:
    """The row of `bag` that describes each place of ij (n, 2), or -1."""
    row_of = {place: row for row, place in enumerate(map(tuple, bag.ij.tolist()))}
    return np.array([row_of.get(place, -1) for place in map(tuple, ij.tolist())], np.int64)


def write_bag(path: str | Path, bag: Bag) -> None:
    """The file appears under its name only once it is whole. UserError for features that are not finite."""
    if not np.isfinite(bag.features).all():
        raise UserError(f"{path}: features are not finite; the network's weights or the slide's latents are damaged")
    with atomic_write(path) as partial, Sink(partial) as sink, h5py.File(sink, "w", libver=("v110", "v110")) as file:
        file.attrs.update(format=FORMAT, slide_id=bag.slide_id, scales=list(bag.scales), identity=bag.identity.text)
        file.attrs["eligible"] = bag.eligible
        file.attrs["digest"] = digest(bag.slide_id, list(bag.scales), bag.identity.text, bag.side_l0, bag.eligible)
        for name in ("features", "coords", "ij"):
            file.create_dataset(name, data=getattr(bag, name), chunks=True, fletcher32=True, track_times=False)
        file["coords"].attrs.update(
            name=bag.slide_id, patch_size=bag.side_l0, patch_level=0, patch_size_level0=bag.side_l0
        )


def digest(slide_id: str, scales: list[str], identity: str, side_l0: int, eligible: int) -> str:
    """Digest of the attributes of a bag."""
    return hashlib.sha256(json.dumps([FORMAT, slide_id, scales, identity, side_l0, eligible]).encode()).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        raise UserError(f"{path}: does not exist; make it with {typed('features')}")
    try:
        with h5py.File(path, "r") as file:
            attrs = file.attrs
            if attrs["format"] != FORMAT:
                raise OSError(f"its format is {attrs['format']}, expected {FORMAT}")
            scales, side_l0 = [str(scale) for scale in attrs["scales"]], int(file["coords"].attrs["patch_size_level0"])
            said = str(attrs["slide_id"]), scales, str(attrs["identity"]), side_l0, int(attrs["eligible"])
            if attrs.get("digest") != digest(*said):
                raise OSError("its attributes are not those that it was written with")
            yield file
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a whole bag ({error}); make it with {typed('features')}") from error


def read_bag(path: str | Path) -> Bag:
    """UserError when the file is missing, damaged or of another format."""
    with _opened(Path(path)) as file:
        if not np.isfinite(file["features"][:]).all():
            raise OSError("its features are not finite")
        return Bag(
            slide_id=str(file.attrs["slide_id"]),
            scales=tuple(file.attrs["scales"]),
            features=file["features"][:],
            coords=file["coords"][:],
            ij=file["ij"][:],
            side_l0=int(file["coords"].attrs["patch_size_level0"]),
            identity=Identity.parse(file.attrs["identity"]),
            eligible=int(file.attrs["eligible"]),
        )


def subsets(paths: Sequence[Path]) -> str:
    """A message if bags hold only some of their slides' tiles, else empty. UserError as `read_bag`."""
    held, eligible, slides, fused = 0, 0, 0, False
    for path in paths:
        with _opened(path) as file:
            fused = fused or len(file.attrs["scales"]) > 1  # tiles in a coarse region of too little tissue are missing
            count, every = len(file["features"]), int(file.attrs["eligible"])
        if count < every:
            held, eligible, slides = held + count, eligible + every, slides + 1
    if not slides:
        return ""
    return (
        f"{slides} of {len(paths)} bags hold {held:,} of their slides' {eligible:,} tiles with tissue: "
        f"for all of them, prepare with regions_per_scale=null{' tissue_share=0' if fused else ''}"
    )


def recipe(path: Path) -> Identity:
    """How the features of a bag were made, without what is specific to the slide. UserError as `read_bag`."""
    with _opened(path) as file:
        return replace(Identity.parse(file.attrs["identity"]), inputs={})


class BagFolder:
    """The features (n, d) of some slides' bags, read when asked for; the first MEMORY bytes of them are kept.

    UserError for bags that were made in different ways, for example after an interrupted change of model, and for a bag
    of another slide.
    """

    def __init__(self, folder: str | Path, slide_ids: Sequence[str]) -> None:
        self._paths = [Path(folder) / f"{slide_id}.h5" for slide_id in slide_ids]
        expected = recipe(self._paths[0])
        for path, slide_id in zip(self._paths, slide_ids, strict=True):
            with _opened(path) as file:
                stated = str(file.attrs["slide_id"])
            if stated != slide_id:
                raise UserError(
                    f"{path}: is the bag of {stated}, expected {slide_id}; bags are found by name, so undo its renaming"
                )
            if (found := recipe(path)) != expected:
                different = "; ".join(found.differences(expected)).replace("kept", f"in {self._paths[0].name}")
                raise UserError(
                    f"{path}: made in another way ({different}); "
                    f"make all of them with one command of {typed('features')}"
                )
        self._kept: dict[int, Tensor] = {}
        self._room = MEMORY

    def __getitem__(self, number: int) -> Tensor:
        if number in self._kept:
            return self._kept[number]
        features = torch.from_numpy(read_bag(self._paths[number]).features)
        if features.nbytes <= self._room:
            self._room -= features.nbytes
            self._kept[number] = features
        return features
