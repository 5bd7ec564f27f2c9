"""Patches of every scale: distances of generated from real ones (paper, Table 1), and how the two sets overlap.

Real patches of other slides are compared with the same reference: their distance is the lower limit for any method.

Shapes: n images, m of the reference.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.evaluation.experiments.context import SHOWN, EvalContext, Report, Sheet
from ldm.evaluation.experiments.image_sets import ImageSet, SampleCache, regions, slide_id
from ldm.evaluation.metrics.extractors import Described, Extractor, Loader, describe
from ldm.evaluation.metrics.frechet import frechet_distance
from ldm.evaluation.metrics.kid import Estimate, kid
from ldm.evaluation.metrics.set_comparison import frechet_error, pair_figures, unknown_pairs
from ldm.evaluation.tables import frechet_name, markdown, mmd_name, number
from ldm.images.contact_sheet import Pixels
from ldm.support.cache import content

REAL, GIVEN, DRAWN = "real, other slides", "given embeddings", "CDM"


def cache_of(
    setup: EvalContext, method: str, scale: str, slides: Sequence[SlideFile] | None, sampling: Mapping[str, Any]
) -> SampleCache:
    """The cache of the images of `sample`."""
    inputs = {} if slides is None else {slide_id(slide): content(slide.path) for slide in slides}
    weights = setup.model.cdm.weights if slides is None and setup.model.cdm else {}
    order = list(inputs)  # that of the images
    return SampleCache(
        setup.samples,
        f"{method} {scale}",
        setup.identity(weights, inputs, {**sampling, "scale": scale, "slides": order}),
    )


def sample(
    setup: EvalContext,
    method: str,
    scale: str,
    count: int,
    slides: Sequence[SlideFile] | None,
    sampling: Mapping[str, Any],
) -> list[Loader]:
    """Images of `scale`: image i under the embedding of region i of the `slides`, or under a context of the CDM.

    `sampling`: guidance, sampler, steps. Image i depends on seed + i and its region alone. `count` images, or one per
    region if there are fewer.
    """
    given = None if slides is None else regions(slides, scale, count)
    count = count if given is None else len(given)
    kept = cache_of(setup, method, scale, slides, sampling)

    def make(numbers: range) -> Pixels:
        grids = None if given is None else [given[i].embedding() for i in numbers]
        seed = setup.seed + numbers.start
        return setup.model.sample(scale, len(numbers), grids, seed=seed, batch_size=setup.batch, **sampling)

    kept.fill(count, make, batch=setup.batch, processes=setup.processes)
    return kept.loaders(count)


class Measured(NamedTuple):
    """A method at a scale in a space, against the reference."""

    method: str
    scale: str
    space: str
    preprocessing: str
    n: int
    m: int
    frechet: float
    kid: float
    """nan where features are unknown"""
    kid_error: float


class Overlap(NamedTuple):
    """How the images of a method overlap with the reference, of at most PAIRED images of each."""

    frechet_error: float
    figures: Mapping[str, Estimate]
    """PAIR_FIGURES"""

    def record(self) -> dict[str, float]:
        """Every figure, and its standard error."""
        found = {"frechet_error": self.frechet_error}
        for name, (value, error) in self.figures.items():
            found |= {name: value, f"{name}_error": error}
        return found


def overlap(images: Described, reference: Described) -> Overlap:
    """Of two sets of one space; nan where features are unknown."""
    if images.features is None or reference.features is None:
        return Overlap(np.nan, unknown_pairs())
    sets = images.features, reference.features
    return Overlap(frechet_error(*sets), pair_figures(*sets))


def measure(method: str, images: Described, reference: Described, together: int = 1) -> Measured:
    """Distances of two sets; `together` as for `kid`.

    UserError unless extractor, preprocessing and scale are the same.
    """
    a, b = images.statistics, reference.statistics
    distance = frechet_distance(a, b)
    value, error = np.nan, np.nan
    if images.features is not None and reference.features is not None:
        value, error = kid(images.features, reference.features, together=together)
    return Measured(method, a.scale, a.extractor, a.preprocessing, a.n, b.n, distance, value, error)


def methods_at(
    setup: EvalContext, scale: str, count: int, given: Sequence[SlideFile], sampling: Mapping[str, Any] | None
) -> dict[str, list[Loader]]:
    """Image sets by method: other real patches, and samples unless `sampling` is None. UserError without conditions."""
    methods: dict[str, list[Loader]] = {}
    places = regions(given, scale, count)
    if places:
        methods[REAL] = [region.image for region in places]
    if sampling is None:
        return methods
    if not places and setup.model.cdm is None:
        raise UserError(f"conditions: none at {scale}; give prepared slides with --real, or the model's --cdm")
    if places:
        methods[GIVEN] = sample(setup, GIVEN, scale, count, given, sampling)
    if setup.model.cdm is not None:
        methods[DRAWN] = sample(setup, DRAWN, scale, len(places) or count, None, sampling)
    return methods


def run(
    setup: EvalContext,
    real: ImageSet,
    given: Sequence[SlideFile],
    count: int,
    sampling: Mapping[str, Any] | None,
    generated: Mapping[str, ImageSet],
) -> Report:
    """Measure every scale of `real` against it: real patches of the slides `given`, samples under their embeddings and
    under the CDM (none if `sampling` is None), and images made elsewhere; `count` of each, or as many as there are.
    """
    cells, overlaps, sheet = [], [], Sheet()
    for scale in tqdm(real.scales, unit="scale", disable=not setup.processes.first):
        methods = methods_at(setup, scale, count, given, sampling)
        for space in setup.spaces:
            reference = real.described(scale, space, setup.processes, setup.batch)
            sets = {
                name: describe(images, space, scale, setup.processes, setup.batch) for name, images in methods.items()
            }
            sets |= {
                name: source.described(scale, space, setup.processes, setup.batch) for name, source in generated.items()
            }
            for method, found in sets.items():
                cells.append(measure(method, found, reference))
                overlaps.append(overlap(found, reference))
        columns = [images[:: max(1, len(images) // SHOWN)][:SHOWN] for images in methods.values()]
        if columns:
            sheet.rows.append([load() for images in zip(*columns, strict=True) for load in images])
            sheet.row_labels.append(scale)
            sheet.columns = list(methods) * len(columns[0])
    records = [cell._asdict() | more.record() for cell, more in zip(cells, overlaps, strict=True)]
    return Report(records, "\n".join(tables(records, setup.spaces)), sheet)


ABOUT = {
    "precision": "Precision: share of images that lie among the real ones (Kynkäänniemi et al. 2019, k = 3)",
    "recall": "Recall: share of the real images that lie among these; low when few kinds are made",
    "density": "Density: real images near an image, as a share of k = 5 (Naeem et al. 2020); it may exceed 1",
    "coverage": "Coverage: share of the real images with one of these nearby; low when few kinds are made",
    "authenticity": "Authenticity: share of images farther from the nearest real one than that is from another "
    "(Alaa et al. 2022); near 0 for copies of the reference",
}


def tables(records: Sequence[Mapping[str, Any]], spaces: Sequence[Extractor]) -> Iterator[str]:
    """For each space, a table of every figure, with a row per method and a column per scale."""
    scales = list(dict.fromkeys(record["scale"] for record in records))
    methods = list(dict.fromkeys(record["method"] for record in records))
    for space in spaces:
        at = {(record["method"], record["scale"]): record for record in records if record["space"] == space.id}

        def rows(key: str, digits: int | None = None, at: Any = at) -> list[list[str]]:
            return [[method, *(_cell(at[method, scale], key, digits) for scale in scales)] for method in methods]

        firsts = [at[methods[0], scale] for scale in scales]
        counts = ["images / of the reference", *(f"{first['n']} / {first['m']}" for first in firsts)]
        yield f"{frechet_name(space.id)} ({space.preprocessing}); biased: it falls as images are added\n"
        yield markdown(["", *scales], [counts, *rows("frechet", 2)])
        yield f"\nKID, {space.id}; unbiased, ± its standard error\n"
        yield markdown(["", *scales], rows("kid"))
        yield f"\n{mmd_name(space.id)}; Gaussian kernel, times 1000; unbiased, ± its standard error\n"
        yield markdown(["", *scales], rows("mmd"))
        for key, about in ABOUT.items():
            yield f"\n{about}, {space.id}\n"
            yield markdown(["", *scales], rows(key, 2))
        yield ""


def _cell(record: Mapping[str, Any], key: str, digits: int | None) -> str:
    """The figure and its standard error; both with two significant digits or more where `digits` is None."""
    value, error = record[key], record[f"{key}_error"]
    if np.isnan(value):
        return "-"
    if digits is None:
        return f"{value:.3g} ± {error:.2g}"
    return number(value, digits) if np.isnan(error) else f"{value:.{digits}f} ± {error:.{digits}f}"
