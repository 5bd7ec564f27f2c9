"""Choosing the prototypes of a palette among the base tiles of prepared slides.

A slide gives each class up to a few prototypes: its purest tiles are grouped by k-means, and of each group the tile
nearest to the middle is taken, so that prototypes are embeddings of real tiles and differ from each other. Where
classes are not known, k-means over the tiles of all slides finds them (`clusters`).

Shapes: R, C rows and columns of a slide's base tiles, d channels, K classes, n tiles.
"""

import colorsys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from tqdm import tqdm

from ldm.data.h5 import SlideFile
from ldm.data.tokens import normalize_tokens
from ldm.errors import UserError
from ldm.images.geojson import Colour
from ldm.multiscale.palette import BACKGROUND, Palette

PURE, MAJORITY, ENOUGH = 0.9, 0.5, 8
"""share of a class in its tiles; where fewer than ENOUGH tiles have it, the share that suffices"""
PUREST = 64
"""most tiles of a class and slide that its prototypes are chosen from"""
MOST_TILES = 20_000
"""tiles that clusters are found from"""
GREY: Colour = (235, 235, 235)
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class LabelledSlide:
    """A prepared slide, and the shares (R, C, K) of the classes in its base tiles."""

    file: SlideFile
    shares: NDArray[np.float32]


def embeddings_of(file: SlideFile) -> Embeddings:
    """(R, C, d) of all base tiles."""
    return np.concatenate(list(file.blocks("embeddings/0"))).astype(np.float32)


def blank_tiles(embeddings: Embeddings) -> NDArray[np.bool_]:
    """(R, C) tiles without tissue: they share one embedding, the most frequent, which is that of plain background."""
    flat = np.ascontiguousarray(embeddings.reshape(-1, embeddings.shape[-1]))
    rows = flat.view([("", flat.dtype)] * flat.shape[1])[:, 0]
    _, back, counts = np.unique(rows, return_inverse=True, return_counts=True)
    most = counts.argmax()
    return ((back == most) & (counts[most] > 1)).reshape(embeddings.shape[:2])


def with_background(slide: LabelledSlide) -> LabelledSlide:
    """The same with one class more: tiles without tissue in which no other class has a share."""
    blank = blank_tiles(embeddings_of(slide.file)) & ~slide.shares.any(-1)
    return LabelledSlide(slide.file, np.concatenate([slide.shares, blank[..., None].astype(np.float32)], -1))


def standardised(embeddings: Embeddings) -> Embeddings:
    """(n, d) as the Summarizer takes them."""
    return normalize_tokens(torch.from_numpy(embeddings).T[..., None])[..., 0].T.numpy()


def make_palette(
    slides: Sequence[LabelledSlide], names: Sequence[str], colours: Sequence[Colour], each: int, seed: int = 0
) -> Palette:
    """Up to `each` prototypes of each class from each slide; classes without a tile are left out.

    UserError when no tile shows any class.
    """
    tiles = [np.sort(slide.shares.reshape(-1, len(names)), 0)[::-1] for slide in slides]
    pure = [sum(int((found[:, k] >= PURE).sum()) for found in tiles) for k in range(len(names))]
    least = [PURE if count >= ENOUGH else MAJORITY for count in pure]
    found: list[tuple[int, int, int, int]] = []
    kept: list[Embeddings] = []
    counts = np.zeros(len(names), int)
    for source, slide in enumerate(tqdm(slides, desc="prototypes", unit="slide")):
        embeddings = embeddings_of(slide.file)
        for k in range(len(names)):
            share = slide.shares[..., k]
            counts[k] += int((share >= least[k]).sum())
            places = np.argwhere(share >= least[k])
            places = places[np.argsort(-share[tuple(places.T)], kind="stable")][:PUREST]
            if not len(places):
                continue
            those = embeddings[tuple(places.T)]
            for number in medoids(those, each, seed):
                found.append((k, source, *places[number].tolist()))
                kept.append(those[number])
    if not found:
        raise UserError(
            f"{slides[0].file.path}: in none of {len(slides)} slides does a class fill half of a base tile; check that "
            "the annotations are of these slides, and in pixels of full resolution"
        )
    table = np.array(found, np.int64)
    present = sorted(set(table[:, 0].tolist()))
    attrs = slides[0].file.attrs
    return Palette(
        names=tuple(names[k] for k in present),
        colours=tuple(colours[k] for k in present),
        counts=tuple(int(counts[k]) for k in present),
        slides=tuple(str(slide.file.attrs["slide_id"]) for slide in slides),
        encoder=str(attrs["encoder"]),
        kind=str(attrs["kind"]),
        tile_px=int(attrs["tile_px"]),
        prototypes=torch.from_numpy(np.stack(kept)),
        classes=np.searchsorted(present, table[:, 0]).astype(np.int64),
        sources=table[:, 1],
        places=table[:, 2:],
    )


