"""Memorisation: how near samples lie to the images that the model was trained on (see `ldm.evaluation.memorization`).

Sampled under the embeddings of training regions a model has every occasion to repeat them; under those of held-out
regions and of the CDM, it has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.evaluation.extractors import Extractor, Loader, features_of
from ldm.evaluation.memorization import Nearest, closest, judge, nearest
from ldm.evaluation.tables import markdown
from ldm.io import Pixels
from ldm.protocols.bench import SHOWN, Bench, Report, Sheet
from ldm.protocols.patches import DRAWN, GIVEN, sample
from ldm.protocols.sources import regions

HELD_OUT, TRAINED = "real, held out", "given training embeddings"


def run(
    bench: Bench,
    training: Sequence[SlideFile],
    held_out: Sequence[SlideFile],
    given: Sequence[SlideFile],
    scales: Sequence[str],
    count: int,
    sampling: Mapping[str, Any],
) -> Report:
    """Compare the distances of samples to the images of `training` with those of the `held_out` ones, at every scale.

    `count` samples, or as many as there are regions, under the embeddings of training slides, of the slides `given` and
    of the CDM. UserError for a scale without regions on either side.
    """
    records: list[dict[str, Any]] = []
    pairs: list[tuple[float, Pixels, Pixels, str]] = []
    for scale in tqdm(scales, unit="scale"):
        bank = [region.image for region in regions(training, scale)]
        sets = {HELD_OUT: [region.image for region in regions(held_out, scale)]}
        if not bank or not sets[HELD_OUT]:
            raise UserError(f"--scale: {scale} has {len(bank)} training and {len(sets[HELD_OUT])} held-out regions")
        for method, slides in ((TRAINED, training), (GIVEN, given)):
            sets[method] = sample(bench, method, scale, count, slides, sampling)
        if bench.model.cdm is not None:
            sets[DRAWN] = sample(bench, DRAWN, scale, len(sets[GIVEN]), None, sampling)
        for space in bench.spaces:
            near = {method: _nearest(bench, images, bank, space) for method, images in sets.items()}
            records += [
                {"method": method, "scale": scale, "space": space.id, "n": len(found.training), "training": len(bank)}
                | {"median distance": float(np.median(found.distance))}
                | judge(found.distance, near[HELD_OUT].distance)._asdict()
                for method, found in near.items()
            ]
        for method, i in closest({method: found for method, found in near.items() if method != HELD_OUT}, SHOWN):
            pairs.append(
                (near[method].distance[i], sets[method][i](), bank[near[method].training[i]](), f"{method}, {scale}")
            )
    return Report(records, "\n".join(tables(records, bench.spaces, scales)), _sheet(pairs))


def _nearest(bench: Bench, images: Sequence[Loader], bank: Sequence[Loader], space: Extractor) -> Nearest:
    x, training = (
        np.concatenate(list(features_of(each, space, bench.processes, bench.batch))) for each in (images, bank)
    )
    return nearest(x, training)


def _sheet(pairs: Sequence[tuple[float, Pixels, Pixels, str]]) -> Sheet:
    """The samples nearest to a training image, beside it."""
    first = sorted(pairs, key=lambda pair: pair[0])[:SHOWN]
    rows = [[image, training] for _, image, training, _ in first]
    return Sheet(rows, [f"{label}: {distance:.1f}" for distance, _, _, label in first], ["sample", "nearest"])


def tables(records: Sequence[Mapping[str, Any]], spaces: Sequence[Extractor], scales: Sequence[str]) -> list[str]:
    """For each space: rows methods, columns scales."""
    lines = []
    for space in spaces:
        at = {(record["method"], record["scale"]): record for record in records if record["space"] == space.id}
        methods = list(dict.fromkeys(method for method, _ in at))
        lines.append(
            f"Space of {space.id}. Probability that a sample lies nearer to the training images than a held-out one "
            "(0.5: as new images do); samples nearer than every held-out image, and how many of those to expect\n"
        )
        training = ["training images", *(str(at[methods[0], scale]["training"]) for scale in scales)]
        rows = [[method, *(_cell(at[method, scale]) for scale in scales)] for method in methods]
        lines.append(markdown(["", *scales], [training, *rows]) + "\n")
    return lines


def _cell(record: Mapping[str, Any]) -> str:
    if record["method"] == HELD_OUT:
        return f"{record['n']} images, median {record['median distance']:.1f}"
    return f"{record['nearer']:.2f}; {record['below']} ({record['expected']:.1f})"
