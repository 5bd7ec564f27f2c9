"""Tissue by the coordinates of TRIDENT or CLAM: a base tile's share is the share of its area under patches.

Coordinates may have any side and place.

Shapes: n patches; rows, cols base tiles; `_l0` pixels of full resolution.
"""

import numpy as np

from data_prep.annotated_tissue import annotated_shares
from data_prep.imported_patches import ANNOTATIONS, Corners, ImportedPatches, tissue_file
from data_prep.slides.grid import Shares
from data_prep.slides.slide import Plane
from ldm.errors import UserError


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
    """(rows, cols) share of each base tile of `plane` under what `folder` has of its slide: patches, or annotations.

    UserError when the side of the patches is not known.
    """
    path = tissue_file(plane.slide.path, folder)
    if path.suffix == ANNOTATIONS:
        return annotated_shares(plane, path, tile_px, rows, cols)
    patches = ImportedPatches.read(path)
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