def medoids(embeddings: Embeddings, count: int, seed: int) -> list[int]:
    """Rows of up to `count` of (n, d) that stand for all: of each group by k-means the one nearest to the middle."""
    flat = standardised(embeddings)
    if len(np.unique(flat, axis=0)) <= count:
        return sorted(np.unique(flat, axis=0, return_index=True)[1].tolist())
    centres, labels = grouped(flat, count, seed)
    rows = []
    for group in np.unique(labels).tolist():
        members = np.flatnonzero(labels == group)
        rows.append(int(members[np.square(flat[members] - centres[group]).sum(1).argmin()]))
    return sorted(rows)


def grouped(flat: Embeddings, count: int, seed: int) -> tuple[Embeddings, NDArray[np.int32]]:
    """k-means of (n, d): centres (count, d) and the group (n,) of each row; a group may be empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty group
        centres, labels = kmeans2(flat, count, minit="++", rng=np.random.default_rng(seed), missing="warn")
    return centres.astype(np.float32), labels


def clusters(files: Sequence[SlideFile], count: int, seed: int = 0) -> tuple[list[LabelledSlide], list[str]]:
    """Slides with `count` classes that k-means finds in their tissue, cluster-1 the largest; and their names.

    UserError for fewer different tiles than classes.
    """
    grids = [embeddings_of(file) for file in tqdm(files, desc="reading", unit="slide")]
    tissue = [~blank_tiles(grid) for grid in grids]
    flat = standardised(np.concatenate([grid[mask] for grid, mask in zip(grids, tissue, strict=True)]))
    rng = np.random.default_rng(seed)
    some = flat if len(flat) <= MOST_TILES else flat[rng.choice(len(flat), MOST_TILES, replace=False)]
    if len(np.unique(some, axis=0)) < count:
        raise UserError(f"--clusters: {count} found, but the slides have {len(some)} tiles of tissue; ask for fewer")
    centres, labels = grouped(some, count, seed)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    centres = centres[order]
    slides = []
    for file, grid, mask in zip(tqdm(files, desc="clusters", unit="slide"), grids, tissue, strict=True):
        shares = np.zeros((*grid.shape[:2], count), np.float32)
        here = standardised(grid[mask])
        nearest = (np.square(centres).sum(1)[None] - 2 * here @ centres.T).argmin(1)
        shares[(*np.argwhere(mask).T, nearest)] = 1
        slides.append(LabelledSlide(file, shares))
    return slides, [f"cluster-{k + 1}" for k in range(count)]


def colours_for(names: Sequence[str], known: Sequence[Colour | None]) -> list[Colour]:
    """The known colours, grey for background, and hues around the circle for the others."""
    found: list[Colour] = []
    for k, (name, colour) in enumerate(zip(names, known, strict=True)):
        red, green, blue = (round(255 * x) for x in colorsys.hsv_to_rgb(k / max(1, len(names)), 0.65, 0.85))
        found.append(colour or (GREY if name == BACKGROUND else (red, green, blue)))
    return found
