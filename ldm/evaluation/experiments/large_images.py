"""Large images: Frechet distance of whole images and of crops, and measures of their tiling (paper, Table 2, section
4.3).

CLIP-FID compares whole images, shrunk; Crop-FID compares crops of a patch's size. Neither detects visible tiling, so
constraint error, seam strength, gradient energy and power spectrum are reported as well.

A method turns a CanvasPlace into an image and declares what it depends on: add one to METHODS, or rows of your own with
`--generated NAME=FOLDER`.

Shapes: H, W pixels, d channels, R, C rows and columns of base tiles, f the factor between two scales, n images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ldm.evaluation.experiments.context import SHOWN, Embedder, EvalContext, Method, Report, Sheet
from ldm.evaluation.experiments.given_images import large_images_of
from ldm.evaluation.experiments.image_sets import SampleCache, picture_loader
from ldm.evaluation.experiments.patches import measure
from ldm.evaluation.metrics.extractors import Described, Extractor, Loader, describe
from ldm.evaluation.metrics.seams import gradient_energy, radial_power_spectrum, seam_strength, spectral_distance
from ldm.evaluation.tables import frechet_name, markdown, number
from ldm.images.contact_sheet import Pixels, save_png
from ldm.images.pictures import read_picture
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.conditions import TokenMap, image_tokens
from ldm.multiscale.constraint import Shrink
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS, Settings
from ldm.multiscale.super_resolution import magnification
from ldm.pipeline import ZoomLDM

RINGS = 32
"""of the power spectrum"""


class CanvasPlace(NamedTuple):
    """A place to generate an image for."""

    number: int
    tokens: Tensor
    """(d, R, C): the embeddings of the base tiles of the real image"""
    height: int
    width: int
    scales: Sequence[str]
    """finest and coarser ones"""
    batch: int = 16
    """tiles at a time"""


class Generated(NamedTuple):
    """An image (H, W, 3), and the coarse canvas (H / f, W / f, 3) that constrained it, if any."""

    image: Pixels
    coarse: Pixels | None = None


class Paint(Method, Protocol):
    def __call__(self, model: ZoomLDM, place: CanvasPlace, /) -> Generated:
        """Generate an image; its noise depends on the place's number alone."""


