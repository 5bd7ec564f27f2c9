"""A palette: for each class of tissue or land, embeddings of real tiles that show it, its prototypes.

    palette = load_palette("palette.safetensors")
    tokens = palette.tokens(shares, seed=0)          shares (R, C, K) of its K classes in each base tile -> (d, R, C)

Stain and scanner differ from slide to slide, and so do embeddings of one class. Therefore the prototypes of an image
come from one slide, chosen by the seed; a class that this slide lacks is taken from the slide that is most alike. Each
tile draws its prototype of each class at random, so that the texture varies, and mixes them by the classes' shares.

Shapes: n prototypes, d channels, K classes, R, C rows and columns of base tiles.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.checkpoint import load_metadata, load_weights, save_weights
from ldm.errors import UserError
from ldm.images.geojson import Colour

FOR_SLIDE, FOR_TILES = 11, 12
"""purposes of random numbers: keys of their generators beside the seed"""
BACKGROUND = "Background"
"""the class of what no region covers, where a palette has it"""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Prototypes, their classes and slides."""

    names: tuple[str, ...]
    """of the K classes"""
    colours: tuple[Colour, ...]
    counts: tuple[int, ...]
    """tiles of each class that there were"""
    slides: tuple[str, ...]
    encoder: str
    """id of the encoder that made the embeddings"""
    kind: str
    """of the ladder"""
    tile_px: int
    prototypes: Tensor
    """(n, d)"""
    classes: NDArray[np.int64]
    """(n,) positions in `names`"""
    sources: NDArray[np.int64]
    """(n,) positions in `slides`"""
    places: NDArray[np.int64]
    """(n, 2) row and column of the tile on its slide"""

    def index(self, name: str) -> int:
        """Position of the class `name`, in any capitals. UserError for one that is not there."""
        if name in self.names:
            return self.names.index(name)
        alike = [k for k, known in enumerate(self.names) if known.casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
        raise UserError(
            f"class {name[:60]!r} is not in the palette, which has {', '.join(self.names)}; rename it, or make a "
            f"palette that has it: zoomldm palette --help"
        )

    def slide(self, wanted: Sequence[int], seed: int) -> int:
        """The slide of an image: by the seed, one of those with most of the classes `wanted`."""
        held = [len(set(self.classes[self.sources == s].tolist()) & set(wanted)) for s in range(len(self.slides))]
        best = [s for s, count in enumerate(held) if count == max(held)]
        return best[int(np.random.default_rng((seed, FOR_SLIDE)).integers(len(best)))]

    def of(self, k: int, slide: int) -> NDArray[np.int64]:
        """Prototypes of class `k` of a slide or, where it has none, of the slide most alike that has some."""
        having = sorted(set(self.sources[self.classes == k].tolist()))
        source = slide if slide in having else max(having, key=lambda other: self.likeness(slide, other))
        return np.flatnonzero((self.classes == k) & (self.sources == source))

    def likeness(self, one: int, other: int) -> float:
        """Mean cosine of two slides' prototypes over the classes that both have; -1 when there is none."""
        means = []
        for k in range(len(self.names)):
            rows = [np.flatnonzero((self.classes == k) & (self.sources == s)) for s in (one, other)]
            if all(len(found) for found in rows):
                a, b = (self.prototypes[found].float().mean(0) for found in rows)
                means.append(torch.cosine_similarity(a, b, dim=0).item())
        return float(np.mean(means)) if means else -1.0

    def tokens(self, shares: NDArray[np.float32], seed: int) -> Tensor:
        """Embeddings (d, R, C) of base tiles with the `shares` (R, C, K) of its classes."""
        rows, cols, _ = shares.shape
        wanted = np.flatnonzero(shares.any((0, 1))).tolist()
        slide = self.slide(wanted, seed)
        mixed = torch.zeros(rows, cols, self.prototypes.shape[1])
        for k in wanted:
            found = self.of(k, slide)
            picks = [
                np.random.default_rng((seed, FOR_TILES, k, row)).integers(len(found), size=cols) for row in range(rows)
            ]
            drawn = self.prototypes[torch.from_numpy(found[np.stack(picks)])].float()
            mixed += torch.from_numpy(shares[..., k, None]) * drawn
        return mixed.permute(2, 0, 1)


def save_palette(path: str | Path, palette: Palette) -> None:
    """Write a palette as safetensors, with its sha256 beside it."""
    about = {
        "names": palette.names,
        "colours": palette.colours,
        "counts": palette.counts,
        "slides": palette.slides,
        "encoder": palette.encoder,
        "kind": palette.kind,
        "tile_px": palette.tile_px,
    }
    tensors = {
        "prototypes": palette.prototypes.half(),
        **{name: torch.from_numpy(getattr(palette, name)) for name in ("classes", "sources", "places")},
    }
    save_weights(path, tensors, {"palette": json.dumps(about)})


def load_palette(path: str | Path) -> Palette:
    """UserError when it is missing, damaged or no palette."""
    if not Path(path).is_file():
        raise UserError(f"palette: {path} does not exist; make one with zoomldm palette")
    tensors = load_weights(path)
    try:
        about: dict[str, Any] = json.loads(load_metadata(path)["palette"])
        arrays = {name: tensors[name].numpy().astype(np.int64) for name in ("classes", "sources", "places")}
        palette = Palette(
            names=tuple(map(str, about["names"])),
            colours=tuple((int(r), int(g), int(b)) for r, g, b in about["colours"]),
            counts=tuple(map(int, about["counts"])),
            slides=tuple(map(str, about["slides"])),
            encoder=str(about["encoder"]),
            kind=str(about["kind"]),
            tile_px=int(about["tile_px"]),
            prototypes=tensors["prototypes"].float(),
            **arrays,
        )
        _check(palette)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"palette: {path} is no palette; make one with zoomldm palette") from error
    return palette


def _check(palette: Palette) -> None:
    """ValueError where the parts of a palette do not fit together."""
    n, k = len(palette.prototypes), len(palette.names)
    fits = (
        palette.prototypes.ndim == 2
        and palette.classes.shape == palette.sources.shape == (n,)
        and palette.places.shape == (n, 2)
        and len(palette.colours) == len(palette.counts) == k == len(set(palette.names))
        and set(palette.classes.tolist()) == set(range(k))
        and set(palette.sources.tolist()) <= set(range(len(palette.slides)))
        and k > 0
    )
    if not fits:
        raise ValueError("its parts do not fit together")


def check_palette(palette: Palette, path: str | Path, encoder: str, tile_px: int, kind: str) -> None:
    """UserError for a palette of another encoder, patch size or ladder than a model's."""
    expected = {"encoder": encoder, "tile_px": tile_px, "kind": kind}
    for key, value in expected.items():
        found = getattr(palette, key)
        if found != value and not (key == "encoder" and str(found).startswith(f"{value}-")):
            raise UserError(
                f"palette: {path}: {key} is {found}, but the model's is {value}; make one of slides prepared for this "
                f"model: zoomldm palette --cohort FOLDER"
            )
