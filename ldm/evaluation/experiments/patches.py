"""Patches of every scale: Frechet distance and KID of generated against real ones (paper, Table 1).

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
from ldm.evaluation.metrics.kid import kid
from ldm.evaluation.tables import frechet_name, markdown, number
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


def measure(method: str, images: Described, reference: Described) -> Measured:
    """Distances of two sets. UserError unless extractor, preprocessing and scale are the same."""
    a, b = images.statistics, reference.statistics
    distance = frechet_distance(a, b)
    value, error = np.nan, np.nan
    if images.features is not None and reference.features is not None:
        value, error = kid(images.features, reference.features)
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
    cells, sheet = [], Sheet()
    for scale in tqdm(real.scales, unit="scale", disable=not setup.processes.first):
        methods = methods_at(setup, scale, count, given, sampling)
        for space in setup.spaces:
            reference = real.described(scale, space, setup.processes, setup.batch)
            for method, images in methods.items():
                found = describe(images, space, scale, setup.processes, setup.batch)
                cells.append(measure(method, found, reference))
            for method, source in generated.items():
                found = source.described(scale, space, setup.processes, setup.batch)
                cells.append(measure(method, found, reference))
        columns = [images[:: max(1, len(images) // SHOWN)][:SHOWN] for images in methods.values()]
        if columns:
            sheet.rows.append([load() for images in zip(*columns, strict=True) for load in images])
            sheet.row_labels.append(scale)
            sheet.columns = list(methods) * len(columns[0])
    return Report([cell._asdict() for cell in cells], "\n".join(tables(cells, setup.spaces)), sheet)


def tables(cells: Sequence[Measured], spaces: Sequence[Extractor]) -> Iterator[str]:
    """For each space, a table of Frechet distances and one of KID, with a row per method and a column per scale."""
    scales = list(dict.fromkeys(cell.scale for cell in cells))
    methods = list(dict.fromkeys(cell.method for cell in cells))
    for space in spaces:
        at = {(cell.method, cell.scale): cell for cell in cells if cell.space == space.id}
        counts = [f"{at[methods[0], scale].n} / {at[methods[0], scale].m}" for scale in scales]
        yield f"{frechet_name(space.id)} ({space.preprocessing}); biased: it falls as images are added\n"
        rows = [[method, *(number(at[method, scale].frechet, 2) for scale in scales)] for method in methods]
        yield markdown(["", *scales], [["images / of the reference", *counts], *rows])
        yield f"\nKID, {space.id}; unbiased, ± its standard error\n"
        rows = [[method, *(_kid(at[method, scale]) for scale in scales)] for method in methods]
        yield markdown(["", *scales], rows) + "\n"


def _kid(cell: Measured) -> str:
    return "-" if np.isnan(cell.kid) else f"{cell.kid:.3g} ± {cell.kid_error:.2g}"