@dataclass(frozen=True)
class JointMethod:
    """Joint sampling under the place's embeddings."""

    sampling: Settings
    weights = MappingProxyType[str, str]({})
    embeds = True

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def __call__(self, model: ZoomLDM, place: CanvasPlace) -> Generated:
        sampling = Joint(
            model=model,
            scales=place.scales,
            height=place.height,
            width=place.width,
            conditions=TokenMap(model, place.tokens),
            settings=self.sampling,
            seed=place.number,
            batch_size=place.batch,
        )
        for _ in sampling.run():
            pass
        image = to_uint8(torch.cat(list(sampling.bands()), dim=1)[None])[0]
        shrink = sampling.chain.factor(sampling.scales[1])
        coarse = to_uint8(sampling.image(sampling.scales[1])[None])[0]
        return Generated(image, coarse[: place.height // shrink, : place.width // shrink])


METHODS: dict[str, Paint] = {
    "independent": JointMethod(PRESETS["independent"]),
    "interpolated": JointMethod(PRESETS["interpolated"]),
    "ours": JointMethod(PRESETS["default"]),
    "paper": JointMethod(replace(PRESETS["paper"], seam="none")),
}
"""two baselines without a coarser canvas; ours; the paper's Algorithm 2, descending, without seam repair"""
REAL = "real, other places"
DIGITS = {"constraint error": 3, "seam strength": 3, "CPU s": 0}
"""digits of a column, where not 2"""


def constraint_error(image: Pixels, coarse: Pixels) -> float:
    """Root mean square of A x - y, both in [-1, 1]; A takes means."""
    shrink = Shrink(len(image) // len(coarse))
    return (shrink(from_uint8(image[None])) - from_uint8(coarse[None])).square().mean().sqrt().item()


def figures(image: Pixels, coarse: Pixels | None, real: Pixels | None, tile_px: int) -> dict[str, float]:
    """Measures of one image against the real one of its place; nan where unknown."""
    found = dict.fromkeys(("constraint error", "seam strength", "gradient energy", "spectral distance"), np.nan)
    found["seam strength"] = seam_strength(image, tile_px)
    if coarse is not None:
        found["constraint error"] = constraint_error(image, coarse)
    if real is not None:
        found["gradient energy"] = gradient_energy(image) / gradient_energy(real)
        found["spectral distance"] = spectral_distance(*(radial_power_spectrum(x, RINGS) for x in (image, real)))
    return found


def crops(images: Sequence[Loader], side: int) -> list[Loader]:
    """Complete crops of `side` pixels of images of one size, row by row: loaders that keep one image in memory."""
    kept: dict[int, Pixels] = {}

    def load(number: int, row: int, col: int) -> Pixels:
        if number not in kept:
            kept.clear()
            kept[number] = images[number]()
        return kept[number][row : row + side, col : col + side]

    height, width = images[0]().shape[:2]
    corners = [(row, col) for row in range(0, height - side + 1, side) for col in range(0, width - side + 1, side)]
    return [partial(load, number, row, col) for number in range(len(images)) for row, col in corners]


@dataclass
class Images:
    """A method's images, the coarse canvases that constrained them, the real images of their places: where known."""

    images: list[Loader]
    coarse: list[Loader] | None = None
    real: list[Loader] | None = None
    seconds: float = np.nan
    """of one core for an image"""

    def means(self, tile_px: int) -> dict[str, float]:
        """Mean of each measure."""
        coarse, real = ([None] * len(self.images) if x is None else x for x in (self.coarse, self.real))
        rows = [
            figures(image(), held and held(), true and true(), tile_px)
            for image, held, true in zip(self.images, coarse, real, strict=True)
        ]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"CPU s": self.seconds}


def cache_of(
    setup: EvalContext, name: str, method: Paint, given: Sequence[Path], scales: Sequence[str], embed: Embedder
) -> SampleCache:
    """The cache of a method's images."""
    return SampleCache(setup.samples, f"large {name}", setup.identity_of(method, given, scales, embed))


def generate(
    setup: EvalContext, name: str, method: Paint, given: Sequence[Path], scales: Sequence[str], embed: Embedder
) -> Images:
    """Images for the places of the real images `given`; cached ones are not generated again."""
    kept = cache_of(setup, name, method, given, scales, embed)
    held = [kept.path(i).with_name(f"{i:05d}.coarse.png") for i in range(len(given))]

    def make(numbers: range) -> Iterator[Pixels]:
        for i in numbers:
            real = read_picture(given[i]).pixels
            tokens = image_tokens(real, embed, setup.model.tile_px)
            place = CanvasPlace(setup.seed + i, tokens, real.shape[0], real.shape[1], scales, setup.batch)
            image, coarse = method(setup.model, place)
            if coarse is not None:
                save_png(held[i], coarse)
            yield image

    kept.fill(len(given), make, processes=setup.processes)
    coarse = [picture_loader(path) for path in held] if all(path.is_file() for path in held) else None
    return Images(kept.loaders(len(given)), coarse, [picture_loader(path) for path in given], kept.seconds)


class Reference:
    """Statistics of real images, whole and in crops, each in its own feature spaces."""

    def __init__(self, setup: EvalContext, images: Sequence[Loader], crop_spaces: Sequence[Extractor]) -> None:
        self._setup = setup
        self._spaces = [("whole", space) for space in setup.spaces] + [("crops", space) for space in crop_spaces]
        self._crops = len(crops(images[:1], setup.model.tile_px))
        self._described = [self._describe(what, images, space) for what, space in self._spaces]

    def _describe(self, what: str, images: Sequence[Loader], space: Extractor) -> Described:
        pieces = crops(images, self._setup.model.tile_px) if what == "crops" else images
        return describe(pieces, space, "", self._setup.processes, self._setup.batch)

    def distances(self, images: Sequence[Loader]) -> dict[str, float]:
        """Frechet distance and KID in every space, and the number of images."""
        found: dict[str, float] = {}
        for (what, space), real in zip(self._spaces, self._described, strict=True):
            together = self._crops if what == "crops" else 1
            cell = measure("", self._describe(what, images, space), real, together)
            found |= {frechet_name(space.id, what): cell.frechet, f"KID {what}, {space.id}": cell.kid}
            found |= {f"KID error {what}, {space.id}": cell.kid_error, f"n {what}": cell.n, f"m {what}": cell.m}
        return found


def run(
    setup: EvalContext,
    real: tuple[Sequence[Path], Sequence[Path]],
    scales: Sequence[str],
    methods: Mapping[str, Paint],
    generated: Mapping[str, Path],
    crop_spaces: Sequence[Extractor],
    embed: Embedder,
) -> Report:
    """Generate the places of the second half of the `real` images by every method; compare all with the first half.

    `generated` are folders of images made elsewhere, of the same size; `embed` gives the embeddings of real tiles.
    UserError for fewer than two scales, and for given images of another size.
    """
    magnification(setup.model, scales)
    reference, given = ([picture_loader(path) for path in half] for half in real)
    height, width = given[0]().shape[:2]
    folders = {name: Images(large_images_of(folder, (height, width))) for name, folder in generated.items()}
    sets = {REAL: Images(given, real=given)}
    for name, method in methods.items():
        sets[name] = generate(setup, name, method, real[1], scales, embed)
    sets |= folders
    against = Reference(setup, reference, crop_spaces)
    records = [
        {"method": name, **against.distances(images.images), **images.means(setup.model.tile_px)}
        for name, images in sets.items()
    ]
    shown = [[load() for load in images.images[:SHOWN]] for images in sets.values()]
    sheet = Sheet(shown, list(sets), [""] * max(len(row) for row in shown))
    return Report(records, table(records), sheet)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Table with one row per method and one column per measure; numbers of images and crops below."""
    columns = [key for key in records[0] if not key.startswith(("method", "KID error", "n ", "m "))]
    rows = []
    for record in records:
        cells = [number(record[key], DIGITS.get(key, 2)) for key in columns]
        for i, key in enumerate(columns):
            if key.startswith("KID"):
                cells[i] = f"{record[key]:.3g} ± {record[key.replace('KID', 'KID error', 1)]:.2g}"
        rows.append([record["method"], *cells])
    images, crops_of = ([f"{records[0][f'{side} {what}']} {what}" for side in "nm"] for what in ("whole", "crops"))
    note = f"{images[0]}, {crops_of[0]} of each method; {images[1]}, {crops_of[1]} of the reference"
    text = f"{markdown(['', *columns], rows)}\n\n{note}. FD is biased: it falls as images are added. "
    return f"{text}KID ± its standard error, which counts the crops of an image as one.\n"
