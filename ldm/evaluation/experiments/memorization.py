"""Memorisation: distances of samples to the training images (`ldm.evaluation.metrics.nearest`).

Conditioned on embeddings of training regions a model may reproduce them; conditioned on held-out regions or contexts of
the CDM it cannot. But an embedding describes its region, so samples resemble the region of their condition whether or
not it was trained on. So the region whose embedding a sample was given is left out of its neighbours (paper, section
9.3), and whether the sample is a copy of that region is asked apart: do samples come nearer to their own region when it
was in the training set?
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.evaluation.experiments.context import SHOWN, EvalContext, Report, Sheet
from ldm.evaluation.experiments.image_sets import regions, slide_id
from ldm.evaluation.experiments.patches import DRAWN, GIVEN, sample
from ldm.evaluation.metrics.extractors import Extractor, Loader, features_of
from ldm.evaluation.metrics.nearest import Nearest, closest, judge, nearest
from ldm.evaluation.tables import markdown
from ldm.images.contact_sheet import Pixels

Values = NDArray[np.float64]
HELD_OUT, TRAINED = "real, held out", "given training embeddings"
OWN = "trained on or not: to the region given"


def run(
    setup: EvalContext,
    training: Sequence[SlideFile],
    held_out: Sequence[SlideFile],
    given: Sequence[SlideFile],
    scales: Sequence[str],
    count: int,
    sampling: Mapping[str, Any],
) -> Report:
    """Compare the distances of samples to the images of `training` with those of the `held_out` ones, at every scale.

    `count` samples, or as many as there are regions, under the embeddings of training slides, of the slides `given` and
    of the CDM. UserError for a scale of too few regions on either side.
    """
    records: list[dict[str, Any]] = []
    pairs: dict[str, list[tuple[float, Pixels, Pixels]]] = {}
    for scale in tqdm(scales, unit="scale", disable=not setup.processes.first):
        everything = regions(training, scale)
        bank = [region.image for region in everything]
        sets = {HELD_OUT: [region.image for region in regions(held_out, scale)]}
        if len(bank) < 2 or not sets[HELD_OUT]:
            found = f"{len(bank)} training and {len(sets[HELD_OUT])} held-out regions"
            raise UserError(f"--scales: {scale} has {found}; expected at least 2 and 1")
        for method, slides in ((TRAINED, training), (GIVEN, given)):
            sets[method] = sample(setup, method, scale, count, slides, sampling)
        if setup.model.cdm is not None:
            sets[DRAWN] = sample(setup, DRAWN, scale, len(sets[GIVEN]), None, sampling)
        row_of = {(slide_id(region.slide), region.row): row for row, region in enumerate(everything)}
        own = [row_of[slide_id(region.slide), region.row] for region in regions(training, scale, count)]
        for space in setup.spaces:
            near = {
                method: _nearest(setup, images, bank, space, own if method == TRAINED else None)
                for method, images in sets.items()
            }
            distances = {method: (found.distance, near[HELD_OUT].distance) for method, found in near.items()}
            distances[OWN] = (
                _to_own(setup, sets[TRAINED], training, scale, space),
                _to_own(setup, sets[GIVEN], given, scale, space),
            )
            records += [
                {"method": method, "scale": scale, "space": space.id, "n": len(ours), "training": len(bank)}
                | {"median distance": float(np.median(ours))}
                | judge(ours, others)._asdict()
                for method, (ours, others) in distances.items()
            ]
        for method in list(sets)[1:]:
            for _, i in closest({method: near[method]}, SHOWN):
                distance, training_image = near[method].distance[i], bank[near[method].training[i]]()
                pairs.setdefault(method, []).append((distance, sets[method][i](), training_image))
    return Report(records, "\n".join(tables(records, setup.spaces, scales)), _sheet(pairs))


def _nearest(
    setup: EvalContext, images: Sequence[Loader], bank: Sequence[Loader], space: Extractor, own: Sequence[int] | None
) -> Nearest:
    return nearest(_features(setup, images, space), _features(setup, bank, space), own)


def _to_own(
    setup: EvalContext, samples: Sequence[Loader], slides: Sequence[SlideFile], scale: str, space: Extractor
) -> Values:
    """Distances (n,) of samples to the regions of `slides` whose embeddings they were given."""
    own = [region.image for region in regions(slides, scale, len(samples))]
    return np.linalg.norm(_features(setup, samples, space) - _features(setup, own, space), axis=1)


def _features(setup: EvalContext, images: Sequence[Loader], space: Extractor) -> Values:
    """(n, d)"""
    return np.concatenate(list(features_of(images, space, setup.processes, setup.batch))).astype(np.float64)


def _sheet(pairs: Mapping[str, list[tuple[float, Pixels, Pixels]]]) -> Sheet:
    """Contact sheet of the samples nearest to a training image, beside it, for each method."""
    rows = []
    for found in pairs.values():
        first = sorted(found, key=lambda pair: pair[0])[:SHOWN]
        rows.append([picture for _, image, training in first for picture in (image, training)])
    return Sheet(rows, list(pairs), ["sample", "nearest"] * (max(map(len, rows), default=0) // 2))


def tables(records: Sequence[Mapping[str, Any]], spaces: Sequence[Extractor], scales: Sequence[str]) -> list[str]:
    """For each space, a table with one row per method and one column per scale."""
    lines = []
    for space in spaces:
        at = {(record["method"], record["scale"]): record for record in records if record["space"] == space.id}
        methods = list(dict.fromkeys(method for method, _ in at))
        lines.append(
            f"Space of {space.id}. Probability that a sample lies nearer to the training images than a held-out one "
            "(0.5: as new images do), the region whose embedding it was given left out; samples nearer than every "
            "held-out image, and how many of those to expect. The last row compares samples under training embeddings "
            "with those under held-out ones, each by its distance to the region whose embedding it was given\n"
        )
        training = ["training images", *(str(at[methods[0], scale]["training"]) for scale in scales)]
        rows = [[method, *(_cell(at[method, scale]) for scale in scales)] for method in methods]
        lines.append(markdown(["", *scales], [training, *rows]) + "\n")
    return lines


def _cell(record: Mapping[str, Any]) -> str:
    if record["method"] == HELD_OUT:
        return f"{record['n']} images, median {record['median distance']:.1f}"
    return f"{record['nearer']:.2f}; {record['below']} ({record['expected']:.1f})"
